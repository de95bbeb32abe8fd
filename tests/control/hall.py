"""A control plane in virtual time: registry, snapshot and conductor as they are, gateways and replicas
acted by the test. Everything is on disk below one folder, so that control can be killed and built anew."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from serving.control.conductor import Conductor, RolloutOffice
from serving.control.lookout import Senses
from serving.control.measures import Measures
from serving.control.overlay import Overlay
from serving.control.plane import Plane
from serving.control.publisher import SnapshotPublisher
from serving.control.reconciler import Reconciler
from serving.control.register import Office, RegistrySource
from serving.core.clock import ManualClock
from serving.core.models import VersionName
from serving.core.reports import LATENCY_BOUNDS_S, GatewayReport, VersionCounts
from serving.core.traffic import FULL, TrafficPolicy
from serving.governance.comparisons import ComparisonReport
from serving.governance.rollout_states import Turn
from serving.governance.rollouts import Cause
from serving.inference.local import LocalEngine
from serving.inference.plans import ApplicationPlan
from serving.inference.session import OnnxSession
from serving.port_settings import ControlSettings
from serving.registry.entities import RegisteredVersion, Scale
from serving.rollout_settings import RolloutSettings
from serving.storage.worker import Worker
from tests.control.test_register import Verdicts
from tests.plans import a_renewal, an_order
from tests.registries import ADA
from tests.rollouts import RolloutStand

ROWS_A_SECOND = 200
SETTINGS = RolloutSettings(start_s=30, recent_s=30)


class Hall:
    """Model `fraud`: version 1 answers, 2 and 3 are approved. One second a `tick`.

    failing: share of a version's answers that fail. slow_s: how long its answers take. alive: versions
    that have a replica. fault: what is raised whenever a comparison is asked for, `faults` times by now.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = RolloutStand(folder)
        clock = self.registry.clock
        assert isinstance(clock, ManualClock)
        self.clock = clock
        self.office = RolloutOffice(self.registry.database, self.registry.rollouts)
        self.verdicts = Verdicts()
        self.failing: dict[str, float] = {}
        self.slow_s: dict[str, float] = {}
        self.alive = {"1", "2", "3"}
        self.asked_each_s = ROWS_A_SECOND
        self.report: ComparisonReport | None = None
        self.fault: Exception | None = None
        self.faults = 0
        self._told: dict[tuple[str, str], VersionCounts] = {}
        self._left = 0.0
        self._open()

    def _open(self) -> None:
        """A control process."""
        clock = self.clock
        self._executor = ThreadPoolExecutor(max_workers=1)
        self.worker = Worker(clock)
        self.source = RegistrySource(
            lambda: Office(self.registry.database, self.verdicts, self.registry.stand.audit.append),
            self.worker,
            plan_of=plan_of,
            clock=clock,
            period_s=60,
        )
        self.overlay = Overlay(self.source, self.folder / "rollbacks.json")
        self.publisher = SnapshotPublisher(
            path=self.folder / "snapshot.json", restore=True, clock=clock
        )
        self.reconciler = Reconciler(
            LocalEngine(load=OnnxSession.load, clock=clock),
            period_s=1,
            executor=self._executor,
            clock=clock,
        )
        self.plane = Plane(
            self.overlay,
            engine="local",
            reconciler=self.reconciler,
            publisher=self.publisher,
            settings=ControlSettings(lease_s=3, renew_s=1, drain_s=2),
            clock=clock,
        )
        self.measures = Measures(clock)
        senses = Senses(
            self.plane, self.measures, lambda _model, _candidate: self._comparison(), self._reread
        )
        self.conductor = Conductor(
            lambda: self.office,
            self.worker,
            senses=senses,
            overlay=self.overlay,
            settings=SETTINGS,
            clock=clock,
        )

    def kill(self) -> None:
        """Control dies and is started again; the disk and the gateways are as they were."""
        self.worker.close()
        self._executor.shutdown()
        self._open()

    def close(self) -> None:
        self.worker.close()
        self._executor.shutdown()
        self.registry.close()

    @property
    def policy(self) -> TrafficPolicy:
        """As gateways were told last."""
        (policy,) = self.publisher.current.policies
        return policy

    @property
    def published(self) -> float:
        """What version 2 answers."""
        return self.policy.weight_of(VersionName("2")) / FULL

    async def tick(self, seconds: int = 1) -> None:
        for _ in range(seconds):
            self._ask()
            self.clock.advance(1.0)
            for version in ("1", "2", "3"):
                if version in self.alive:
                    self.plane.renew(a_renewal(f"r{version}", "fraud", version))
                else:
                    self.plane.leave(f"r{version}")
            self._tell()
            await self.source.read()
            self.plane.look()
            self.conductor.nudge()
            await self.conductor.turn(self.office)

    async def until(self, condition: Callable[[], bool], *, within_s: int = 600) -> int:
        """How many seconds it took."""
        for passed in range(within_s):
            if condition():
                return passed
            await self.tick()
        raise AssertionError(f"not within {within_s} s")

    def state(self) -> str:
        return self.registry.newest().state.value

    def order(self, turn: Turn) -> None:
        """By an operator."""
        self.registry.turn(turn, actor=ADA, cause=Cause(reason="a test"))

    def hide_database(self) -> None:
        (self.folder / "registry.sqlite").rename(self.folder / "away")

    def return_database(self) -> None:
        (self.folder / "away").rename(self.folder / "registry.sqlite")

    def forget(self) -> None:
        """Gateways count anew in the same generation, against what they promise."""
        self._told = {}

    # -- gateways --------------------------------------------------------------------------------

    def _ask(self) -> None:
        """A second of requests, shared out as gateways were told."""
        if not self.publisher.current.policies:
            return
        policy = self.policy
        for arm in policy.arms:
            self._answer(arm.version, "canary", self.asked_each_s * arm.weight / FULL)
        rest = policy.weight_of(policy.stable) / FULL
        self._answer(policy.stable, "stable", self.asked_each_s * rest)

    def _answer(self, version: str, role: str, asked: float) -> None:
        self._left += asked % 1
        whole, self._left = int(asked) + int(self._left), self._left % 1
        failed = round(whole * self.failing.get(version, 0.0))
        slow_s, ok = self.slow_s.get(version, 0.004), whole - failed
        buckets = tuple(ok if slow_s <= bound else 0 for bound in LATENCY_BOUNDS_S)
        counts = VersionCounts(
            "fraud",
            version,
            role,  # type: ignore[arg-type]  # one of them
            ok=ok,
            failed={"model_error": failed} if failed else {},
            latency_buckets=(*buckets, ok),
        )
        known = self._told.get((version, role))
        self._told[version, role] = counts if known is None else known.plus(counts)

    def _tell(self) -> None:
        now_ns = self.clock.wall_ns()
        self.measures.take(GatewayReport("g", 1, now_ns, 1, tuple(self._told.values())))

    def _comparison(self) -> ComparisonReport | None:
        if self.fault is not None:
            self.faults += 1
            raise self.fault
        return self.report

    async def _reread(self) -> bool:
        await self.source.read()
        return not self.source.trouble


def plan_of(version: RegisteredVersion, scale: Scale, release: str) -> ApplicationPlan:
    del release
    return ApplicationPlan(
        an_order(version.definition),
        min_replicas=scale.min_replicas,
        max_replicas=scale.max_replicas,
    )
