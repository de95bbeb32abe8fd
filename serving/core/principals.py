"""Who is calling, and what their credential lets them do."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a credential may be used for."""

    CALLER = "caller"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller whose credential was verified.

    models: the models it may call, or None for every model.
    """

    subject: str
    roles: frozenset[Role]
    models: frozenset[str] | None = None

    def may_call(self, model: str) -> bool:
        """Both roles may call; an operator's token can be limited to models just as well."""
        return bool(self.roles) and (self.models is None or model in self.models)

    def may_operate(self) -> bool:
        return Role.OPERATOR in self.roles
