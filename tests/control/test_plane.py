import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving.control.desired import Desired
from serving.control.plane import Plane
from serving.control.publisher import SnapshotPublisher
from serving.control.reconciler import Reconciler
from serving.core.clock import ManualClock
from serving.core.models import ModelName, VersionName
from serving.core.traffic import TrafficPolicy
from serving.inference.local import LocalEngine
from serving.inference.registration import Phase, PhaseReport
from serving.inference.session import OnnxSession
from serving.port_settings import ControlSettings
from tests.folderplans import FixedSource
from tests.plans import a_plan, a_renewal, an_endpoint

DESIRED = Desired((a_plan(),), (TrafficPolicy(ModelName("doubler"), VersionName("1")),))
SETTINGS = ControlSettings(lease_s=10, renew_s=0.02)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def plane(tmp_path: Path, clock: ManualClock) -> Iterator[Plane]:
    publisher = SnapshotPublisher(
        path=tmp_path / "snapshot.json",
        restore=True,
        clock=clock,
    )
    engine = LocalEngine(load=OnnxSession.load, clock=clock)
    with ThreadPoolExecutor(max_workers=1) as executor:
        reconciler = Reconciler(engine, period_s=1, executor=executor, clock=clock)
        plane = Plane(
            FixedSource(DESIRED),
            engine="local",
            reconciler=reconciler,
            publisher=publisher,
            settings=SETTINGS,
            clock=clock,
        )
        plane.look()
        yield plane


async def test_new_replica_reaches_waiting_gateways_at_once(plane: Plane) -> None:
    """Taking a lease is what publishes an endpoint."""
    first = await plane.snapshot(0, wait_s=0)
    assert first is not None
    waiting = asyncio.create_task(plane.snapshot(first.epoch, wait_s=30))
    await asyncio.sleep(0)

    lease_s = plane.renew(a_renewal("a"))

    snapshot = await asyncio.wait_for(waiting, 10)
    assert snapshot is not None
    assert ((an_endpoint("a"),), 10) == (snapshot.endpoints, lease_s)


async def test_replica_that_leaves_is_not_published_any_more(plane: Plane) -> None:
    """Giving the lease back takes the endpoint out of the next snapshot."""
    plane.renew(a_renewal("a"))
    plane.leave("a")
    snapshot = await plane.snapshot(0, wait_s=0)

    assert snapshot is not None
    assert snapshot.endpoints == ()


async def test_silent_replica_is_taken_out_without_anybody_asking(
    plane: Plane, clock: ManualClock
) -> None:
    """Expiry is noticed by the plane itself."""
    plane.renew(a_renewal("a"))
    before = await plane.snapshot(0, wait_s=0)
    assert before is not None
    keeping = asyncio.create_task(plane.run())
    clock.advance(11)

    after = await plane.snapshot(before.epoch, wait_s=5)

    keeping.cancel()
    assert after is not None
    assert after.endpoints == ()


def test_status_follows_a_replica_from_its_first_word_to_its_lease(plane: Plane) -> None:
    """waiting, loading, warming, ready: as the replica tells."""
    states = [plane.status().versions[0].state]
    phases: tuple[Phase, ...] = ("loading", "warming")
    for phase in phases:
        plane.report_phase(PhaseReport("doubler", "1", phase))
        states.append(plane.status().versions[0].state)
    plane.renew(a_renewal("a"))
    states.append(plane.status().versions[0].state)

    assert states == ["waiting", "loading", "warming", "ready"]
