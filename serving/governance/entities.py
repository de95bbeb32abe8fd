"""What governance keeps, as values, and what may be asked of it.

Times are wall nanoseconds since the epoch; 0 means that there is none.
"""

from enum import StrEnum
from typing import Annotated, Any, Final, Literal

import msgspec

from serving.governance.policies import EvidenceKind

MAX_TEXT: Final = 4000

Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Reason = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TEXT)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=63)]
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class RequestState(StrEnum):
    """Where a request is. All but the first are ends; `approved` can still be withdrawn."""

    OPEN = "open"
    APPROVED = "approved"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"


class ApprovalRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What people are asked to agree to. digest: the artifact that it is about, and no other."""

    id: str
    kind: str
    model: str
    version: str
    digest: str
    tier: str
    author: str
    requester: str
    requester_owner: str
    reason: str
    state: RequestState
    created_ns: int
    expires_ns: int
    closed_ns: int = 0


class DecisionView(msgspec.Struct, frozen=True, kw_only=True):
    """One person's word. valid: whether its signature holds; `why` when it does not."""

    approver: str
    kind: str
    decision: str
    roles: tuple[str, ...]
    reason: str
    at_ns: int
    expires_ns: int
    valid: bool
    why: str = ""


class Comment(msgspec.Struct, frozen=True, kw_only=True):
    author: str
    text: str
    at_ns: int


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of evidence: what is signed. content: a report, as JSON."""

    id: str
    kind: EvidenceKind
    model: str
    version: str
    digest: str
    outcome: Literal["pass", "fail"]
    summary: str
    content: dict[str, Any]
    recorder: str
    at_ns: int


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where a version stands with what its tier demands. missing: in words, empty when satisfied.

    approvers: whose word counts. expires_ns: when it is no longer enough. override: rests on one.
    """

    tier: str
    satisfied: bool
    missing: tuple[str, ...]
    approvers: tuple[str, ...]
    expires_ns: int = 0
    override: bool = False


class RequestView(msgspec.Struct, frozen=True, kw_only=True):
    """A request with everything that belongs to it."""

    request: ApprovalRequest
    decisions: tuple[DecisionView, ...]
    comments: tuple[Comment, ...]
    standing: Standing


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Anything that is asked for."""


class RequestOrder(Order, frozen=True, kw_only=True):
    """A request to be opened. digest: refused when the version has another one; may be left out."""

    kind: Literal["serve", "retire"] = "serve"
    model: Name
    version: Name
    digest: Digest | None = None
    reason: Reason


class OverrideOrder(Order, frozen=True, kw_only=True):
    """An emergency: to serve without the approvals, for hours."""

    model: Name
    version: Name
    digest: Digest
    reason: Reason


class DecisionOrder(Order, frozen=True, kw_only=True):
    """One's word on a request. digest: of what the decider looked at."""

    decision: Literal["approve", "reject"]
    digest: Digest
    reason: Reason


class ReasonOrder(Order, frozen=True, kw_only=True):
    reason: Reason


class CommentOrder(Order, frozen=True, kw_only=True):
    text: Reason


class EvidenceOrder(Order, frozen=True, kw_only=True):
    """Evidence to be recorded."""

    kind: Literal["validation", "bias", "security"]
    model: Name
    version: Name
    digest: Digest
    outcome: Literal["pass", "fail"]
    summary: Text = ""
    content: dict[str, Any] = {}


class RequestFilter(Order, frozen=True, kw_only=True):
    """Which requests are listed, newest first. Empty: all."""

    model: str = ""
    version: str = ""
    state: RequestState | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 100
