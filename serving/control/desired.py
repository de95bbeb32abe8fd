"""What should run: plans, who answers for which model, and what callers are told of what ends.

A `Desired` is one immutable value. Where it comes from is a `DesiredSource`; the registry is the
product's one (`control.register`). While a source knows nothing, control touches nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from serving.core.models import ModelName, ModelVersion
from serving.core.traffic import Deprecation, Tombstone, TrafficPolicy
from serving.inference.plans import ApplicationPlan

Role = Literal["stable", "canary", "shadow", "warm", "stage"]


@dataclass(frozen=True, slots=True)
class Desired:
    """What should run, and who answers for which model.

    spares: plans of versions that nobody wants, but which may be what still answers (`rollout`).
    refusals: why versions that should serve must not, by `model@version`; they are in no plan.
    left_out: model and reason of optional deployments that cannot run here.
    tenants: models that belong to a tenant, and to which. local: versions, as `model@version`, that
    nobody but the local policy agreed to. warm: versions in the same form that stay ready for a
    while, without traffic. ensembles: those that should run; plans has their stages.
    """

    plans: tuple[ApplicationPlan, ...] = ()
    policies: tuple[TrafficPolicy, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    refusals: Mapping[str, str] = field(default_factory=dict)
    spares: tuple[ApplicationPlan, ...] = ()
    deprecations: tuple[Deprecation, ...] = ()
    tombstones: tuple[Tombstone, ...] = ()
    tenants: tuple[tuple[ModelName, str], ...] = ()
    local: tuple[str, ...] = ()
    warm: tuple[str, ...] = ()
    ensembles: tuple[ModelVersion, ...] = ()

    @property
    def versions(self) -> tuple[ModelVersion, ...]:
        return (*(plan.order.version for plan in self.plans), *self.ensembles)

    def role(self, model: str, version: str) -> Role:
        """What the version is there for; the most of it where it is several things."""
        for policy in self.policies:
            if policy.model == model:
                if policy.stable == version:
                    return "stable"
                if any(arm.version == version for arm in policy.arms):
                    return "canary"
                if any(shadow.version == version for shadow in policy.shadows):
                    return "shadow"
        key = f"{model}@{version}"
        if any(stage.key == key for each in self.ensembles for stage in each.stages):
            return "stage"
        return "warm" if key in self.warm else "shadow"


class DesiredSource(Protocol):
    """Where the desired state comes from."""

    @property
    def current(self) -> Desired | None:
        """None until it is known for the first time."""

    @property
    def trouble(self) -> str:
        """Why `current` may be out of date, empty when it is not."""

    async def changed(self) -> None:
        """Returns when `current` or `trouble` is another than when this was called."""
