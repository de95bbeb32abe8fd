"""What administrators ask of the control port, and what it answers; values only.

An order has the fields that its sender decides and no others: who made a thing, when, and under
which identifier is never taken from a body.
"""

from typing import Annotated, Final

import msgspec

from serving.access.patterns import ANY, pattern_is_valid
from serving.access.state import Effect, RevocationKind
from serving.core.principals import Action, Ground, Role
from serving.errors import ParameterInvalid

DAY_S: Final = 86_400
MAX_KEY_LIFETIME_S: Final = 366 * DAY_S
MAX_COMMENT_LENGTH: Final = 255

Pattern = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Comment = Annotated[str, msgspec.Meta(max_length=MAX_COMMENT_LENGTH)]
Lifetime = Annotated[int, msgspec.Meta(ge=1, le=MAX_KEY_LIFETIME_S)]
Overlap = Annotated[int, msgspec.Meta(ge=0, le=30 * DAY_S)]


class KeyOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An API key to be made. models: patterns. owner: who answers for it; its maker when empty."""

    subject: Pattern
    roles: Annotated[tuple[Role, ...], msgspec.Meta(min_length=1, max_length=len(Role))]
    models: Annotated[tuple[Pattern, ...], msgspec.Meta(min_length=1, max_length=100)] | None = None
    tenant: Annotated[str, msgspec.Meta(max_length=255)] = ""
    owner: Annotated[str, msgspec.Meta(max_length=255)] = ""
    ttl_s: Lifetime = 90 * DAY_S


class RotationOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key to be replaced. overlap_s: how long the old one counts beside the new one."""

    overlap_s: Overlap = 3600
    ttl_s: Lifetime = 90 * DAY_S


class RuleOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule to be made; see `access.state.Rule`."""

    effect: Effect
    subject: Pattern
    subject_tenant: Pattern = ANY
    model: Pattern = ANY
    model_tenant: Pattern | None = None
    role: Role | None = None
    action: Action | None = None
    comment: Comment = ""


class RevocationOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A revocation to be made. since_s: for `issued_before`, now when it is 0."""

    kind: RevocationKind
    value: Pattern
    since_s: Annotated[int, msgspec.Meta(ge=0, le=2**40)] = 0
    comment: Comment = ""


class MadeKey(msgspec.Struct, frozen=True, kw_only=True):
    """A new key; the only time that it is shown whole."""

    key: str
    secret: str
    expires_s: int


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """One key as it is listed. state: active, expired or revoked. last_used_s: 0 for never."""

    key: str
    state: str
    subject: str
    roles: tuple[Role, ...]
    models: tuple[str, ...] | None
    tenant: str
    owner: str
    made_s: int
    expires_s: int
    revoked_s: int
    successor: str
    last_used_s: int


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """May this subject do that? roles, models: on the credential; those of `key` when it is named."""

    subject: str
    action: Action
    model: str | None = None
    tenant: str = ""
    roles: tuple[Role, ...] = ()
    key: str = ""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The answer, with what it rests on. epoch: of the rules that gave it."""

    allowed: bool
    ground: Ground
    rule: str
    reason: str
    epoch: int
    subject: str
    tenant: str
    roles: tuple[Role, ...]
    action: Action
    model: str | None


def check_rule(order: RuleOrder) -> None:
    """Passes when the rule means something. Raises ParameterInvalid."""
    for name in ("subject", "subject_tenant", "model", "model_tenant"):
        pattern = getattr(order, name)
        if pattern is not None and not pattern_is_valid(pattern):
            raise ParameterInvalid(f"{name} must be 1 to 255 printable characters; * is any text")
    if order.effect is Effect.ALLOW and (order.role is None or order.action is not None):
        raise ParameterInvalid("a grant gives a role, and names no action")
    if order.effect is Effect.DENY and order.role is not None:
        raise ParameterInvalid("a denial forbids an action, or everything, and names no role")
