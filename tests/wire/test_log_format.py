"""The prediction log's format, held by a recorded file: old bytes stay readable, new ones equal."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving.core.elements import join_elements
from serving.core.predictions import Fate
from serving.core.tensors import numbers
from serving.predictionlog.format import (
    FIRST_FRAME,
    Definition,
    Durability,
    Previous,
    PreviousState,
    SegmentHeader,
    TensorShape,
)
from serving.predictionlog.records import definition_text, encode_predictions
from serving.predictionlog.segment import OpenSegment
from serving.predictionlog.verification import verify
from tests.logs import DOUBLER, FAILED, NOW_NS, QuickFiles, a_request, facts, read_all

RECORDED = Path(__file__).with_name("prediction-log-v1.segment")
STRINGS = Path(__file__).with_name("prediction-log-v1-strings.segment")
LABELLER = Definition(
    "labeller", "1", "cd" * 32,
    (TensorShape("text", "BYTES", (2,)), TensorShape("weight", "BF16", ())),
    (TensorShape("label", "BYTES", ()),),
)  # fmt: skip
TEXTS = (b"a", b"", b"\xff\0", b"bc")
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


def write_strings(path: Path) -> None:
    """One prediction of two rows whose tensors are BYTES and BF16."""
    request = a_request(11, rows=2)
    request.inputs = (join_elements(TEXTS), struct.pack("<2H", 0x3F80, 0xC020))
    request.outputs = (join_elements([b"yes", b"no"]),)
    segment = OpenSegment.create(QuickFiles(), path, durable=True)
    segment.begin(HEADER)
    segment.commit(
        encode_predictions(facts(TAG << 32 | 1), [request]),
        definitions={TAG << 32 | 1: definition_text(LABELLER)},
        next_sequence=12,
    )
    segment.seal(next_sequence=12, sealed_ns=NOW_NS + 1)


@pytest.mark.parametrize(
    ("recorded", "write"),
    [(RECORDED, write_segment), (STRINGS, write_strings)],
    ids=["numbers", "strings"],
)
def test_the_recorded_bytes_are_still_written(
    tmp_path: Path, recorded: Path, write: Callable[[Path], None]
) -> None:
    """The same facts give the same bytes as when the format was fixed."""
    write(tmp_path / recorded.name)

    assert (tmp_path / recorded.name).read_bytes() == recorded.read_bytes()


def log_of(recorded: Path, folder: Path) -> Path:
    (folder / "00000002.segment").write_bytes(recorded.read_bytes())
    return folder


@pytest.fixture
def recorded_log(tmp_path: Path) -> Path:
    return log_of(RECORDED, tmp_path)


def test_recorded_strings_are_still_read(tmp_path: Path) -> None:
    """BYTES come back element by element, whatever is in them, and BF16 by its bits."""
    (record,) = read_all(log_of(STRINGS, tmp_path))
    text, weight = record.inputs

    assert text.array.tolist() == [list(TEXTS[:2]), list(TEXTS[2:])]
    assert weight.array.tobytes() == struct.pack("<2H", 0x3F80, 0xC020)
    assert numbers(weight.array).tolist() == [1.0, -2.5]
    assert record.outputs[0].array.tolist() == [b"yes", b"no"]
    assert verify(tmp_path).damage == ()


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
