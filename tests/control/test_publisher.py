import asyncio
from dataclasses import replace
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
    return SnapshotPublisher(path=file, restore=restore, clock=clock or ManualClock())


def a_snapshot(*replicas: str) -> Snapshot:
    """Of no epoch: that is the publisher's."""
    endpoints = tuple(an_endpoint(replica) for replica in replicas)
    return Snapshot(0, (a_version(),), (POLICY,), endpoints)


async def test_nobody_is_told_anything_before_the_first_snapshot(file: Path) -> None:
    """A gateway with a copy of its own goes on with that; the first snapshot is news to it."""
    publisher = publisher_of(file)
    before = await publisher.after(0, wait_s=0)
    ahead = await publisher.after(WALL_MS + 7, wait_s=0)
    publisher.publish(a_snapshot())

    assert (before, ahead) == (None, None)
    assert replace(a_snapshot(), epoch=WALL_MS + 8) == await publisher.after(WALL_MS + 7, wait_s=0)


async def test_every_change_raises_the_epoch_by_one(file: Path) -> None:
    """A new set of endpoints is a new epoch; the same set is none."""
    publisher = publisher_of(file)
    publisher.publish(a_snapshot())
    publisher.publish(a_snapshot("a"))
    publisher.publish(a_snapshot("a"))

    assert publisher.current.epoch == WALL_MS + 1


async def test_waiting_ends_when_something_changes(file: Path) -> None:
    """A gateway that waits is answered by the change, not by the end of its wait."""
    publisher = publisher_of(file)
    publisher.publish(a_snapshot())
    waiting = asyncio.create_task(publisher.after(publisher.current.epoch, wait_s=30))
    await asyncio.sleep(0)

    publisher.publish(a_snapshot("a"))

    snapshot = await asyncio.wait_for(waiting, 10)
    assert snapshot is publisher.current


async def test_waiting_without_news_ends_with_nothing(file: Path) -> None:
    """After `wait_s` without a change there is no snapshot to tell."""
    publisher = publisher_of(file)
    publisher.publish(a_snapshot())

    assert await publisher.after(publisher.current.epoch, wait_s=0.01) is None


async def test_gateway_from_the_future_makes_the_epoch_jump(file: Path) -> None:
    """A gateway that knows a later epoch gets a snapshot that it will believe."""
    publisher = publisher_of(file)
    publisher.publish(a_snapshot())
    snapshot = await publisher.after(WALL_MS + 500, wait_s=0)

    assert snapshot is not None
    assert snapshot.epoch == WALL_MS + 501


async def test_restart_publishes_the_replicas_it_knew_under_a_later_epoch(file: Path) -> None:
    """A control process that starts again, its clock set back, takes no model off the air."""
    before = publisher_of(file)
    before.publish(a_snapshot("a"))
    clock = ManualClock()
    clock.step_wall(-3600)

    after = publisher_of(file, clock=clock)

    assert (an_endpoint("a"),) == after.current.endpoints == after.restored
    assert before.current.epoch + 1 == after.current.epoch


async def test_replicas_that_cannot_live_are_not_restored(file: Path) -> None:
    """With an engine inside this process, a restart knows no replica but keeps the epoch."""
    before = publisher_of(file)
    before.publish(a_snapshot("a"))

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

    publisher.publish(a_snapshot("a"))

    assert (an_endpoint("a"),) == publisher.current.endpoints


async def test_published_snapshot_is_on_disk(file: Path) -> None:
    """The file holds what gateways were told last."""
    publisher = publisher_of(file)
    publisher.publish(a_snapshot("a"))

    assert publisher.current == read_snapshot(file)
