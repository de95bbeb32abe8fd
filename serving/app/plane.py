"""The control process, whatever engine runs the models: what it is made of and in which order.

It listens before it deploys, so that replicas and the supervisor find it from the start. On SIGTERM
it stops listening and leaves the cluster; what runs there goes on, unless the whole product stops on
a cluster that is not ours.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import structlog

from serving.access.issuers import Issuers
from serving.access.permissions import INTROSPECTION
from serving.app.child import set_on_termination, stop_event
from serving.app.control_access import ControlAccess
from serving.app.descriptors import within_descriptors
from serving.app.directory import DataDirectory
from serving.app.evidence_parts import EvidenceTasks
from serving.app.ports import read_ports
from serving.app.registry_access import RegistryAccess
from serving.app.rollout_parts import RolloutControl
from serving.control.measures import Measures
from serving.control.plane import Plane
from serving.control.policyhistory import PolicyHistory
from serving.control.publisher import SnapshotPublisher
from serving.control.reconciler import Engine, Reconciler
from serving.control.rollout import answering
from serving.core.clock import Clock, SystemClock
from serving.edge.admin.control import introspection_routes
from serving.edge.admin.reports import ReportRoutes
from serving.edge.http1.server import HttpServer
from serving.edge.routes import Router
from serving.edge.tls import tls_of
from serving.errors import AddressInUse
from serving.settings import Settings
from serving.telemetry.families import SNAPSHOT_EPOCH
from serving.telemetry.metrics import MetricFamilies
from serving.telemetry.replicas import ReplicaReport, add_replica_families

logger = structlog.get_logger()

DRAIN_S: Final = 2.0

Result = TypeVar("Result")


def run_control(settings: Settings, engine: Engine) -> None:
    """Until SIGTERM. Raises SpecificationInvalid, ArtifactInvalid, AddressInUse, StartFailed."""
    asyncio.run(_run(settings, DataDirectory.at(settings.data_dir), engine))


async def _run(settings: Settings, directory: DataDirectory, engine: Engine) -> None:
    stopping = stop_event()
    # One thread for every call of the engine: it has one owner, and control keeps answering.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine") as executor:
        control = RunningControl(
            settings,
            engine,
            directory=directory,
            executor=executor,
            stopping=stopping,
            clock=SystemClock(),
        )
        work = asyncio.create_task(control.run())
        waiting = asyncio.create_task(stopping.wait())
        await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        work.cancel()
        try:
            await work
        except asyncio.CancelledError:
            logger.info("control stopped")


class RunningControl:
    """Servers, reconciler and leases of one control process."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        *,
        directory: DataDirectory,
        executor: ThreadPoolExecutor,
        stopping: asyncio.Event,
        clock: Clock,
    ) -> None:
        self._stopping = stopping
        self._settings = settings
        self._engine = engine
        self._directory = directory
        self._executor = executor
        self._clock = clock
        self._servers: list[HttpServer] = []
        self._evidence: EvidenceTasks | None = None
        self._issuers = Issuers.open(directory.keys, settings.access, clock)
        self._publisher = _publisher_of(settings, directory, clock=clock)
        self._registry = RegistryAccess(
            settings,
            directory,
            held=answering(self._publisher.before),
            snapshot=lambda: self._publisher.current,
            clock=clock,
        )
        self._measures = Measures(clock)
        self._rollouts = RolloutControl(
            settings, directory, self._registry, measures=self._measures, clock=clock
        )
        self._reconciler = Reconciler(
            engine,
            period_s=settings.control.reconcile_s,
            executor=executor,
            clock=clock,
        )
        self._plane = self._made_plane()
        self._rollouts.conduct(self._plane)
        self._notes: set[asyncio.Task[None]] = set()

    def _made_plane(self) -> Plane:
        return Plane(
            self._rollouts.source,
            engine=self._settings.inference.engine,
            reconciler=self._reconciler,
            publisher=self._publisher,
            settings=self._settings.control,
            clock=self._clock,
            refused=self._note_refusal,
        )

    async def run(self) -> None:
        """Until cancelled; then closes what it opened. Raises AddressInUse, StartFailed."""
        try:
            evidence = self._evidence = await self._listen()
            await asyncio.gather(
                self._registry.source.run(),
                self._registry.inspections.run(),
                evidence.run(),
                self._plane.run(),
                self._rollouts.run(),
                self._issuers.run(),
                self._reconcile(),
            )
        finally:
            await self._leave()

    async def _listen(self) -> EvidenceTasks:
        control = self._settings.control
        access = ControlAccess(
            self._settings, self._issuers, directory=self._directory, clock=self._clock
        )
        reports = ReportRoutes(self._measures.take)
        server = self._server(
            access.router(
                self._plane, [*self._registry.routes(), *self._rollouts.routes(), *reports.routes()]
            )
        )
        try:
            await server.listen(
                host=control.host, port=control.port, tls=tls_of(control, port="control")
            )
        except OSError as error:
            raise AddressInUse(
                f"control.port {control.port} on {control.host} cannot be used: {error.strerror}"
            ) from error
        evidence = EvidenceTasks(
            self._settings,
            self._directory,
            self._registry.worker,
            parts=self._registry.evidence,
            access=access.register,
            clock=self._clock,
        )
        families = MetricFamilies()
        access.read_families(families)
        evidence.read_families(families)
        self._rollouts.read_families(families)
        read_ports(families, {"control": server})
        families.read_one(SNAPSHOT_EPOCH, lambda: self._publisher.current.epoch)
        add_replica_families(families, self._replica_reports)
        introspection = introspection_routes(status=self._plane.status, metrics=families.render)
        router = Router(introspection, permissions=INTROSPECTION)
        await self._server(router).listen_unix(self._directory.control_socket)
        return evidence

    def _server(self, router: Router) -> HttpServer:
        server = HttpServer(router, limits=within_descriptors(self._settings.http))
        self._servers.append(server)
        return server

    def _replica_reports(self) -> list[ReplicaReport]:
        return [
            ReplicaReport(lease.endpoint, renewal.statistics, renewal.providers[0])
            for lease in self._plane.live()
            if (renewal := lease.renewal) is not None
        ]

    def _note_refusal(self, key: str, reason: str) -> None:
        note = asyncio.create_task(self._registry.source.note_refusal(key, reason))
        self._notes.add(note)
        note.add_done_callback(self._notes.discard)

    async def _reconcile(self) -> None:
        await self._blocking(self._engine.connect)
        set_on_termination(self._stopping)
        self._plane.connected = True
        logger.info("engine connected", engine=self._settings.inference.engine)
        await self._reconciler.run()

    async def _leave(self) -> None:
        for server in self._servers:
            await server.aclose(drain_s=DRAIN_S)
        if self._settings.ray.address is not None and self._directory.final_stop:
            await self._blocking(self._withdraw)
        await self._blocking(self._engine.disconnect)
        if self._evidence is not None:
            await self._evidence.aclose()
        self._registry.close()

    def _withdraw(self) -> None:
        """Removes our applications from a cluster that goes on without us."""
        for name in self._engine.report():
            self._engine.delete(name)

    async def _blocking(self, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)


def _publisher_of(
    settings: Settings, directory: DataDirectory, *, clock: Clock
) -> SnapshotPublisher:
    return SnapshotPublisher(
        path=directory.snapshot_file,
        # Replicas of the local engine died with the control process before this one.
        restore=settings.inference.engine == "ray",
        clock=clock,
        note=PolicyHistory(directory.policy_history, clock).note,
    )
