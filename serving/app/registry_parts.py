"""What stands behind the control port and the desired state: registry, governance, audit, artifacts.

`RegistryParts.open` builds all of it over one database; `registry_access` does so when there is one.
The deployments of the settings are applied when they changed since they were applied last, or name
a model that has no traffic yet: what operators decide later stays decided.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from serving.app.directory import DataDirectory
from serving.app.evidence_parts import EvidenceParts, open_trail
from serving.artifacts.locations import open_artifacts, open_keys
from serving.artifacts.store import ArtifactStore
from serving.artifacts.uploads import Uploads
from serving.audit.desk import AuditDesk
from serving.audit.log import AuditLog
from serving.control.admission import FolderAdmission
from serving.control.applying import Applying
from serving.control.changes import Applied, ApplyOrder
from serving.control.inspections import Admitted
from serving.control.policyhistory import PolicyHistory
from serving.control.releases import ManifestGuard, ReleaseFiles
from serving.control.retirement import Retirement
from serving.control.traffic import TrafficDesk
from serving.control.uploading import UploadDesk
from serving.core.actors import product
from serving.core.clock import Clock
from serving.edge.admin.registry import Desk
from serving.governance.desk import GovernanceDesk
from serving.governance.journal import Journal
from serving.governance.rollouts import Rollouts
from serving.governance.service import Governance, Keys
from serving.governance.verdictbook import LiveComparisons
from serving.governance.webhooks import webhook_secret
from serving.registry.desk import RegistryDesk
from serving.registry.folder import DEFAULT_MODELS_DIR, Catalogue, load_catalogue
from serving.settings import Settings
from serving.storage.database import Database
from serving.storage.operations import Operations
from serving.trust.installation import installation_key, read_trusted

APPLIED: Final = "deployments.applied"
"""File of the data directory: the fingerprint of the deployments that were applied last."""

REASON: Final = "the deployments of the settings"


@dataclass(frozen=True, slots=True)
class _Ground:
    """What everything else stands on. shelf: the artifacts that are here."""

    database: Database
    audit: AuditLog
    keys: Keys
    shelf: ArtifactStore
    uploads: Uploads

    @classmethod
    def open(cls, settings: Settings, directory: DataDirectory, clock: Clock) -> Self:
        shelf = open_artifacts(
            settings, folder=directory.artifacts, keys_dir=directory.keys, clock=clock
        )
        return cls(
            database=Database.open(settings.registry, directory.root, clock=clock),
            audit=AuditLog(clock),
            keys=_keys(directory),
            shelf=shelf,
            uploads=Uploads(directory.uploads, open_keys(settings.artifacts, directory.keys)),
        )


@dataclass(frozen=True, slots=True)
class RegistryParts:
    """Everything over one database. Blocks: used from the control plane's worker thread."""

    settings: Settings
    directory: DataDirectory
    database: Database
    journal: Journal
    releases: ReleaseFiles
    retirement: Retirement
    applying: Applying
    admitted: Admitted
    desks: Mapping[str, Desk]
    evidence: EvidenceParts
    rollouts: Rollouts

    @classmethod
    def open(
        cls,
        settings: Settings,
        directory: DataDirectory,
        *,
        live: LiveComparisons,
        clock: Clock,
    ) -> Self:
        """Raises RegistryUnavailable, SchemaUnsupported, StartFailed, SpecificationInvalid."""
        catalogue = load_catalogue(settings.models_dir or DEFAULT_MODELS_DIR)
        ground = _Ground.open(settings, directory, clock)
        database, audit, keys = ground.database, ground.audit, ground.keys
        governance = _governance(
            settings, keys, directory.refusals_file, audit=audit, live=live, clock=clock
        )
        registry = governance.registry
        admission = _admission(governance, catalogue, database, shelf=ground.shelf)
        applying = Applying(database, registry, admission)
        releases = ReleaseFiles(
            directory.releases, governance.guard, keys.signing, keys.trusted, clock
        )
        trail = open_trail(settings, directory, database, governance=governance, clock=clock)
        return cls(
            settings=settings,
            directory=directory,
            database=database,
            journal=governance.journal,
            releases=releases,
            retirement=Retirement(database, audit, ground.shelf, clock),
            applying=applying,
            admitted=Admitted(
                ground.uploads, ground.shelf, database, registry, governance.evidence
            ),
            desks=_desks(
                ground, governance, applying, settings=settings, directory=directory, clock=clock
            ),
            evidence=EvidenceParts(database, trail, keys.webhooks),
            rollouts=_rollouts(settings, governance, releases),
        )

    def apply_deployments(self) -> tuple[tuple[str, str], ...]:
        """As far as it is due. Models that do not serve, and why."""
        orders = [each.model_dump(mode="json") for each in self.settings.deployments]
        file = self.directory.root / APPLIED
        fingerprint = sha256(msgspec.json.encode(orders)).hexdigest()
        planned = self._run(orders, plan_only=True)
        if not file.exists() or file.read_text() != fingerprint:
            made = self._run(orders)
        else:
            new = {
                step.what
                for step in planned.steps
                if step.before is not None and not step.before.revision
            }
            made = self._run([each for each in orders if each["model"] in new])
        file.write_text(fingerprint)
        blocked = [(step.what, step.detail) for step in made.steps if step.kind == "blocked"]
        return (*planned.left_out, *blocked)

    def close(self) -> None:
        self.database.close()

    def _run(self, orders: list[dict[str, Any]], *, plan_only: bool = False) -> Applied:
        order = ApplyOrder(deployments=orders, plan_only=plan_only, reason=REASON)
        return self.applying.run(order, actor=product("settings"))


def _keys(directory: DataDirectory) -> Keys:
    return Keys(
        signing=installation_key(directory.keys),
        trusted=partial(read_trusted, directory.keys),
        webhooks=webhook_secret(directory.keys),
    )


def _desks(
    ground: _Ground,
    governance: Governance,
    applying: Applying,
    *,
    settings: Settings,
    directory: DataDirectory,
    clock: Clock,
) -> Mapping[str, Desk]:
    """By the name that the routes of the control port have for them."""
    database, registry = ground.database, governance.registry
    operations = Operations(database, clock)
    history = PolicyHistory(directory.policy_history, clock)
    uploads = UploadDesk(
        ground.uploads, registry, database, settings=settings.artifacts, clock=clock
    )
    return {
        "registry": RegistryDesk(registry, database, operations, shelf=ground.shelf),
        "traffic": TrafficDesk(database, registry, operations, applying, history),
        "governance": GovernanceDesk(governance, database, operations),
        "audit": AuditDesk(database),
        "uploads": uploads,
    }


def _admission(
    governance: Governance, catalogue: Catalogue, database: Database, *, shelf: ArtifactStore
) -> FolderAdmission:
    return FolderAdmission(
        catalogue=catalogue,
        database=database,
        registry=governance.registry,
        evidence=governance.guard,
        book=governance.evidence,
        waivers=governance.waivers,
        shelf=shelf,
    )


def _rollouts(settings: Settings, governance: Governance, releases: ReleaseFiles) -> Rollouts:
    """A candidate is deployable when its release holds."""
    return Rollouts(
        governance.registry,
        governance.journal,
        warm_s=settings.rollouts.warm_s,
        deployable=releases.check,
    )


def _governance(
    settings: Settings,
    keys: Keys,
    refusals: Path,
    *,
    audit: AuditLog,
    live: LiveComparisons,
    clock: Clock,
) -> Governance:
    """Its registry signs the manifest of whatever is validated."""
    return Governance(
        settings.governance,
        settings.webhooks,
        keys=keys,
        refusals=refusals,
        audit=audit,
        clock=clock,
        guarding=lambda guard: ManifestGuard(guard, keys.signing, clock),
        live=live,
    )
