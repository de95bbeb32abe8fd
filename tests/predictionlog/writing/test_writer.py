import asyncio
import itertools
import threading
from pathlib import Path

import pytest

from serving.core.clock import ManualClock
from serving.core.outcomes import Outcome
from serving.errors import DataDirectoryInUse, LogUnavailable, ServingError
from serving.predictionlog.format import Definition, TensorShape
from serving.predictionlog.outcomes import decode_outcome, encode_outcome
from serving.predictionlog.reading.reader import SegmentReader, list_segments
from serving.predictionlog.reading.verification import verify
from serving.predictionlog.records import encode_predictions
from serving.predictionlog.writing.writer import MAX_DEFINITIONS, PredictionLogWriter
from serving.settings import LogSettings
from tests.logs import (
    DOUBLER,
    FAILED,
    NOW_NS,
    SETTINGS,
    SIGNER,
    TRUSTED,
    FaultyFiles,
    a_request,
    a_writer,
    eventually,
    facts,
    names_in,
    read_all,
    record,
    sequences,
)


async def test_what_was_acknowledged_can_be_read_at_once(tmp_path: Path) -> None:
    """A record can be read while the writer that acknowledged it is still open."""
    log = a_writer(tmp_path)
    await log.start()

    recorded = await record(log, count=3)

    assert sequences(tmp_path) == recorded == [1, 2, 3]
    await log.aclose()


async def test_waiters_are_released_in_the_order_of_append(tmp_path: Path) -> None:
    """Whatever commits they fell into, waiters hear in the order in which they appended."""
    log = a_writer(tmp_path)
    await log.start()
    number = log.define(DOUBLER)
    heard: list[int] = []
    last = asyncio.Event()

    for turn in range(200):

        def done(error: ServingError | None, turn: int = turn) -> None:
            assert error is None
            heard.append(turn)
            if turn == 199:
                last.set()

        log.append(encode_predictions(facts(number), [a_request(log.next_sequence())]), done)
        if turn % 17 == 0:
            await asyncio.sleep(0)
    await last.wait()

    assert heard == list(range(200))
    await log.aclose()


async def test_one_commit_serves_everyone_who_waited(tmp_path: Path) -> None:
    """What gathers during a running commit is written as one: a slow disk is shared, not queued."""
    files = FaultyFiles()
    log = a_writer(tmp_path, files=files)
    await log.start()
    gate = files.stall()
    calls = [asyncio.create_task(record(log)) for _ in range(50)]
    await asyncio.sleep(0)
    gate.set()

    await asyncio.gather(*calls)

    assert log.statistics().commits <= 3
    await log.aclose()


async def test_sequences_go_on_after_a_restart(tmp_path: Path) -> None:
    """A new writer has a new log id and goes on counting where the last one stopped."""
    first = a_writer(tmp_path)
    await first.start()
    await record(first, count=2)
    await first.aclose()
    second = a_writer(tmp_path)
    await second.start()

    recorded = await record(second)

    assert (recorded, sequences(tmp_path)) == ([3], [1, 2, 3])
    assert first.log_id != second.log_id
    ids = [found.prediction_id for found in read_all(tmp_path)]
    assert ids == [f"{first.log_id}-1", f"{first.log_id}-2", f"{second.log_id}-3"]
    await second.aclose()


async def test_lg_15_a_second_writer_is_refused(tmp_path: Path) -> None:
    """Two writers on one directory cannot be; the first is not disturbed by the try."""
    first, second = a_writer(tmp_path), a_writer(tmp_path)
    await first.start()

    with pytest.raises(DataDirectoryInUse):
        await second.start()

    assert await record(first) == [1]
    await first.aclose()


async def test_segments_turn_over_without_a_gap(tmp_path: Path) -> None:
    """Segments are sealed at their size and linked; definitions are repeated in each."""
    log = a_writer(tmp_path, settings=SETTINGS.model_copy(update={"segment_bytes": 64 * 1024}))
    await log.start()
    for _ in range(30):
        await record(log, count=20)
    await log.aclose()

    report = verify(tmp_path)

    assert report.damage == ()
    assert {segment.state for segment in report.segments} == {"sealed"}
    assert len(report.segments) >= 2
    assert sequences(tmp_path) == list(range(1, 601))


@pytest.mark.parametrize("durability", ["process", "async"])
async def test_weaker_durabilities_record_too(durability: str, tmp_path: Path) -> None:
    """Without syncs the same records end up in the log, and its header says what was promised."""
    settings = LogSettings.model_validate({"durability": durability, "min_free_bytes": 0})
    log = a_writer(tmp_path, settings=settings)
    await log.start()
    await record(log, count=5)
    await log.aclose()

    [segment] = verify(tmp_path).segments

    assert (segment.records, segment.durability, segment.state) == (5, durability, "sealed")


async def test_off_writes_nothing(tmp_path: Path) -> None:
    """With durability off an append is answered at once and leaves no file behind."""
    log = a_writer(tmp_path / "log", settings=LogSettings(durability="off"))
    await log.start()

    await record(log)

    assert log.refusal is None
    await log.aclose()
    assert names_in(tmp_path) == []


async def test_too_much_pending_refuses(tmp_path: Path) -> None:
    """Above the bound in bytes nothing more is admitted until the disk has caught up."""
    files = FaultyFiles()
    settings = SETTINGS.model_copy(update={"max_pending_bytes": 1000})
    log = a_writer(tmp_path, settings=settings, files=files)
    await log.start()
    gate = files.stall()
    call = asyncio.create_task(record(log, count=10))
    await asyncio.sleep(0)

    refusal = log.refusal
    gate.set()
    await call

    assert isinstance(refusal, LogUnavailable)
    assert log.refusal is None
    await log.aclose()


async def test_lg_17_a_record_above_the_limit_fails_alone(tmp_path: Path) -> None:
    """A record at the limit is kept; one byte more is refused, and its neighbours are kept."""
    number_bytes = len(encode_predictions(facts(), [a_request(1)])[0])
    settings = SETTINGS.model_copy(update={"max_record_bytes": number_bytes})
    log = a_writer(tmp_path, settings=settings)
    await log.start()

    results = await asyncio.gather(
        record(log), record(log, rows=2), record(log), return_exceptions=True
    )

    assert [type(result) for result in results] == [list, LogUnavailable, list]
    assert sequences(tmp_path) == [1, 3]
    await log.aclose()


@pytest.mark.parametrize("size_bytes", [0, 1, 4096])
async def test_lg_17_a_record_of_any_size_comes_back(tmp_path: Path, size_bytes: int) -> None:
    """Nothing, one byte and more: what was recorded is read, byte for byte."""
    log = a_writer(tmp_path)
    await log.start()
    shape = (TensorShape("x", "UINT8", (size_bytes,)),)
    request = a_request(log.next_sequence())
    request.inputs, request.outputs = (b"\7" * size_bytes,), ()
    settled: asyncio.Future[ServingError | None] = asyncio.get_running_loop().create_future()
    number = log.define(Definition("m", "1", "", shape, ()))
    log.append(encode_predictions(facts(number), [request]), settled.set_result)

    assert await settled is None

    await log.aclose()
    [found] = read_all(tmp_path)
    assert found.inputs[0].array.tobytes() == b"\7" * size_bytes


async def test_events_are_recorded_and_counted_apart(tmp_path: Path) -> None:
    """Outcomes go the way of predictions, and no figure takes them for predictions."""
    log = a_writer(tmp_path)
    await log.start()
    await record(log, count=2)
    settled: asyncio.Future[ServingError | None] = asyncio.get_running_loop().create_future()
    outcome = Outcome("00112233445566ff-1", 0, "y", 1.5, NOW_NS, 1, "doubler", "tester", NOW_NS)
    log.append([encode_outcome(outcome, sequence=log.next_sequence())], settled.set_result)

    assert await settled is None

    statistics = log.statistics()
    assert (statistics.records, statistics.events) == (2, 1)
    await log.aclose()
    [segment] = verify(tmp_path, trusted=TRUSTED).segments
    assert (segment.records, segment.events, segment.damage) == (2, 1, ())
    [event] = SegmentReader(list_segments(tmp_path)[0]).events()
    assert decode_outcome(event.frame, 0) == outcome


async def test_appending_to_a_closed_log_fails(tmp_path: Path) -> None:
    """Before the start and after the end nothing is acknowledged."""
    log = a_writer(tmp_path)
    with pytest.raises(LogUnavailable):
        await record(log)
    await log.start()
    await log.aclose()

    with pytest.raises(LogUnavailable):
        await record(log)


async def test_definitions_are_bounded(tmp_path: Path) -> None:
    """A number stays good while `MAX_DEFINITIONS` others are made; one too old fails alone."""
    log = a_writer(tmp_path)
    await log.start()
    numbers = [log.define(DOUBLER), log.define(FAILED)]

    def crowd(generation: int) -> None:
        for index in range(MAX_DEFINITIONS):
            shape = (generation, index)
            log.define(Definition("m", "1", "", (TensorShape("x", "FP32", shape),), ()))

    async def record_under(number: int) -> ServingError | None:
        settled: asyncio.Future[ServingError | None] = asyncio.get_running_loop().create_future()
        records = encode_predictions(facts(number), [a_request(log.next_sequence())])
        log.append(records, settled.set_result)
        return await settled

    crowd(1)
    assert await record_under(numbers[0]) is None
    crowd(2)
    crowd(3)
    error, recorded = await asyncio.gather(record_under(numbers[1]), record(log))

    assert isinstance(error, LogUnavailable)
    assert sequences(tmp_path) == [1, *recorded] == [1, 3]
    await log.aclose()


async def test_lg_16_clock_steps_change_neither_order_nor_names(tmp_path: Path) -> None:
    """With the wall clock set to 1970 and to 2100 in between, order and file names stay."""
    clock = ManualClock()
    settings = SETTINGS.model_copy(update={"segment_bytes": 64 * 1024})
    for step_s in (0.0, -1_700_000_000.0, 4_102_444_800.0, -3600.0):
        clock.step_wall(step_s)
        log = PredictionLogWriter(tmp_path, settings=settings, clock=clock, signer=SIGNER)
        await log.start()
        await record(log, count=2)
        await log.aclose()

    assert sequences(tmp_path) == list(range(1, 9))
    assert verify(tmp_path).damage == ()


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """Opening and closing many times leaves no thread and no descriptor."""

    async def once() -> tuple[int, int]:
        log = a_writer(tmp_path)
        await log.start()
        await record(log)
        await log.aclose()
        return threading.active_count(), len(names_in(Path("/proc/self/fd")))

    seen = [await once() for _ in range(20)]

    assert set(seen) == {seen[0]}


async def test_statistics_reconcile(tmp_path: Path) -> None:
    """Counts agree with what was appended, and each commit is in exactly one bucket of each kind."""
    log = a_writer(tmp_path)
    await log.start()
    for count in (1, 5, 64):
        await record(log, count=count)
    statistics = log.statistics()
    await log.aclose()

    assert (statistics.records, statistics.pending_bytes, statistics.refusal) == (70, 0, "")
    assert sum(statistics.commit_times) == statistics.commits == sum(statistics.commit_records)


def test_log_ids_differ(tmp_path: Path) -> None:
    """Writers made in the same instant have different ids."""
    ids = [a_writer(tmp_path).log_id for _ in range(20)]

    assert all(a != b for a, b in itertools.combinations(ids, 2))


async def test_a_caller_that_fails_on_its_answer_fails_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An error in one `done` is told and costs nobody else their answer."""
    log = a_writer(tmp_path)
    await log.start()

    def clumsy(_: ServingError | None) -> None:
        raise ValueError("dropped it")

    log.append(encode_predictions(facts(log.define(DOUBLER)), [a_request(1)]), clumsy)
    await record(log)

    assert "dropped it" in caplog.text
    await log.aclose()


async def test_a_place_that_cannot_be_a_directory_fails_the_start(tmp_path: Path) -> None:
    """The start fails with a reason, and without a path, when there is no directory to be had."""
    (tmp_path / "file").write_bytes(b"")
    log = a_writer(tmp_path / "file" / "log")

    with pytest.raises(LogUnavailable, match=r"cannot be opened: Not a directory$"):
        await log.start()


async def test_an_unexpected_failure_is_told_and_survived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in the thread fails its waiters, is logged, and the log reopens by itself."""
    files = FaultyFiles()
    log = a_writer(tmp_path, files=files)
    await log.start()
    files.surprise()

    with pytest.raises(LogUnavailable):
        await record(log)
    await eventually(lambda: log.refusal is None)

    assert await record(log) == [2]
    assert "unexpected failure" in caplog.text
    await log.aclose()
    assert sequences(tmp_path) == [2]
    assert verify(tmp_path).damage == ()
