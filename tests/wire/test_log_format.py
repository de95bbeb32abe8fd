"""The prediction log's format, held by a recorded file: old bytes stay readable, new ones equal."""

from pathlib import Path

import numpy as np
import pytest

from serving.core.predictions import Fate
from serving.predictionlog.format import (
    FIRST_FRAME,
    Durability,
    Previous,
    PreviousState,
    SegmentHeader,
)
from serving.predictionlog.records import definition_text, encode_predictions
from serving.predictionlog.segment import OpenSegment
from serving.predictionlog.verification import verify
from tests.logs import DOUBLER, FAILED, NOW_NS, QuickFiles, a_request, facts, read_all

RECORDED = Path(__file__).with_name("prediction-log-v1.segment")
TAG = 0x01020304
HEADER = SegmentHeader(
    log_id=bytes.fromhex("00112233445566ff"),
    number=2,
    durability=Durability.FSYNC,
    first_sequence=11,
    begun_ns=NOW_NS,
    previous=Previous(1, PreviousState.SEALED, 4096, bytes(range(32))),
    nonce=b"nonce-08",
    tag=TAG,
)


def write_segment(path: Path) -> None:
    """Three predictions in two commits, an empty commit, a seal; every kind of frame."""
    definitions = {TAG << 32 | 1: definition_text(DOUBLER), TAG << 32 | 2: definition_text(FAILED)}
    answered, shadow, failed = a_request(11, rows=2), a_request(12), a_request(13)
    answered.trace_id, shadow.shadow_of, failed.outputs = bytes(range(16)), 11, ()
    segment = OpenSegment.create(QuickFiles(), path, durable=True)
    segment.begin(HEADER)
    segment.commit(
        encode_predictions(facts(TAG << 32 | 1), [answered, shadow]),
        definitions=definitions,
        next_sequence=14,
    )
    segment.commit(
        encode_predictions(
            facts(TAG << 32 | 2, fate=Fate.TIMEOUT, reason=b"deadline_exceeded"), [failed]
        ),
        definitions=definitions,
        next_sequence=14,
    )
    segment.commit([], definitions=definitions, next_sequence=14)
    segment.seal(next_sequence=14, sealed_ns=NOW_NS + 1)


def test_the_recorded_bytes_are_still_written(tmp_path: Path) -> None:
    """The same facts give the same bytes as when the format was fixed."""
    write_segment(tmp_path / RECORDED.name)

    assert (tmp_path / RECORDED.name).read_bytes() == RECORDED.read_bytes()


@pytest.fixture
def recorded_log(tmp_path: Path) -> Path:
    (tmp_path / "00000002.segment").write_bytes(RECORDED.read_bytes())
    return tmp_path


def test_the_recorded_bytes_are_still_read(recorded_log: Path) -> None:
    """Every fact of the recorded segment comes back."""
    answered, shadow, failed = read_all(recorded_log)

    assert answered.prediction_id == "00112233445566ff-b"
    assert answered.trace_id == "000102030405060708090a0b0c0d0e0f"
    assert shadow.shadow_of == answered.prediction_id
    assert (failed.fate, failed.reason, failed.outputs) == (Fate.TIMEOUT, "deadline_exceeded", ())
    np.testing.assert_array_equal(answered.outputs[0].array, [[22, 24], [26, 28]])
    assert (answered.model, answered.version, answered.digest) == ("doubler", "1", "ab" * 32)


def test_the_recorded_segment_is_sound(recorded_log: Path) -> None:
    """Header, frames, commits and seal verify."""
    report = verify(recorded_log)

    [segment] = report.segments
    assert report.damage == ()
    assert (segment.state, segment.records, segment.commits) == ("sealed", 3, 3)


def test_the_layout_is_the_documented_one() -> None:
    """Offsets as the format's docstring gives them, read without the product's own structures."""
    data = RECORDED.read_bytes()

    def number(at: int, size: int = 8) -> int:
        return int.from_bytes(data[at : at + size], "little")

    assert data[:8] == b"\x89PLOG\r\n\x1a"
    assert data[:128] == data[128:256]
    assert (number(8, 2), data[10], data[11], number(12, 4)) == (1, 3, 1, 128)
    assert (number(24), number(32), number(40), number(48), number(56)) == (2, 11, NOW_NS, 1, 4096)
    definition = FIRST_FRAME
    assert (data[definition + 4], number(definition + 8)) == (1, TAG << 32 | 1)
    record = definition + number(definition, 4)
    assert (data[record + 4], data[record + 5], number(record + 8)) == (2, 1, 11)
    assert (number(record + 16), number(record + 24)) == (NOW_NS, TAG << 32 | 1)
    assert data[record + 88 : record + 104] == bytes(range(16))
    assert data[record + 104 : record + 113] == b"testerr-1"
    assert data[record + 113 : record + 129] == np.arange(11, 15, dtype="<f4").tobytes()
    following = record + number(record, 4)
    commit = following + number(following, 4)
    assert (data[commit + 4], number(commit, 4), number(commit + 8)) == (3, 76, 1)
    assert (data[commit + 16 : commit + 24], number(commit + 24)) == (b"nonce-08", FIRST_FRAME)
    seal = len(data) - 116
    assert (data[seal + 4], number(seal, 4), number(seal + 8)) == (4, 116, 3)
