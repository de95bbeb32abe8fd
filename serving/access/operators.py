"""Who may read the data directory may administer it: the credential of the command line.

The commands that talk to the control port sign themselves a token with the key of the data directory,
for half a minute and for role admin. Its issuer has a name of its own, believed by the control port
only and always, so that this works beside external issuers and `serving token` can still be off.
"""

import getpass
from pathlib import Path
from typing import Final

from serving.access.issuer import LocalIssuer
from serving.access.keyrings import TrustedIssuer
from serving.core.clock import Clock
from serving.core.principals import Role
from serving.settings import AccessSettings

ISSUER: Final = "urn:serving:operator"
AUDIENCE: Final = "urn:serving:control"
LIFETIME_S: Final = 30.0


def operator_token(keys_dir: Path, clock: Clock, *, role: Role = Role.ADMIN) -> str:
    """A token for whoever runs this process, in one role at a time. Raises StartFailed."""
    return _issuer(keys_dir, clock).issue(subject=operator_name(), roles=[role], ttl_s=LIFETIME_S)


def trusted_operators(keys_dir: Path, clock: Clock) -> TrustedIssuer:
    """What the control port verifies such tokens with. Raises StartFailed."""
    return _issuer(keys_dir, clock).trusted


def operator_name() -> str:
    """What whoever runs this process is called in the audit trail."""
    try:
        return f"local:{getpass.getuser()}"
    except (KeyError, OSError):
        return "local:unknown"


def _issuer(keys_dir: Path, clock: Clock) -> LocalIssuer:
    settings = AccessSettings(
        issuer=ISSUER, audience=AUDIENCE, max_token_lifetime_s=LIFETIME_S, leeway_s=LIFETIME_S
    )
    return LocalIssuer.open(keys_dir, settings, clock)
