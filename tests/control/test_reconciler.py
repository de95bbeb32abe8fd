import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving.control.reconciler import (
    FIRST_RETRY_S,
    Delete,
    Deploy,
    Failure,
    Reconciler,
    next_step,
)
from serving.core.clock import ManualClock
from serving.errors import NotReady
from serving.inference.plans import ApplicationPlan, ApplicationReport, State
from tests.plans import a_plan

ONE, TWO = a_plan("one"), a_plan("two")
OLD_ONE = a_plan("one", min_replicas=2)
STARTING, RUNNING = ApplicationReport("starting"), ApplicationReport("running", 1)
FAILED, DELETING = ApplicationReport("failed", message="no"), ApplicationReport("deleting")


class MemoryEngine:
    """An engine whose applications are in the state that a test puts them in."""

    def __init__(self, becomes: State = "running") -> None:
        self.becomes = becomes
        self.applications: dict[str, ApplicationReport] = {}
        self.calls: list[tuple[str, tuple[str, ...]]] = []
        self.broken = False
        self.refused = threading.Event()
        self.deployed = threading.Event()

    def connect(self) -> None: ...

    def disconnect(self) -> None: ...

    def report(self) -> dict[str, ApplicationReport]:
        if self.broken:
            self.refused.set()
            raise NotReady("away")
        return dict(self.applications)

    def deploy(self, plans: Sequence[ApplicationPlan]) -> None:
        self.calls.append(("deploy", tuple(plan.key for plan in plans)))
        message = "no" if self.becomes == "failed" else ""
        for plan in plans:
            self.applications[plan.name] = ApplicationReport(self.becomes, message=message)
        self.deployed.set()

    def delete(self, name: str) -> None:
        self.calls.append(("delete", (name,)))
        del self.applications[name]


@pytest.fixture
def engine() -> MemoryEngine:
    return MemoryEngine()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def reconciler(engine: MemoryEngine, clock: ManualClock) -> Iterator[Reconciler]:
    with ThreadPoolExecutor(max_workers=1) as executor:
        reconciler = Reconciler(engine, period_s=0.01, executor=executor, clock=clock)
        reconciler.want([ONE, TWO])
        yield reconciler


async def settle(reconciler: Reconciler) -> None:
    while await reconciler.reconcile():
        pass


def test_missing_applications_are_deployed_together() -> None:
    """One step starts everything that is not there."""
    assert Deploy((ONE, TWO)) == next_step([ONE, TWO], {}, {}, now_ns=0)


def test_what_runs_as_desired_is_left_alone() -> None:
    """Starting and running applications with the wanted name need no step."""
    reported = {ONE.name: RUNNING, TWO.name: STARTING}

    assert next_step([ONE, TWO], reported, {}, now_ns=0) is None


def test_unwanted_version_is_deleted() -> None:
    """An application of a version that nobody wants goes at once."""
    reported = {ONE.name: STARTING, TWO.name: RUNNING}

    assert Delete(TWO.name) == next_step([ONE], reported, {}, now_ns=0)


def test_predecessor_stays_until_its_successor_runs() -> None:
    """A changed plan is a new application; the old one serves until the new one does."""
    while_starting = {OLD_ONE.name: RUNNING, ONE.name: STARTING}
    when_running = {OLD_ONE.name: RUNNING, ONE.name: RUNNING}

    assert next_step([ONE], while_starting, {}, now_ns=0) is None
    assert Delete(OLD_ONE.name) == next_step([ONE], when_running, {}, now_ns=0)


def test_version_that_gateways_know_is_not_deleted() -> None:
    """What is kept stays although nobody desires it; the old one of two of its kind does not."""
    reported = {ONE.name: RUNNING, TWO.name: RUNNING, OLD_ONE.name: RUNNING}

    assert (
        next_step([TWO], {TWO.name: RUNNING, ONE.name: RUNNING}, {}, now_ns=0, kept={ONE.key})
        is None
    )
    assert Delete(OLD_ONE.name) == next_step([ONE], reported, {}, now_ns=0, kept={TWO.key})


def test_nothing_is_asked_of_an_application_that_is_being_deleted() -> None:
    """Deleting takes its time; the name is used again only when it is free."""
    assert next_step([ONE], {ONE.name: DELETING, TWO.name: DELETING}, {}, now_ns=0) is None


@pytest.mark.parametrize(("now_ns", "expected"), [(99, None), (100, Delete(ONE.name))])
def test_failed_application_is_deleted_after_its_back_off(
    now_ns: int, expected: Delete | None
) -> None:
    """A failure is left alone until it is time to try again."""
    failures = {ONE.name: Failure("no", attempts=1, retry_ns=100)}

    assert expected == next_step([ONE], {ONE.name: FAILED}, failures, now_ns=now_ns)


async def test_reconciling_twice_deploys_once(reconciler: Reconciler, engine: MemoryEngine) -> None:
    """What runs is never deployed again."""
    await settle(reconciler)
    await settle(reconciler)

    assert engine.calls == [("deploy", ("one@1", "two@1"))]


async def test_nothing_happens_before_it_is_known_what_should_run(
    engine: MemoryEngine, clock: ManualClock
) -> None:
    """A control process whose registry is away deletes nothing and deploys nothing."""
    engine.applications[ONE.name] = RUNNING
    with ThreadPoolExecutor(max_workers=1) as executor:
        unknowing = Reconciler(engine, period_s=1, executor=executor, clock=clock)
        await settle(unknowing)

    assert (engine.calls, list(unknowing.reported)) == ([], [ONE.name])


async def test_wishes_change_while_it_runs(reconciler: Reconciler, engine: MemoryEngine) -> None:
    """What is no longer wanted goes, announced before; what is new comes, without a wait."""
    announced: list[str] = []
    reconciler.withdrawing = announced.append
    await settle(reconciler)
    reconciler.want([TWO, OLD_ONE])
    await settle(reconciler)

    assert engine.calls[1:] == [("deploy", ("one@1",)), ("delete", (ONE.name,))]
    assert announced == []
    reconciler.want([TWO])
    await settle(reconciler)
    assert announced == ["one@1"]


async def test_new_reconciler_touches_nothing_that_runs(
    reconciler: Reconciler, engine: MemoryEngine, clock: ManualClock
) -> None:
    """A control process that starts again finds everything as it should be."""
    await settle(reconciler)
    engine.calls.clear()
    with ThreadPoolExecutor(max_workers=1) as executor:
        again = Reconciler(engine, period_s=1, executor=executor, clock=clock)
        again.want([ONE, TWO])
        await settle(again)

    assert engine.calls == []


async def test_failures_back_off_longer_each_time(
    reconciler: Reconciler, engine: MemoryEngine, clock: ManualClock
) -> None:
    """The second wait is twice the first, and the reason is kept meanwhile."""
    engine.becomes = "failed"
    await settle(reconciler)
    first = reconciler.failures[ONE.name]
    clock.advance(FIRST_RETRY_S)
    await settle(reconciler)
    second = reconciler.failures[ONE.name]

    assert (first.message, first.attempts, second.message, second.attempts) == ("no", 1, "no", 2)
    assert second.retry_ns - clock.monotonic_ns() == 2 * FIRST_RETRY_S * 1e9


async def test_success_forgets_earlier_failures(
    reconciler: Reconciler, engine: MemoryEngine, clock: ManualClock
) -> None:
    """An application that runs starts over with the shortest back-off."""
    engine.becomes = "failed"
    await settle(reconciler)
    engine.becomes = "running"
    clock.advance(FIRST_RETRY_S)
    await settle(reconciler)

    assert reconciler.failures == {}


async def test_engine_that_is_away_does_not_end_reconciliation(
    reconciler: Reconciler, engine: MemoryEngine
) -> None:
    """When the engine answers again, the work goes on."""
    engine.broken = True
    running = asyncio.create_task(reconciler.run())
    assert await asyncio.to_thread(engine.refused.wait, 5)
    engine.broken = False

    assert await asyncio.to_thread(engine.deployed.wait, 5)
    running.cancel()
