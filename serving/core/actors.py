"""Who changes or reads something in the control plane, from where, and how far their rights reach."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from serving.core.principals import Action, Principal, Role

Reach = Callable[[Action, str, str], bool]
"""Whether an action on a model (its name) of a tenant is permitted. See `access.authorization`."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an order came from: the caller's address, and what names the request."""

    source: str = ""
    request_id: str = ""


NOWHERE: Final = Origin()
"""Of an order that came from no request."""


def everywhere(_action: Action, _model: str, _tenant: str) -> bool:
    """The reach of the product itself."""
    return True


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and from where: what a service needs to know of whoever asks it for something.

    tenant: the organisation they belong to, empty for none; what they register belongs to it.
    owner: who answers for the API key that was shown, empty for a person. source: the address, or
    `cli` for a command on the machine itself, or the part of the product that acts by itself.
    request_id: names the request in answers and events. reach: asked with the tenant that the
    registry knows a model by, so that nothing of another tenant is shown or touched.
    """

    subject: str
    tenant: str = ""
    roles: frozenset[Role] = frozenset()
    owner: str = ""
    source: str = ""
    request_id: str = ""
    reach: Reach = field(default=everywhere, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        principal: Principal,
        *,
        source: str = "",
        request_id: str = "",
        reach: Reach = everywhere,
    ) -> "Actor":
        return cls(
            subject=principal.subject,
            tenant=principal.tenant,
            roles=principal.roles,
            owner=principal.owner,
            source=source,
            request_id=request_id,
            reach=reach,
        )

    @property
    def identities(self) -> frozenset[str]:
        """Everybody whose act this is: an API key's holder and the one who answers for it."""
        return frozenset({self.subject, self.owner} - {""})

    def may(self, action: Action, model: str, tenant: str) -> bool:
        """Whether their rights reach this model."""
        return self.reach(action, model, tenant)


def product(part: str) -> Actor:
    """The product itself, as a part of it: `import`, `control`, `policy`."""
    return Actor(subject=f"serving:{part}", source=part)
