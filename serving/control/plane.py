"""The control plane as its port sees it: leases in, snapshots out, status on demand.

One object on one event loop owns the leases, the published snapshot and the phases that replicas
report; the reconciler runs beside it. Fits `edge.admin.ControlPlane` by shape.
"""

import asyncio

import structlog

from serving.control.desired import Desired
from serving.control.endpoints import Lease, Leases
from serving.control.publisher import SnapshotPublisher
from serving.control.reconciler import Reconciler
from serving.control.status import ControlStatus, LeftOut, by_version, version_status
from serving.core.clock import Clock
from serving.core.traffic import Snapshot
from serving.inference.registration import Phase, PhaseReport, Renewal
from serving.settings import ControlSettings

logger = structlog.get_logger()


class Plane:
    """See the module docstring. engine: its name, for people."""

    def __init__(
        self,
        desired: Desired,
        *,
        engine: str,
        reconciler: Reconciler,
        publisher: SnapshotPublisher,
        settings: ControlSettings,
        clock: Clock,
    ) -> None:
        self.connected = False
        self._desired = desired
        self._engine = engine
        self._reconciler = reconciler
        self._publisher = publisher
        self._settings = settings
        self._clock = clock
        self._phases: dict[tuple[str, str], Phase] = {}
        self._leases = Leases(lease_s=settings.lease_s, clock=clock, restored=publisher.restored)

    async def keep_leases(self) -> None:
        """Ends leases that are not renewed, until cancelled."""
        while True:
            await asyncio.sleep(self._settings.renew_s / 2)
            for endpoint in self._leases.expire():
                logger.warning(
                    "lease ended", replica=endpoint.replica, model=endpoint.model, reason="expired"
                )
            self._publish()

    async def snapshot(self, after: int, *, wait_s: float) -> Snapshot | None:
        """A snapshot newer than `after`, None when there is none within `wait_s`."""
        return await self._publisher.after(after, wait_s=wait_s)

    def renew(self, renewal: Renewal) -> float:
        """Grants a lease and returns its length in seconds."""
        endpoint = renewal.endpoint
        if self._leases.renew(renewal):
            logger.info("lease granted", replica=endpoint.replica, model=endpoint.model)
            self._phases.pop((endpoint.model, endpoint.version), None)
            self._publish()
        return self._settings.lease_s

    def leave(self, replica: str) -> None:
        if self._leases.leave(replica):
            logger.info("lease ended", replica=replica, reason="left")
            self._publish()

    def report_phase(self, report: PhaseReport) -> None:
        self._phases[report.model, report.version] = report.phase

    def live(self) -> tuple[Lease, ...]:
        return self._leases.live()

    def status(self) -> ControlStatus:
        leases = by_version(self._leases.live())
        now_ns = self._clock.monotonic_ns()
        rows = []
        for plan in self._desired.plans:
            version = plan.order.version
            place = (version.model, version.version)
            rows.append(
                version_status(
                    plan,
                    desired=self._desired,
                    leases=leases.get(place, ()),
                    report=self._reconciler.reported.get(plan.name),
                    failure=self._reconciler.failures.get(plan.name),
                    phase=self._phases.get(place),
                    now_ns=now_ns,
                )
            )
        return ControlStatus(
            engine=self._engine,
            connected=self.connected,
            epoch=self._publisher.current.epoch,
            versions=tuple(rows),
            left_out=tuple(LeftOut(*each) for each in self._desired.left_out),
        )

    def _publish(self) -> None:
        self._publisher.publish([lease.endpoint for lease in self._leases.live()])
