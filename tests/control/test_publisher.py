import asyncio
from pathlib import Path

import pytest

from serving.control.publisher import SnapshotPublisher, read_snapshot
from serving.core.clock import ManualClock
from serving.core.models import ModelName, VersionName
from serving.core.traffic import Snapshot, TrafficPolicy
from tests.plans import a_version, an_endpoint

POLICY = TrafficPolicy(ModelName("doubler"), VersionName("1"))
WALL_MS = 1_700_000_000_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "snapshot.json"


def publisher_of(
    file: Path, *, clock: ManualClock | None = None, restore: bool = True
) -> SnapshotPublisher:
    return SnapshotPublisher(
        versions=[a_version()],
        policies=[POLICY],
        path=file,
        restore=restore,
        clock=clock or ManualClock(),
    )


async def test_first_snapshot_names_versions_and_policies_without_endpoints(file: Path) -> None:
    """Gateways learn what will be served before any replica is there."""
    snapshot = await publisher_of(file).after(0, wait_s=0)

    assert Snapshot(WALL_MS, (a_version(),), (POLICY,)) == snapshot


async def test_every_change_raises_the_epoch_by_one(file: Path) -> None:
    """A new set of endpoints is a new epoch; the same set is none."""
    publisher = publisher_of(file)
    publisher.publish([an_endpoint("a")])
    publisher.publish([an_endpoint("a")])

    assert publisher.current.epoch == WALL_MS + 1


async def test_endpoints_of_versions_that_should_not_run_are_left_out(file: Path) -> None:
    """A replica of a version that is being removed gets no traffic."""
    publisher = publisher_of(file)

    publisher.publish([an_endpoint("a"), an_endpoint("old", version="0")])

    assert (an_endpoint("a"),) == publisher.current.endpoints


async def test_waiting_ends_when_something_changes(file: Path) -> None:
    """A gateway that waits is answered by the change, not by the end of its wait."""
    publisher = publisher_of(file)
    waiting = asyncio.create_task(publisher.after(publisher.current.epoch, wait_s=30))
    await asyncio.sleep(0)

    publisher.publish([an_endpoint("a")])

    snapshot = await asyncio.wait_for(waiting, 1)
    assert snapshot is publisher.current


async def test_waiting_without_news_ends_with_nothing(file: Path) -> None:
    """After `wait_s` without a change there is no snapshot to tell."""
    publisher = publisher_of(file)

    assert await publisher.after(publisher.current.epoch, wait_s=0.01) is None


async def test_gateway_from_the_future_makes_the_epoch_jump(file: Path) -> None:
    """A gateway that knows a later epoch gets a snapshot that it will believe."""
    snapshot = await publisher_of(file).after(WALL_MS + 500, wait_s=0)

    assert snapshot is not None
    assert snapshot.epoch == WALL_MS + 501


async def test_restart_publishes_the_replicas_it_knew_under_a_later_epoch(file: Path) -> None:
    """A control process that starts again, its clock set back, takes no model off the air."""
    before = publisher_of(file)
    before.publish([an_endpoint("a")])
    clock = ManualClock()
    clock.step_wall(-3600)

    after = publisher_of(file, clock=clock)

    assert (an_endpoint("a"),) == after.current.endpoints == after.restored
    assert before.current.epoch + 1 == after.current.epoch


async def test_replicas_that_cannot_live_are_not_restored(file: Path) -> None:
    """With an engine inside this process, a restart knows no replica but keeps the epoch."""
    before = publisher_of(file)
    before.publish([an_endpoint("a")])

    after = publisher_of(file, restore=False)

    assert after.current.endpoints == ()
    assert after.current.epoch > before.current.epoch


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"epoch": "x"}'])
def test_damaged_file_counts_as_none(file: Path, content: bytes) -> None:
    """A file that cannot be understood is ignored; the replicas renew within seconds."""
    file.write_bytes(content)

    assert read_snapshot(file) is None


async def test_file_that_cannot_be_written_does_not_stop_publishing(tmp_path: Path) -> None:
    """Gateways are told although the disk refuses."""
    publisher = publisher_of(tmp_path / "absent" / "snapshot.json")

    publisher.publish([an_endpoint("a")])

    assert (an_endpoint("a"),) == publisher.current.endpoints


async def test_published_snapshot_is_on_disk(file: Path) -> None:
    """The file holds what gateways were told last."""
    publisher = publisher_of(file)
    publisher.publish([an_endpoint("a")])

    assert publisher.current == read_snapshot(file)
