"""Who is calling, what they may be allowed to do, and what a decision about it looks like."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol


class Role(StrEnum):
    """What a credential or a grant makes of its holder; `access.policy` says what each may do."""

    CALLER = "caller"
    DEVELOPER = "developer"
    APPROVER = "approver"
    OPERATOR = "operator"
    REVIEWER = "reviewer"
    AUDITOR = "auditor"
    ADMIN = "admin"


class Action(StrEnum):
    """What somebody may be permitted to do. The first eight concern a model, the rest the product."""

    INFER = "infer"
    DESCRIBE = "describe"
    DESCRIBE_CANDIDATES = "describe_candidates"
    REGISTER = "register"
    APPROVE = "approve"
    OPERATE = "operate"
    REVIEW = "review"
    REPORT_OUTCOME = "report_outcome"
    READ_PAYLOADS = "read_payloads"
    READ_STATUS = "read_status"
    READ_ACCESS = "read_access"
    MANAGE_ACCESS = "manage_access"
    PROTECT_SUBJECTS = "protect_subjects"
    TAKE_PART = "take_part"
    """As one of the product's own processes; no role has it."""


class Resource(NamedTuple):
    """What an action is about. model: None for the product as a whole. tenant: who owns the model;
    empty when everybody may share it."""

    model: str | None = None
    tenant: str = ""


class Ground(StrEnum):
    """What a decision rests on. The first five refuse, the rest permit."""

    DISABLED = "disabled"
    DENIED = "denied"
    CREDENTIAL = "credential"
    TENANT = "tenant"
    DEFAULT = "default"
    ROLE = "role"
    GRANT = "grant"
    TRUSTED = "trusted"


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether something is allowed, and why, in words for an auditor.

    rule: the identifier of the rule, or the name of the role, that decided; empty for none.
    """

    allowed: bool
    ground: Ground
    rule: str
    reason: str


class Authority(Protocol):
    """Who decides what a principal may do: `access.live.LiveAccess`, or `access.policy.Policy`."""

    def judge(self, principal: "Principal", action: Action, model: str | None) -> Decision:
        """The decision, counted and logged when it is a refusal."""

    def decide(
        self,
        principal: "Principal",
        action: Action,
        model: str | None,
        *,
        tenant: str | None = None,
    ) -> Decision:
        """The decision alone. tenant: who owns the model, from whoever asks and knows it better."""

    def reveals(self, principal: "Principal", action: Action, model: str) -> bool:
        """Whether a refusal may say that it is one, since a name of nothing would get the same."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Principal:
    """A caller whose credential was verified.

    models: patterns (`fraud-*`) of the models that the credential is limited to, None for no limit.
    tenant: the organisation it belongs to, empty for none. issuer: who vouches for it. token_id:
    names the credential, not its secret: a token's `jti`, a key's identifier. issued_s: when it was
    issued, wall time in seconds. owner: who answers for an API key. authority: decides what it may
    do; None means its roles do. permitted: models it was already found to be allowed to infer with,
    kept by `access.authorization`.
    """

    subject: str
    roles: frozenset[Role]
    models: frozenset[str] | None = None
    tenant: str = ""
    issuer: str = ""
    token_id: str = field(default="", compare=False)
    issued_s: float = field(default=0.0, compare=False)
    owner: str = field(default="", compare=False)
    authority: Authority | None = field(default=None, compare=False, repr=False)
    permitted: set[str] = field(default_factory=set, compare=False, repr=False)
