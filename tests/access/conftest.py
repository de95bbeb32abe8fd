"""An issuer in a fresh folder, a verifier of its tokens, and a forge for tokens nobody would issue."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from serving.access.claims import CredentialRefused
from serving.access.issuer import LocalIssuer
from serving.access.keyrings import TrustedIssuer
from serving.access.tokens import Authenticator
from serving.access.verification import thumbprint
from serving.core.clock import ManualClock
from serving.core.principals import Principal
from serving.errors import Unauthenticated
from serving.settings import AccessSettings

Part = dict[str, Any] | str | bytes
Forge = Callable[..., bytes]
Accept = Callable[[bytes], Principal | None]


@pytest.fixture
def settings() -> AccessSettings:
    return AccessSettings()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def issuer(tmp_path: Path, settings: AccessSettings, clock: ManualClock) -> LocalIssuer:
    return LocalIssuer.open(tmp_path / "keys", settings, clock)


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def authenticator(key: Ed25519PrivateKey, settings: AccessSettings) -> Authenticator:
    """Trusts `key`, which signs what `forge` makes."""
    return Authenticator([trusting(key, settings)], settings)


@pytest.fixture
def now_s(clock: ManualClock) -> int:
    return clock.wall_ns() // 1_000_000_000


@pytest.fixture
def claims(settings: AccessSettings, now_s: int) -> dict[str, Any]:
    """What an acceptable token says."""
    return {
        "iss": settings.issuer,
        "aud": settings.audience,
        "sub": "alice",
        "iat": now_s,
        "exp": now_s + 600,
        "jti": "1",
        "roles": ["caller"],
        "models": None,
    }


@pytest.fixture
def forge(key: Ed25519PrivateKey, claims: dict[str, Any]) -> Forge:
    """Makes an `Authorization` value: correctly signed, whatever header and payload say.

    payload: claims that replace the acceptable ones (`REMOVED` leaves one out), or raw JSON text.
    header: members that replace the acceptable ones (`REMOVED` leaves one out), or raw JSON text.
    """
    good_header = {"alg": "EdDSA", "typ": "at+jwt", "kid": thumbprint(key.public_key())}

    def make(payload: Part = b"", header: Part = b"", *, sign: bool = True) -> bytes:
        parts = [_part(good_header, header), _part(claims, payload)]
        signed = b".".join(base64url(part) for part in parts)
        signature = key.sign(signed) if sign else b""
        return b"Bearer " + signed + b"." + base64url(signature)

    return make


@pytest.fixture
def accept(authenticator: Authenticator, now_s: int) -> Accept:
    """The principal behind a credential, or None when it is refused with a 401."""

    def decide(authorization: bytes) -> Principal | None:
        try:
            return authenticator.authenticate(authorization, now_s)
        except Unauthenticated:
            return None
        except CredentialRefused as error:
            raise AssertionError("an internal error left the package") from error

    return decide


def trusting(key: Ed25519PrivateKey, settings: AccessSettings) -> TrustedIssuer:
    """The local issuer as its verifiers see it, when `key` is what it signs with."""
    return LocalIssuer(key, settings, ManualClock()).trusted


def base64url(value: bytes) -> bytes:
    return base64.urlsafe_b64encode(value).rstrip(b"=")


def _part(good: dict[str, Any], changes: Part) -> bytes:
    if isinstance(changes, str):
        return changes.encode()
    if isinstance(changes, bytes):
        return changes or json.dumps(good).encode()
    changed = good | changes
    kept = {name: value for name, value in changed.items() if value is not REMOVED}
    return json.dumps(kept).encode()


class _Removed:
    """A claim, or a member of a header or a key, to leave out."""

    def __repr__(self) -> str:
        return "REMOVED"


REMOVED: Any = _Removed()
