"""Approvals as signed statements: who decided what about which digest, and until when.

A statement is signed when its approver has been authenticated and found entitled. From then on it
speaks for itself: a database row that was edited makes no approval, and none can be moved to another
version, because name, version, digest and author are part of what was signed.
"""

from typing import Final, Literal, Self

import msgspec

from serving.errors import ReleaseRefused
from serving.trust.signatures import Envelope, SigningKey

APPROVAL_TYPE: Final = "application/vnd.serving.approval+json"
SERVE: Final = "serve"
"""The kind of approval that lets a version serve."""
OVERRIDE: Final = "override"
"""The kind that lets it serve without, for hours, and the tier of a manifest that rests on one."""

Decision = Literal["approved", "rejected"]


class Approval(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One person's decision.

    kind: what was asked for, `serve` where a version is to serve. digest: of the whole artifact.
    approver_owner: who answers for the API key that was used, empty for a person's own credential.
    roles: those of the approver at that time. author: of the version. Times are wall nanoseconds;
    expires_ns 0: never. request: the identifier of the request that was decided.
    """

    kind: str
    model: str
    version: str
    digest: str
    approver: str
    roles: tuple[str, ...]
    author: str
    decision: Decision
    reason: str
    issued_ns: int
    expires_ns: int = 0
    request: str = ""
    approver_owner: str = ""

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Raises ReleaseRefused for what is no approval."""
        try:
            return msgspec.json.decode(payload, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ReleaseRefused(f"an approval cannot be read: {error}") from error

    @property
    def identities(self) -> frozenset[str]:
        """Everybody whose act this was."""
        return frozenset({self.approver, self.approver_owner} - {""})

    def sign(self, key: SigningKey) -> Envelope:
        return key.sign(APPROVAL_TYPE, msgspec.json.encode(self))
