"""The registry as the control process sees it: routes and desired state, with or without a database.

The control port listens from the start. Until the database was reached its desks answer 503
`registry_unavailable`, and nothing is known of what should run; from then on they are open, and when
it goes away later every question to it fails by itself.
"""

from collections.abc import Callable, Collection
from typing import Final

from serving.app.directory import DataDirectory
from serving.app.evidence_parts import EvidenceParts
from serving.app.registry_parts import RegistryParts
from serving.control.comparisons import Comparisons, Rules
from serving.control.conductor import RolloutOffice
from serving.control.inspecting import Inspector
from serving.control.inspections import Admitted, Inspections
from serving.control.register import Office, RegistrySource
from serving.core.calls import Answer, Call
from serving.core.clock import Clock
from serving.core.traffic import Snapshot
from serving.edge.admin.audit import AuditRoutes
from serving.edge.admin.governance import GovernanceRoutes
from serving.edge.admin.registry import Desk, RegistryRoutes
from serving.edge.admin.traffic import TrafficRoutes
from serving.edge.admin.upload import UploadRoutes
from serving.edge.admin.verdict import VerdictRoutes
from serving.edge.routes import Route
from serving.errors import RegistryUnavailable
from serving.inference.plans import ApplicationPlan, ReplicaOrder
from serving.registry.entities import RegisteredVersion, Scale
from serving.registry.rows import find_model
from serving.settings import Settings
from serving.storage.worker import Worker

DESKS: Final = ("registry", "traffic", "governance", "audit", "uploads")


class LateDesk:
    """A desk behind the control port from the start, open once the database was reached."""

    def __init__(self) -> None:
        self.desk: Desk | None = None

    def ask(self, name: str, call: Call) -> Answer:
        return self._open().ask(name, call)

    def carry_out(self, name: str, call: Call) -> Answer:
        return self._open().carry_out(name, call)

    def _open(self) -> Desk:
        if self.desk is None:
            raise RegistryUnavailable("the registry's database was not reached since the start")
        return self.desk


class RegistryAccess:
    """The registry as the control process sees it. Built on the loop; `source.run` is one task."""

    def __init__(
        self,
        settings: Settings,
        directory: DataDirectory,
        *,
        held: Collection[str],
        snapshot: Callable[[], Snapshot],
        clock: Clock,
    ) -> None:
        """held: versions, as `model@version`, that answered when control ended last. snapshot: what
        gateways were told last."""
        self.worker = Worker(clock)
        self._comparisons = Comparisons(snapshot, self._rules, self.worker)
        self._desks = {name: LateDesk() for name in DESKS}
        self._settings = settings
        self._directory = directory
        self._clock = clock
        self._parts: RegistryParts | None = None
        self._settings_text = settings.model_dump_json()
        self.source = RegistrySource(
            self._open,
            self.worker,
            plan_of=self._plan_of,
            clock=clock,
            held=held,
            period_s=settings.control.reconcile_s,
        )
        self.inspections = Inspections(
            self._admitted,
            Inspector(directory.inspections, settings.artifacts),
            self.worker,
            delay_s=settings.artifacts.inspection_delay_s,
            clock=clock,
        )

    def routes(self) -> list[Route]:
        """The part of the control port's table that is answered from the database."""
        changed, desks, worker = self._changed, self._desks, self.worker
        return [
            *RegistryRoutes(desks["registry"], worker, changed=changed).routes(),
            *TrafficRoutes(desks["traffic"], worker, changed=changed).routes(),
            *GovernanceRoutes(desks["governance"], worker, changed=changed).routes(),
            *VerdictRoutes(
                desks["governance"], worker, comparisons=self._comparisons, changed=changed
            ).routes(),
            *AuditRoutes(desks["audit"], worker).routes(),
            *UploadRoutes(desks["uploads"], worker, finished=self.inspections.nudge).routes(),
        ]

    def evidence(self) -> EvidenceParts | None:
        """What audit and governance work on; None until the database was reached."""
        parts = self._parts
        return None if parts is None else parts.evidence

    @property
    def comparisons(self) -> Comparisons:
        return self._comparisons

    def rollouts(self) -> RolloutOffice | None:
        """None until the database was reached."""
        parts = self._parts
        return None if parts is None else RolloutOffice(parts.database, parts.rollouts)

    def _admitted(self) -> Admitted | None:
        parts = self._parts
        return None if parts is None else parts.admitted

    def _changed(self) -> None:
        self.source.nudge()
        self.inspections.nudge()

    def close(self) -> None:
        self.worker.close()
        if self._parts is not None:
            self._parts.close()

    # -- in the worker's thread ------------------------------------------------------------------

    def _open(self) -> Office:
        """Raises RegistryUnavailable while there is no database, and whatever stops a start."""
        parts = self._parts
        if parts is None:
            parts = self._parts = RegistryParts.open(
                self._settings, self._directory, live=self._comparisons, clock=self._clock
            )
        left_out = parts.apply_deployments()
        for name, desk in parts.desks.items():
            self._desks[name].desk = desk
        retired = parts.retirement
        destroys = self._settings.artifacts.retired == "destroy"
        return Office(
            parts.database,
            parts.releases,
            parts.journal.record,
            left_out,
            tend=retired.sweep if destroys else _nothing,
        )

    def _rules(self, models: Collection[str]) -> Rules:
        """How each of these models is compared. Raises RegistryUnavailable."""
        parts = self._parts
        if parts is None:
            raise RegistryUnavailable("the registry's database was not reached since the start")
        return parts.database.read(
            lambda connection: {
                name: model.facts.comparison
                for name in models
                if (model := find_model(connection, name)) is not None
            }
        )

    def _plan_of(self, version: RegisteredVersion, scale: Scale, release: str) -> ApplicationPlan:
        directory = self._directory
        return ApplicationPlan(
            order=ReplicaOrder(
                version=version.definition,
                release=release,
                artifacts=str(directory.artifacts),
                sockets=str(directory.replica_sockets),
                keys=str(directory.keys),
                logs=str(directory.logs),
                instance=directory.instance,
                settings=self._settings_text,
            ),
            min_replicas=scale.min_replicas,
            max_replicas=scale.max_replicas,
            num_gpus=scale.num_gpus,
        )


def _nothing() -> None:
    """What becomes of the artifacts of retired versions where they are held."""
