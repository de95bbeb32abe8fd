"""Commits that the kernel syncs while the loop goes on, and what happens when it cannot."""

import asyncio
import errno
import os
from pathlib import Path

import pytest
import uvloop

from serving.errors import LogStorageFull, LogUnavailable
from serving.predictionlog.writing.syncing import AioSync, Synced
from tests.logs import SETTINGS, FaultyFiles, a_writer, eventually, record, sequences

IMPATIENT = SETTINGS.model_copy(update={"commit_timeout_s": 0.2})


class SyncByHand:
    """Syncs that end when and how the test says; by itself, well and at once."""

    def __init__(self) -> None:
        self.held: list[Synced] = []
        self.holds = False
        self.code = 0
        self.refusal = 0
        self.orders = 0

    def start(self, descriptor: int, done: Synced) -> None:
        self.orders += 1
        refusal, self.refusal = self.refusal, 0
        if refusal:
            raise OSError(refusal, os.strerror(refusal))
        if self.holds:
            self.held.append(done)
            return
        code, self.code = self.code, 0
        asyncio.get_running_loop().call_soon(done, code)

    def end(self, code: int = 0) -> None:
        self.held.pop()(code)

    def close(self) -> None:
        """Nothing to give back."""


async def test_what_comes_during_a_sync_shares_the_next_one(tmp_path: Path) -> None:
    """A lone record is synced at once; all that come meanwhile are one commit behind it."""
    sync = SyncByHand()
    log = a_writer(tmp_path, sync=sync)
    await log.start()
    sync.holds = True
    tasks = [asyncio.create_task(record(log))]
    await eventually(lambda: bool(sync.held))
    tasks += [asyncio.create_task(record(log)) for _ in range(9)]
    await eventually(lambda: log.statistics().pending_records == 10)

    sync.holds = False
    sync.end()
    done = [sequence for task in tasks for sequence in await task]
    await log.aclose()

    assert sync.orders == 2
    assert sequences(tmp_path) == done


async def test_lg_08_a_failed_sync_is_never_repeated_on_its_segment(tmp_path: Path) -> None:
    """After EIO the commit is written once more to a new segment, and found exactly once."""
    sync = SyncByHand()
    log = a_writer(tmp_path, sync=sync)
    await log.start()
    first = await record(log)

    sync.code = errno.EIO
    second = await record(log, count=3)
    third = await record(log)
    statistics = log.statistics()
    await log.aclose()

    assert sequences(tmp_path) == first + second + third
    assert (statistics.suspect_segments, statistics.failed_commits) == (1, 1)


async def test_a_sync_that_the_kernel_does_not_take_is_made_by_the_thread(tmp_path: Path) -> None:
    """A refused order costs a segment, no record."""
    sync = SyncByHand()
    log = a_writer(tmp_path, sync=sync)
    await log.start()

    sync.refusal = errno.EAGAIN
    recorded = await record(log)
    await log.aclose()

    assert sequences(tmp_path) == recorded


async def test_lg_12_a_sync_that_does_not_end_holds_up_the_log_alone(tmp_path: Path) -> None:
    """Waiters get 503 in time on a loop that goes on; when the disk returns nothing is lost."""
    sync = SyncByHand()
    log = a_writer(tmp_path, settings=IMPATIENT, sync=sync)
    await log.start()
    acknowledged = await record(log)
    sync.holds = True

    with pytest.raises(LogUnavailable):
        await record(log)
    assert isinstance(log.refusal, LogUnavailable)
    sync.holds = False
    sync.end()
    await eventually(lambda: log.refusal is None)
    acknowledged += await record(log)
    await log.aclose()

    assert set(acknowledged) <= set(sequences(tmp_path))


async def test_lg_10_a_full_disk_met_by_the_loop_refuses_and_recovers(tmp_path: Path) -> None:
    """ENOSPC at the loop's own write: refused, cut off, and recording again when there is room."""
    files = FaultyFiles()
    log = a_writer(tmp_path, files=files, sync=SyncByHand())
    await log.start()
    acknowledged = await record(log)

    files.break_down(errno.ENOSPC, "write")
    with pytest.raises(LogStorageFull):
        await record(log)
    files.repair()
    await eventually(lambda: log.refusal is None)
    acknowledged += await record(log)
    await log.aclose()

    assert sequences(tmp_path) == acknowledged


async def test_a_surprise_in_the_loop_is_told_and_survived(tmp_path: Path) -> None:
    """What no file system raises fails its own append; the log opens again by itself."""
    files = FaultyFiles()
    log = a_writer(tmp_path, files=files, sync=SyncByHand())
    await log.start()
    acknowledged = await record(log)

    files.surprise()
    with pytest.raises(LogUnavailable):
        await record(log)
    await eventually(lambda: log.refusal is None)
    acknowledged += await record(log)
    await log.aclose()

    assert sequences(tmp_path) == acknowledged


async def test_closing_waits_for_the_sync_on_its_way(tmp_path: Path) -> None:
    """What was appended before closing is recorded and told."""
    sync = SyncByHand()
    log = a_writer(tmp_path, sync=sync)
    await log.start()
    sync.holds = True
    appended = asyncio.create_task(record(log))
    await eventually(lambda: bool(sync.held))

    closing = asyncio.create_task(log.aclose())
    sync.holds = False
    sync.end()
    await closing

    assert sequences(tmp_path) == await appended


def test_the_kernel_syncs_and_tells_failures(tmp_path: Path) -> None:
    """Asynchronous I/O answers 0 for a file and the errno for what cannot be synced."""

    async def sync_both() -> list[int]:
        loop = asyncio.get_running_loop()
        sync = AioSync.open(loop)
        if sync is None:
            pytest.skip("this kernel offers no asynchronous sync")
        codes: list[int] = []
        file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
        reader, writer = os.pipe()
        os.write(file, b"bytes")
        for descriptor in (file, writer):
            told = loop.create_future()
            try:
                sync.start(descriptor, told.set_result)
                codes.append(await told)
            except OSError as error:
                codes.append(error.errno or 0)
        for descriptor in (file, reader, writer):
            os.close(descriptor)
        sync.close()
        return codes

    codes = uvloop.run(sync_both())

    assert codes[0] == 0
    assert codes[1] == errno.EINVAL
