"""What the control process decides about access and every gateway worker knows: one frozen value.

API keys (their digests, never the keys), rules, disabled principals and revoked credentials, with
who made each and when. It is kept by `access.store`, changed by `control.access`, published by epoch
like the routing snapshot, and put in force by `access.live`.
"""

from enum import StrEnum
from typing import Final

import msgspec

from serving.access.patterns import ANY
from serving.access.revocation import Revocations
from serving.core.principals import Action, Role

FORMAT: Final = 1
"""Of the file and of what is published; another one is refused, never guessed at."""


class Effect(StrEnum):
    """What a rule does; deny wins."""

    ALLOW = "allow"
    DENY = "deny"


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """Gives a role to somebody on something, or forbids an action.

    subject, subject_tenant: patterns of who. model: pattern of what. model_tenant: pattern of the
    tenant that owns it; None means the subject's own in a grant, and all in a denial. role: what a
    grant gives. action: what a denial forbids; None means everything. made_by: a grant never holds
    for the one who made it.
    """

    rule: str
    effect: Effect
    subject: str = ANY
    subject_tenant: str = ANY
    model: str = ANY
    model_tenant: str | None = None
    role: Role | None = None
    action: Action | None = None
    made_by: str = ""
    made_s: int = 0
    comment: str = ""


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """One API key as we know it. Times are wall time in whole seconds, 0 for never.

    key: its public identifier. digest: keyed hash of the whole key. models: patterns it is limited
    to. owner: who answers for it. successor: the key that replaces it.
    """

    key: str
    digest: str
    subject: str
    roles: tuple[Role, ...]
    models: tuple[str, ...] | None = None
    tenant: str = ""
    owner: str = ""
    made_s: int = 0
    expires_s: int = 0
    revoked_s: int = 0
    successor: str = ""

    @property
    def ends_s(self) -> int:
        """From when on it is worth nothing."""
        return min(self.expires_s, self.revoked_s or self.expires_s)


class RevocationKind(StrEnum):
    """What a revocation names: one token, somebody altogether, or what was issued until then."""

    TOKEN = "token"  # noqa: S105 - a kind, not a password
    SUBJECT = "subject"
    ISSUED_BEFORE = "issued_before"


class Revocation(msgspec.Struct, frozen=True, kw_only=True):
    """One revocation. value: a token's `jti`, or a subject; `*` is everybody, for `issued_before`.

    since_s: what was issued until then is revoked, for that kind.
    """

    kind: RevocationKind
    value: str
    since_s: int = 0
    made_by: str = ""
    made_s: int = 0
    comment: str = ""


class AccessState(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. epoch: grows with every change; 0 is what there is before the first."""

    format: int = FORMAT
    epoch: int = 0
    keys: tuple[ApiKey, ...] = ()
    rules: tuple[Rule, ...] = ()
    revocations: tuple[Revocation, ...] = ()

    def disabled(self) -> frozenset[str]:
        """Subjects that may do nothing, whatever they show."""
        return frozenset(r.value for r in self.revocations if r.kind is RevocationKind.SUBJECT)

    def revoked(self) -> Revocations:
        """The same for whoever verifies credentials; revoked keys and keys of the disabled too."""
        disabled = self.disabled()
        token_ids = {r.value for r in self.revocations if r.kind is RevocationKind.TOKEN}
        token_ids |= {key.key for key in self.keys if key.revoked_s or key.owner in disabled}
        before = {
            r.value: r.since_s for r in self.revocations if r.kind is RevocationKind.ISSUED_BEFORE
        }
        return Revocations(
            subjects=disabled,
            token_ids=frozenset(token_ids),
            all_issued_before_s=before.pop(ANY, 0),
            issued_before_s=before,
        )
