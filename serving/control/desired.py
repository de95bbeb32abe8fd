"""What should run, according to the settings and the models folder.

An optional deployment whose artifact is not on this machine is left out, with a word; everything
else that is missing or wrong stops the start.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serving.core.models import ModelName, ModelVersion, VersionName
from serving.core.traffic import TrafficPolicy
from serving.errors import ArtifactMissing
from serving.inference.plans import ApplicationPlan, ReplicaOrder
from serving.registry.folder import DEFAULT_MODELS_DIR, Catalogue, load_catalogue
from serving.settings import Deployment, Settings

Role = Literal["stable", "shadow"]


@dataclass(frozen=True, slots=True)
class Places:
    """Where a replica finds what it shares with the other processes. Absolute folders.

    instance: the run they belong to; replicas of an earlier run had other sockets.
    """

    sockets: Path
    keys: Path
    logs: Path
    instance: str = ""


@dataclass(frozen=True, slots=True)
class Desired:
    """What should run: plans in the order of the settings, and who answers for which model.

    left_out: model and reason of optional deployments that cannot run here.
    """

    plans: tuple[ApplicationPlan, ...] = ()
    policies: tuple[TrafficPolicy, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def versions(self) -> tuple[ModelVersion, ...]:
        return tuple(plan.order.version for plan in self.plans)

    def role(self, version: ModelVersion) -> Role:
        stable = {(policy.model, policy.stable) for policy in self.policies}
        return "stable" if (version.model, version.version) in stable else "shadow"


def read_desired(settings: Settings, places: Places) -> Desired:
    """Reads the models folder and verifies every artifact that should run.

    Raises SpecificationInvalid, ArtifactInvalid, ArtifactMissing.
    """
    catalogue = load_catalogue(settings.models_dir or DEFAULT_MODELS_DIR)
    plans: list[ApplicationPlan] = []
    policies: list[TrafficPolicy] = []
    left_out: list[tuple[str, str]] = []
    for deployment in settings.deployments:
        try:
            found = _plans(deployment, catalogue, settings, places)
        except ArtifactMissing as error:
            if not deployment.optional:
                raise
            left_out.append((deployment.model, error.message))
        else:
            plans += found
            policies.append(_policy(deployment))
    return Desired(tuple(plans), tuple(policies), tuple(left_out))


def _plans(
    deployment: Deployment, catalogue: Catalogue, settings: Settings, places: Places
) -> list[ApplicationPlan]:
    entries = [
        catalogue.entry(deployment.model, version)
        for version in (deployment.stable, *deployment.shadows)
    ]
    return [
        ApplicationPlan(
            order=ReplicaOrder(
                version=entry.version,
                artifact=str(entry.artifact.resolve()),
                sockets=str(places.sockets),
                keys=str(places.keys),
                logs=str(places.logs),
                instance=places.instance,
                settings=settings.model_dump_json(),
            ),
            min_replicas=deployment.min_replicas,
            max_replicas=deployment.max_replicas,
            num_gpus=deployment.num_gpus,
        )
        for entry in entries
    ]


def _policy(deployment: Deployment) -> TrafficPolicy:
    return TrafficPolicy(
        model=ModelName(deployment.model),
        stable=VersionName(deployment.stable),
        shadows=tuple(VersionName(version) for version in deployment.shadows),
    )
