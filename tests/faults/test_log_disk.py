"""The prediction log on disks that fail, fill up, stall, and under writers that are killed."""

import asyncio
import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.core.clock import ManualClock, SystemClock
from serving.errors import LogStorageFull, LogUnavailable
from serving.predictionlog.files import OUT_OF_SPACE
from serving.predictionlog.reading.verification import verify
from serving.predictionlog.writing.writer import PredictionLogWriter
from tests.logs import (
    SETTINGS,
    SIGNER,
    TRUSTED,
    FaultyFiles,
    a_committer,
    a_writer,
    eventually,
    frames_of,
    names_in,
    newest_segment,
    read_all,
    record,
    sequences,
    without_room,
)

ROOT = Path(__file__).resolve().parents[2]
SMALL = SETTINGS.model_copy(update={"segment_bytes": 64 * 1024})


@pytest.mark.parametrize("nth", range(1, 6))
def test_lg_08_a_failed_write_moves_to_a_new_segment(tmp_path: Path, nth: int) -> None:
    """EIO on the n-th write: its records are written once more, elsewhere; each is found once."""
    files = FaultyFiles()
    committer = a_committer(tmp_path, files=files)
    files.fail("write", errno.EIO, nth=nth)

    results = [committer.commit(frames_of(2 * n + 1, 2 * n + 2)) for n in range(6)]
    committer.close()

    assert results == [None] * 6
    assert sequences(tmp_path) == list(range(1, 13))
    report = verify(tmp_path)
    suspects = ["suspect"] if nth > 1 else []  # one without a commit is not kept
    assert [segment.state for segment in report.segments] == [*suspects, "sealed"]
    assert report.damage == ()


def test_lg_08_what_a_failed_sync_left_behind_is_not_read_twice(tmp_path: Path) -> None:
    """The suspect segment may hold the failed commit in full; the copy in the next one counts."""
    files = FaultyFiles()
    committer = a_committer(tmp_path, files=files)
    committer.commit(frames_of(1))
    files.lose()

    assert committer.commit(frames_of(2)) is None

    suspect, fresh = sorted(tmp_path.glob("*.segment"))
    [copy] = frames_of(2)
    assert copy in suspect.read_bytes()
    assert copy in fresh.read_bytes()
    committer.close()
    assert sequences(tmp_path) == [1, 2]
    assert verify(tmp_path).damage == ()


def test_lg_08_a_second_failure_refuses_until_a_probe_succeeds(tmp_path: Path) -> None:
    """While every write fails nothing is acknowledged; a later probe begins a new segment."""
    files, clock = FaultyFiles(), ManualClock()
    committer = a_committer(tmp_path, files=files, clock=clock)
    committer.commit(frames_of(1))
    files.break_down(errno.EIO, "write")

    results = [type(committer.commit(frames_of(n))) for n in (2, 3)]
    refusals = [type(committer.refusal)]
    for _ in range(2):
        clock.advance(1.0)
        committer.tend(idle=True)
        refusals.append(type(committer.refusal))
    files.repair()
    clock.advance(1.0)
    committer.tend(idle=True)

    assert results == [LogUnavailable] * 2
    assert refusals == [LogUnavailable] * 3
    assert committer.refusal is None
    assert committer.commit(frames_of(4)) is None
    committer.close()
    assert sequences(tmp_path) == [1, 4]
    assert verify(tmp_path).damage == ()


async def test_lg_08_recording_resumes_without_a_restart(tmp_path: Path) -> None:
    """A disk that fails for a while costs refusals, and is probed until it works again."""
    files = FaultyFiles()
    log = a_writer(tmp_path, files=files)
    await log.start()
    await record(log)
    files.break_down(errno.EIO, "write", "create")
    with pytest.raises(LogUnavailable):
        await record(log)
    assert isinstance(log.refusal, LogUnavailable)

    files.repair()
    await eventually(lambda: log.refusal is None)

    assert await record(log) == [3]
    await log.aclose()
    assert sequences(tmp_path) == [1, 3]


@pytest.mark.parametrize("code", sorted(OUT_OF_SPACE))
def test_lg_10_lg_11_a_full_disk_keeps_the_segment(tmp_path: Path, code: int) -> None:
    """Out of space is no reason to suspect the segment: refused records leave no trace in it."""
    files = FaultyFiles()
    committer = a_committer(tmp_path, files=files)
    committer.commit(frames_of(1))
    files.write_short(100)
    files.fail("write", code, nth=2)

    refused = committer.commit(frames_of(2))
    refusal = committer.refusal
    accepted = committer.commit(frames_of(3))
    committer.close()

    assert (type(refused), type(refusal), accepted) == (LogStorageFull, LogStorageFull, None)
    assert committer.refusal is None
    assert sequences(tmp_path) == [1, 3]
    assert names_in(tmp_path) == ["00000001.segment", "head.json", "lock"]
    assert verify(tmp_path).damage == ()


def test_lg_10_lg_14_a_segment_that_cannot_be_created_has_to_wait(tmp_path: Path) -> None:
    """Without room (or descriptors) for the next segment the current one grows."""
    for code in (errno.ENOSPC, errno.EMFILE):
        directory = tmp_path / errno.errorcode[code]
        files = FaultyFiles()
        committer = a_committer(directory, files=files, settings=SMALL)
        files.break_down(code, "create")
        for start in range(1, 1001, 50):
            assert committer.commit(frames_of(*range(start, start + 50))) is None
            committer.tend(idle=True)
        committer.close()

        assert sequences(directory) == list(range(1, 1001))
        assert names_in(directory) == ["00000001.segment", "head.json", "lock"]


@pytest.mark.parametrize("nth", range(1, 34))
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_lg_10_turning_over_survives_a_failure_at_any_write(
    tmp_path: Path, code: int, nth: int
) -> None:
    """A failure while sealing, preparing or beginning a segment loses nothing acknowledged."""
    files = FaultyFiles()
    committer = a_committer(tmp_path, files=files, settings=SMALL)
    acknowledged = list(range(1, 451))
    committer.commit(frames_of(*acknowledged))
    files.fail("write", code, nth=nth)
    for n in range(451, 480):
        if committer.commit(frames_of(n)) is None:
            acknowledged.append(n)
        committer.tend(idle=True)
    committer.close()

    assert sequences(tmp_path) == acknowledged
    report = verify(tmp_path)
    assert report.damage == ()
    assert len(report.segments) > 1


def test_lg_10_a_full_disk_that_cannot_even_be_cut_moves_on(tmp_path: Path) -> None:
    """When what a refused write left cannot be cut off, the segment is not used again."""
    files = FaultyFiles()
    committer = a_committer(tmp_path, files=files)
    committer.commit(frames_of(1))
    files.fail("write", errno.ENOSPC)
    files.fail("truncate", errno.EIO)

    assert committer.commit(frames_of(2)) is None

    committer.close()
    assert [segment.state for segment in verify(tmp_path).segments] == ["suspect", "sealed"]
    assert sequences(tmp_path) == [1, 2]


def test_a_start_on_a_broken_disk_is_refused(tmp_path: Path) -> None:
    """A disk that cannot be written stops the start in one line, and holds no lock afterwards."""
    files = FaultyFiles()
    files.fail("write", errno.EIO)

    with pytest.raises(LogUnavailable, match="cannot be opened: EIO"):
        a_committer(tmp_path, files=files)

    a_committer(tmp_path).close()
    assert names_in(tmp_path) == ["00000001.segment", "head.json", "lock"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_lg_10_a_log_that_cannot_be_sealed_is_recovered(tmp_path: Path, code: int) -> None:
    """A stop whose seal fails loses nothing; the next start seals."""
    files = FaultyFiles()
    committer = a_committer(tmp_path, files=files)
    committer.commit(frames_of(1, 2))
    files.break_down(code, "write")
    committer.close()

    a_committer(tmp_path).close()

    assert sequences(tmp_path) == [1, 2]
    assert [segment.state for segment in verify(tmp_path).segments] == ["recovered", "sealed"]


def test_room_that_cannot_be_written_ahead_is_no_loss(tmp_path: Path) -> None:
    """A failure while writing room ahead is met before any record depends on it."""
    files = FaultyFiles()
    committer = a_committer(tmp_path, files=files)
    committer.commit(frames_of(*range(1, 1501)))
    files.fail("write", errno.EIO)
    committer.tend(idle=True)
    states = [segment.state for segment in verify(tmp_path).segments]
    committer.commit(frames_of(1501))
    committer.close()

    assert states == ["suspect", "open"]
    assert sequences(tmp_path) == list(range(1, 1502))
    assert verify(tmp_path).damage == ()


async def test_lg_10_little_space_refuses_newcomers_only(tmp_path: Path) -> None:
    """Below `min_free_bytes` nobody new is admitted, but who was admitted is still recorded."""
    log = a_writer(tmp_path, settings=SETTINGS.model_copy(update={"min_free_bytes": 2**60}))
    await log.start()

    refusal, recorded = log.refusal, await record(log)

    assert (type(refusal), recorded) == (LogStorageFull, [1])
    await log.aclose()


def test_lg_09_a_short_write_is_completed(tmp_path: Path) -> None:
    """A write that took only a part, even within the footer, goes on where it ended."""
    files = FaultyFiles()
    committer = a_committer(tmp_path, files=files)
    for length in (1, 75, 200, 419, 420):
        files.write_short(length)
        assert committer.commit(frames_of(length, 1000 + length)) is None
    committer.close()

    assert sequences(tmp_path) == [n for m in (1, 75, 200, 419, 420) for n in (m, 1000 + m)]
    assert verify(tmp_path).damage == ()


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EINTR])
def test_lg_09_an_interrupted_write_counts_as_a_whole(tmp_path: Path, code: int) -> None:
    """A write that the kernel gives back is made once more as a whole, and found once."""
    files = FaultyFiles()
    committer = a_committer(tmp_path, files=files)
    committer.commit(frames_of(1))
    files.fail("write", code)

    assert committer.commit(frames_of(2, 3)) is None

    committer.close()
    assert sequences(tmp_path) == [1, 2, 3]
    assert verify(tmp_path).damage == ()


def test_lg_14_a_head_without_a_descriptor_has_to_wait(tmp_path: Path) -> None:
    """Out of descriptors the head is not written; recording goes on, and the next head is."""
    files, clock = FaultyFiles(), ManualClock()
    committer = a_committer(tmp_path, files=files, clock=clock)
    files.break_down(errno.EMFILE, "replace", "create")
    for n in (1, 2):
        assert committer.commit(frames_of(n)) is None
        clock.advance(1.0)
        committer.tend(idle=True)
    without = names_in(tmp_path)
    files.repair()
    clock.advance(1.0)
    committer.tend(idle=True)

    assert without == ["00000001.segment", "lock"]
    assert "head.json" in names_in(tmp_path)
    assert committer.refusal is None
    committer.close()


@pytest.mark.parametrize("gone", ["the newest", "all"])
def test_lg_13_a_gap_is_never_closed_over(tmp_path: Path, gone: str) -> None:
    """Segments removed while nobody looked: no number is used again, and verify names the gap."""
    for first in (1, 3):
        committer = a_committer(tmp_path)
        committer.sequence = first + 1
        committer.commit(frames_of(first, first + 1))
        committer.close()
    for segment in tmp_path.glob("*.segment"):
        if gone == "all" or segment == newest_segment(tmp_path):
            segment.unlink()

    committer = a_committer(tmp_path)
    following = committer.sequence = committer.sequence + 1
    committer.commit(frames_of(following))
    committer.close()

    assert following == 5
    assert newest_segment(tmp_path).name == "00000003.segment"
    reasons = [finding.reason for finding in verify(tmp_path, trusted=TRUSTED).damage]
    assert reasons == ["segment 2 was gone when this one was begun"]


@pytest.mark.parametrize(("durability", "damage"), [("process", 0), ("fsync", 1)])
def test_lg_05_what_a_power_cut_cost_is_told(
    tmp_path: Path, durability: str, damage: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Commits that the signed head counted and the restart does not find are told and sealed."""
    settings = SETTINGS.model_copy(update={"durability": durability})
    clock = ManualClock()
    committer = a_committer(tmp_path, settings=settings, clock=clock)
    for n in range(1, 6):
        committer.sequence = n
        committer.commit(frames_of(n))
    clock.advance(2.0)
    committer.tend(idle=True)
    committer.give_up()
    segment = tmp_path / "00000001.segment"
    content = segment.read_bytes()
    segment.write_bytes(content[: content.index(frames_of(4)[0])])
    (tmp_path / "lock").unlink()

    again = a_committer(tmp_path, settings=settings)
    again.close()

    report = verify(tmp_path, trusted=TRUSTED)
    assert report.segments[0].lost_commits == 2
    assert "2 commits that were recorded are gone, up to sequence 5" in caplog.text
    assert len(report.damage) == damage
    assert again.sequence == 5


async def test_lg_12_a_stalled_disk_fails_its_waiters_and_not_the_loop(tmp_path: Path) -> None:
    """Who waits longer than `commit_timeout_s` is told; the late record may exist, unanswered."""
    files = FaultyFiles()
    log = a_writer(
        tmp_path, files=files, settings=SETTINGS.model_copy(update={"commit_timeout_s": 0.2})
    )
    await log.start()
    await record(log)
    gate = files.stall()
    loop = asyncio.get_running_loop()
    began_s = loop.time()

    results = await asyncio.gather(record(log), record(log), return_exceptions=True)
    waited_s = loop.time() - began_s
    refusal = log.refusal
    gate.set()
    await eventually(lambda: log.refusal is None)

    assert [type(result) for result in results] == [LogUnavailable, LogUnavailable]
    assert 0.15 < waited_s < 2
    assert isinstance(refusal, LogUnavailable)
    assert await record(log) == [4]
    await log.aclose()
    assert sequences(tmp_path) == [1, 2, 3, 4]


async def test_closing_does_not_wait_for_a_dead_disk(tmp_path: Path) -> None:
    """A disk that never answers delays the end by `commit_timeout_s`, and its waiters are told."""
    files = FaultyFiles()
    log = a_writer(
        tmp_path, files=files, settings=SETTINGS.model_copy(update={"commit_timeout_s": 0.2})
    )
    await log.start()
    gate = files.stall()
    call = asyncio.create_task(record(log))
    await asyncio.sleep(0)

    await log.aclose()

    with pytest.raises(LogUnavailable):
        await call
    gate.set()


@pytest.mark.parametrize("harm", ["removed", "cut"])
async def test_lg_13_harm_from_outside_is_noticed(tmp_path: Path, harm: str) -> None:
    """A segment removed or cut while open is left within a second, for a new one."""
    log = a_writer(tmp_path)
    await log.start()
    await record(log)
    segment = newest_segment(tmp_path)
    if harm == "removed":
        segment.unlink()
    else:
        os.truncate(segment, 100)

    await eventually(lambda: newest_segment_name(tmp_path) == "00000002.segment")

    assert await record(log) == [2]
    await log.aclose()
    assert sequences(tmp_path) == [2]
    if harm == "cut":
        assert verify(tmp_path).damage


def newest_segment_name(directory: Path) -> str:
    return max([name for name in names_in(directory) if name != "lock"], default="")


async def test_lg_13_a_removed_directory_refuses(tmp_path: Path) -> None:
    """Without its directory the log refuses; once it is back, recording goes on."""
    directory = tmp_path / "log"
    log = a_writer(directory)
    await log.start()
    await record(log)
    directory.rename(tmp_path / "gone")

    await eventually(lambda: log.refusal is not None)
    with pytest.raises(LogUnavailable):
        await record(log)
    (tmp_path / "gone").rename(directory)
    await eventually(lambda: log.refusal is None)

    await record(log)
    await log.aclose()
    assert sequences(directory) == [1, 3]


def test_a_start_that_fails_half_way_leaves_a_readable_log(tmp_path: Path) -> None:
    """Whichever write of recovery fails, the next start finds everything acknowledged."""
    for nth in (1, 2, 3):
        directory = tmp_path / str(nth)
        committer = a_committer(directory)
        committer.commit(frames_of(1, 2))
        crash = without_room(newest_segment(directory))
        committer.close()
        newest_segment(directory).write_bytes(crash + b"torn")
        files = FaultyFiles()
        files.fail("write", errno.ENOSPC, nth=nth)

        half = a_committer(directory, files=files)
        half.close()
        again = a_committer(directory)
        again.commit(frames_of(3))
        again.close()

        assert sequences(directory) == [1, 2, 3]
        assert verify(directory).damage == ()


@pytest.mark.faults
def test_lg_01_a_killed_writer_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """kill -9 while acknowledgements stream, again and again: none is missing, none is there twice."""
    acknowledged: list[str] = []
    for lines in (1, 150, 700, 40):
        child = subprocess.Popen(  # noqa: S603 -- our own module
            [sys.executable, "-m", "tests.faults.log_child", str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert child.stdout is not None
        acknowledged += [child.stdout.readline().strip() for _ in range(lines)]
        child.kill()
        rest, _ = child.communicate()
        acknowledged += rest.split("\n")[:-1]
        assert child.returncode == -signal.SIGKILL

    committer = a_committer(tmp_path)
    committer.close()

    found = [f.prediction_id for f in read_all(tmp_path)]
    assert set(acknowledged) - set(found) == set()
    assert len(found) == len(set(found))
    assert verify(tmp_path).damage == ()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["/bin/mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:  # noqa: S603
        pytest.skip("mounting a small file system takes root and the permission to mount")
    yield place
    subprocess.run(["/bin/umount", "-l", str(place)], check=True)  # noqa: S603


@pytest.mark.faults
async def test_lg_10_a_really_full_disk_refuses_and_recovers(small_disk: Path) -> None:
    """On 16 MiB: 503 when full, every acknowledged record there, and on again once there is space."""
    ballast = small_disk / "ballast"
    write_zeros(ballast, 8 * 1024 * 1024)
    log = a_writer(small_disk / "log")
    await log.start()
    acknowledged = await record_until_full(log, rows=5000)
    refusal = log.refusal
    ballast.unlink()
    await eventually(lambda: log.refusal is None)
    acknowledged += await record(log, count=20, rows=5000)
    await log.aclose()

    assert isinstance(refusal, LogStorageFull)
    assert sequences(small_disk) == acknowledged
    assert verify(small_disk).damage == ()


@pytest.mark.faults
async def test_lg_10_a_start_on_a_full_disk_refuses_and_recovers(small_disk: Path) -> None:
    """A full disk does not stop the start; the log opens as soon as there is space."""
    ballast = small_disk / "ballast"
    (small_disk / "log").mkdir()
    write_zeros(ballast, 17 * 1024 * 1024)
    log = a_writer(small_disk / "log")

    await log.start()

    assert isinstance(log.refusal, LogStorageFull)
    with pytest.raises(LogStorageFull):
        await record(log)
    ballast.unlink()
    await eventually(lambda: log.refusal is None)
    assert await record(log) == [2]
    await log.aclose()


async def record_until_full(log: PredictionLogWriter, *, rows: int) -> list[int]:
    acknowledged: list[int] = []
    while True:
        try:
            acknowledged += await record(log, count=20, rows=rows)
        except LogStorageFull:
            return acknowledged


def write_zeros(path: Path, size_bytes: int) -> None:
    """As many as fit."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        for _ in range(size_bytes // 65536):
            file.write(bytes(65536))


@pytest.mark.faults
async def test_lg_11_a_file_size_limit_is_no_death(tmp_path: Path) -> None:
    """Beyond RLIMIT_FSIZE the kernel would send SIGXFSZ: it is a full disk, not the end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Commits in this process, which the limit is for.
    log = PredictionLogWriter(tmp_path, settings=SETTINGS, clock=SystemClock(), signer=SIGNER)
    await log.start()
    resource.setrlimit(resource.RLIMIT_FSIZE, (300 * 1024, hard))
    try:
        acknowledged = await record_until_full(log, rows=500)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await eventually(lambda: log.refusal is None)
    acknowledged += await record(log)
    await log.aclose()

    assert sequences(tmp_path) == acknowledged
