"""The control plane as its port sees it: leases in, snapshots out, status on demand.

One object on one event loop owns the leases, the published snapshot and the phases that replicas
report. Whatever is news (another desired state, a lease granted or ended, a wait that is over) makes
it look once: `rollout` says how far traffic can go now, gateways are told, and the reconciler
learns what should run and what must not be deleted yet. Fits `edge.admin.control.ControlPlane` by shape.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import structlog

from serving.control.desired import Desired, DesiredSource
from serving.control.endpoints import Lease, Leases
from serving.control.publisher import SnapshotPublisher
from serving.control.reconciler import Reconciler
from serving.control.rollout import Rollout, Stage
from serving.control.status import ControlStatus, Facts, status_of
from serving.core.clock import Clock
from serving.core.traffic import ReplicaEndpoint, Snapshot
from serving.inference.plans import ApplicationPlan
from serving.inference.registration import PhaseReport, Renewal
from serving.port_settings import ControlSettings

logger = structlog.get_logger()


class Plane:
    """See the module docstring. engine: its name, for people."""

    def __init__(
        self,
        source: DesiredSource,
        *,
        engine: str,
        reconciler: Reconciler,
        publisher: SnapshotPublisher,
        settings: ControlSettings,
        clock: Clock,
        refused: Callable[[str, str], None] = lambda _key, _reason: None,
    ) -> None:
        """refused: told of a `model@version` that a replica must not run, and why."""
        self.connected = False
        self._refused = refused
        self._source = source
        self._engine = engine
        self._reconciler = reconciler
        reconciler.withdrawing = self.withdraw
        self._publisher = publisher
        self._settings = settings
        self._clock = clock
        self._phases: dict[str, PhaseReport] = {}
        self._leases = Leases(lease_s=settings.lease_s, clock=clock, restored=publisher.restored)
        self._rollout = Rollout(drain_s=settings.drain_s, clock=clock, before=publisher.before)
        self._plans: dict[str, ApplicationPlan] = {}
        self._due_ns: int | None = None
        self._looked = asyncio.Event()

    async def run(self) -> None:
        """Ends leases that are not renewed and follows what is desired, until cancelled."""
        await asyncio.gather(self._follow(), self._keep())

    async def snapshot(self, after: int, *, wait_s: float) -> Snapshot | None:
        """A snapshot newer than `after`, None when there is none within `wait_s`."""
        return await self._publisher.after(after, wait_s=wait_s)

    def renew(self, renewal: Renewal) -> float:
        """Grants a lease and returns its length in seconds."""
        endpoint = renewal.endpoint
        if self._leases.renew(renewal):
            logger.info("lease granted", replica=endpoint.replica, model=endpoint.model)
            self._phases.pop(f"{endpoint.model}@{endpoint.version}", None)
            self.look()
        return self._settings.lease_s

    def leave(self, replica: str) -> None:
        if self._leases.leave(replica):
            logger.info("lease ended", replica=replica, reason="left")
            self.look()

    def withdraw(self, key: str) -> None:
        """The last application of a `model@version` is about to be deleted."""
        self._leases.withdraw(key)
        self.look()

    def report_phase(self, report: PhaseReport) -> None:
        key = f"{report.model}@{report.version}"
        if report.phase == "refused":
            self._refused(key, report.reason)
        if not report.serving:
            self._phases[key] = report

    def live(self) -> tuple[Lease, ...]:
        return self._leases.live()

    def published(self) -> Snapshot:
        """What gateways were told last."""
        return self._publisher.current

    def status(self) -> ControlStatus:
        return status_of(
            Facts(
                engine=self._engine,
                connected=self.connected,
                desired=self._source.current,
                trouble=self._source.trouble,
                snapshot=self._publisher.current,
                reported=self._reconciler.reported,
                failures=self._reconciler.failures,
                leases=self._leases.live(),
                phases=self._phases,
                now_ns=self._clock.monotonic_ns(),
            )
        )

    def look(self) -> None:
        """Takes everything as far as it can go now."""
        endpoints = tuple(lease.endpoint for lease in self._leases.live())
        desired = self._source.current
        if desired is None:
            # Nothing is known but what gateways were told before; replicas come and go still.
            if self._publisher.current.epoch:
                self._publisher.publish(_with(self._publisher.current, endpoints))
            return
        stage = self._rollout.look(desired, endpoints)
        self._due_ns = stage.due_ns
        self._looked.set()
        snapshot = Snapshot(
            epoch=0,
            versions=stage.versions,
            policies=stage.policies,
            deprecations=desired.deprecations,
            tombstones=desired.tombstones,
            tenants=desired.tenants,
        )
        self._publisher.publish(_with(snapshot, endpoints))
        self._want(desired, stage)

    # -- inside ----------------------------------------------------------------------------------

    def _want(self, desired: Desired, stage: Stage) -> None:
        """What is desired should run, and what answers until that does."""
        plans = {plan.key: plan for plan in (*desired.spares, *desired.plans)}
        self._plans = {key: plan for key, plan in self._plans.items() if key in stage.keys} | plans
        wanted = {plan.key for plan in desired.plans}
        answering = [f"{each.model}@{each.stable}" for each in stage.policies]
        made_of = {version.key: version.stages for version in stage.versions}
        answering += [part.key for key in answering for part in made_of.get(key, ())]
        spares = [
            self._plans[key]
            for key in answering
            if key not in wanted and key in self._plans and key not in desired.refusals
        ]
        self._reconciler.want((*desired.plans, *spares), kept=stage.keys)
        self._phases = {key: it for key, it in self._phases.items() if key in wanted}

    async def _follow(self) -> None:
        while True:
            self.look()
            await self._source.changed()

    async def _keep(self) -> None:
        while True:
            is_due = False
            try:
                await asyncio.wait_for(self._looked.wait(), self._pause_s())
            except TimeoutError:
                is_due = True
            self._looked.clear()
            expired = self._leases.expire()
            for endpoint in expired:
                logger.warning(
                    "lease ended", replica=endpoint.replica, model=endpoint.model, reason="expired"
                )
            if is_due or expired:
                self.look()
                self._looked.clear()

    def _pause_s(self) -> float:
        """Until something may be due; a look in between begins the wait anew."""
        pause_s = self._settings.renew_s / 2
        if self._due_ns is None:
            return pause_s
        due_s = (self._due_ns - self._clock.monotonic_ns()) / 1e9
        return min(max(due_s, 0.0), pause_s)


def _with(snapshot: Snapshot, endpoints: tuple[ReplicaEndpoint, ...]) -> Snapshot:
    """The snapshot with those endpoints whose versions it names."""
    keys = {each.key for each in snapshot.versions}
    live = tuple(each for each in endpoints if f"{each.model}@{each.version}" in keys)
    return replace(snapshot, endpoints=live)
