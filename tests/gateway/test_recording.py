from collections.abc import Sequence

import pytest

from serving.core.predictions import Fate
from serving.errors import LogStorageFull, LogUnavailable
from serving.gateway.calls import Call
from serving.gateway.recording import MAX_KNOWN_DEFINITIONS, Recorder
from serving.predictionlog.records import decode_fixed
from serving.predictionlog.writing.writer import MAX_DEFINITIONS
from tests.gateway.stand import (
    VARIABLE,
    MemoryLog,
    Stand,
    Telling,
    Turns,
    a_queue,
    a_request,
    rows_of,
)


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
def recorder(log: MemoryLog) -> Recorder:
    return Recorder(log)


@pytest.fixture
def calls(stand: Stand) -> list[Call]:
    """Three answered calls of one row each."""
    queue = a_queue(VARIABLE, outcomes=Telling(), clock=stand.clock, turns=Turns())
    calls = [Call(stand.pipeline, queue, a_request(value), b"ada") for value in (1, 2, 3)]
    for number, call in enumerate(calls, start=1):
        call.sequence = number
        call.outputs = (memoryview(rows_of(number)),)
    return calls


def batches(records: Sequence[bytes]) -> list[tuple[int, int, int]]:
    """Sequence, batch and run time of each record."""
    fixed = [decode_fixed(record, 0) for record in records]
    return [(each.sequence, each.batch_id, each.run_us) for each in fixed]


def test_calls_of_several_batches_name_their_own(recorder: Recorder, calls: list[Call]) -> None:
    """A frame that ran in two batches: each record has its own batch, in the order of the calls."""
    for call, (batch_id, run_us) in zip(calls, [(7, 10), (7, 10), (8, 20)], strict=True):
        call.batch_id, call.run_us = batch_id, run_us

    records = recorder.encode(calls, Fate.OK, output_shapes=((2,),))

    assert batches(records) == [(1, 7, 10), (2, 7, 10), (3, 8, 20)]


def test_definition_is_asked_for_once(
    recorder: Recorder, log: MemoryLog, calls: list[Call]
) -> None:
    """The log defines each pair of shapes once; failures have a definition without outputs."""
    for _ in range(2):
        recorder.encode(calls, Fate.OK, output_shapes=((2,),))
        recorder.encode(calls[:1], Fate.TIMEOUT, reason="deadline_exceeded")

    assert [[tensor.shape for tensor in each.outputs] for each in log.definitions] == [[(2,)], []]
    assert [tensor.shape for tensor in log.definitions[0].inputs] == [(2,)]


def test_subject_of_one_request_is_nothing_to_frames_without_one(
    recorder: Recorder, calls: list[Call]
) -> None:
    """A version that was asked about a data subject once records what names none as it did before, and
    needs no key for it; what names one is recorded with a key, or not at all."""
    usual = recorder.encode(calls, Fate.OK, output_shapes=((2,),))
    calls[0].queue.note_subject()
    after = recorder.encode(calls, Fate.OK, output_shapes=((2,),))
    calls[1].request.name_subject(b"somebody")

    assert after == usual
    with pytest.raises(LogUnavailable, match="no keys"):
        recorder.encode(calls, Fate.OK, output_shapes=((2,),))


def test_known_definitions_are_bounded(
    recorder: Recorder, log: MemoryLog, calls: list[Call]
) -> None:
    """A number is never used after the log may have forgotten it, whatever shapes callers send."""
    call = calls[0]
    recorder.encode([call], Fate.CLIENT_GONE)
    last_used = 0
    for columns in range(3, 2 * MAX_KNOWN_DEFINITIONS):
        call.shapes = ((columns,),)
        recorder.encode([call], Fate.CLIENT_GONE)
        call.shapes = ((2,),)
        [record] = recorder.encode([call], Fate.CLIENT_GONE)
        last_used = max(last_used, len(log.definitions) - decode_fixed(record, 0).definition)

    assert last_used <= MAX_KNOWN_DEFINITIONS < MAX_DEFINITIONS


def test_refusal_of_the_log_is_raised(
    recorder: Recorder, log: MemoryLog, calls: list[Call]
) -> None:
    """What cannot be recorded must not be admitted."""
    recorder.check(calls[0].queue)
    log.refusal = LogStorageFull("full")

    with pytest.raises(LogStorageFull):
        recorder.check(calls[0].queue)


def test_prediction_id_is_log_and_sequence(recorder: Recorder, log: MemoryLog) -> None:
    """The id under which readers find the record: log in hexadecimal, sequence in hexadecimal."""
    assert recorder.prediction_id(255) == f"{log.log_id}-ff"
