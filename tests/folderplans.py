"""Deployments of settings as plans, straight from the models folder: for tests without a registry.

`release_deployments` seals, signs and approves what they name with the installation's own key; the
product does that through its registry (`control.admission`).
"""

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serving.artifacts.bundles import ENTRY
from serving.artifacts.locations import open_artifacts
from serving.artifacts.manifest import Manifest, Requirement
from serving.artifacts.release import Release, release_file, write_release
from serving.artifacts.statements import SERVE, Approval
from serving.artifacts.store import ArtifactStore
from serving.control.desired import Desired
from serving.core.clock import Clock
from serving.core.models import ModelName, ModelVersion, VersionName
from serving.core.traffic import Shadow, TrafficPolicy
from serving.errors import ArtifactMissing
from serving.inference.plans import ApplicationPlan, ReplicaOrder
from serving.registry.folder import DEFAULT_MODELS_DIR, Catalogue, CatalogueEntry, load_catalogue
from serving.settings import Deployment, Settings
from serving.trust.installation import installation_key
from serving.trust.signatures import SigningKey

ARTIFACTS: Final = "artifacts"
RELEASES: Final = "releases"


@dataclass(frozen=True, slots=True)
class Places:
    """Where a replica finds what it shares with the other processes. Absolute folders."""

    sockets: Path
    keys: Path
    logs: Path
    instance: str = ""


def read_desired(settings: Settings, places: Places) -> Desired:
    """Reads the models folder and verifies every artifact that should run.

    Raises SpecificationInvalid, ArtifactInvalid, ArtifactMissing.
    """
    catalogue = load_catalogue(settings.models_dir or DEFAULT_MODELS_DIR)
    plans: list[ApplicationPlan] = []
    ensembles: list[ModelVersion] = []
    policies: list[TrafficPolicy] = []
    left_out: list[tuple[str, str]] = []
    for deployment in settings.deployments:
        try:
            entries = [catalogue.entry(deployment.model, each) for each in deployment.versions]
            found = _plans(deployment, _running(entries, catalogue), settings, places)
        except ArtifactMissing as error:
            if not deployment.optional:
                raise
            left_out.append((deployment.model, error.message))
        else:
            plans += [plan for plan in found if plan not in plans]
            ensembles += [entry.version for entry in entries if entry.version.stages]
            policies.append(_policy(deployment))
    return Desired(tuple(plans), tuple(policies), tuple(left_out), ensembles=tuple(ensembles))


def release_deployments(settings: Settings, keys_dir: Path, clock: Clock) -> None:
    """Writes a release for every version of every deployment whose artifact is here."""
    catalogue = load_catalogue(settings.models_dir or DEFAULT_MODELS_DIR)
    root, key = settings.data_dir.absolute(), installation_key(keys_dir)
    store = open_artifacts(settings, folder=root / ARTIFACTS, keys_dir=keys_dir, clock=clock)
    for deployment in settings.deployments:
        with contextlib.suppress(ArtifactMissing):
            entries = [catalogue.entry(deployment.model, each) for each in deployment.versions]
            for entry in (*entries, *_running(entries, catalogue)):
                version = entry.version
                release = _release(entry, store, key, now_ns=clock.wall_ns())
                write_release(
                    release_file(root / RELEASES, version.model, version.version), release
                )


def _release(
    entry: CatalogueEntry, store: ArtifactStore, key: SigningKey, *, now_ns: int
) -> Release:
    version = entry.version
    store.put(entry.content(), expected=version.digest)
    manifest = Manifest.of(
        version.model,
        version.version,
        author=entry.owner,
        requirement=Requirement("demo", 1, ("approver",)),
        digests={ENTRY: version.digest},
        entry=ENTRY,
        created_ns=now_ns,
    )
    approval = Approval(
        kind=SERVE,
        model=version.model,
        version=version.version,
        digest=version.digest,
        approver="local-policy",
        roles=("approver",),
        author=entry.owner,
        decision="approved",
        reason="named by the deployments of this installation's settings",
        issued_ns=now_ns,
    )
    return Release(manifest.sign(key), (approval.sign(key),))


class FixedSource:
    """A desired state that stays as it is."""

    def __init__(self, desired: Desired) -> None:
        self.current: Desired | None = desired
        self.trouble = ""

    async def changed(self) -> None:
        await asyncio.Event().wait()


def _running(entries: list[CatalogueEntry], catalogue: Catalogue) -> list[CatalogueEntry]:
    """What has replicas: stages in the place of ensembles."""
    found = []
    for entry in entries:
        stages = [catalogue.entry(each.model, each.version) for each in entry.version.stages]
        found += stages or [entry]
    return found


def _plans(
    deployment: Deployment, entries: list[CatalogueEntry], settings: Settings, places: Places
) -> list[ApplicationPlan]:
    root = settings.data_dir.absolute()
    return [
        ApplicationPlan(
            order=ReplicaOrder(
                version=entry.version,
                release=str(
                    release_file(root / RELEASES, entry.version.model, entry.version.version)
                ),
                artifacts=str(root / ARTIFACTS),
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
        shadows=tuple(Shadow(VersionName(each.version)) for each in deployment.shadows),
    )
