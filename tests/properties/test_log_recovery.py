"""What must hold for every log, however its file ends or whichever bit of it changes."""

import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.core.batches import TensorBlock
from serving.core.predictions import Fate
from serving.core.tensors import DTYPES
from serving.predictionlog.format import FIRST_FRAME, Definition, TensorShape
from serving.predictionlog.reading.verification import verify
from serving.predictionlog.records import BatchFacts, decode_prediction, encode_predictions
from tests.logs import (
    NOW_NS,
    Request,
    a_committer,
    frames_of,
    newest_segment,
    read_all,
    sequences,
    without_room,
)
from tests.strategies import raw_rows

uint64 = st.integers(0, 2**64 - 1)
uint32 = st.integers(0, 2**32 - 1)
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
tensor_shapes = st.builds(TensorShape, st.text(max_size=8), st.sampled_from(sorted(DTYPES)), shapes)
once = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def written(draw: st.DrawFn) -> tuple[Definition, BatchFacts, Request]:
    """Any definition with a request that fits it."""
    definition = Definition(
        draw(st.text(max_size=8)),
        "1",
        "ab" * 32,
        tuple(draw(st.lists(tensor_shapes, max_size=3))),
        tuple(draw(st.lists(tensor_shapes, max_size=2))),
    )
    rows = draw(st.integers(0, 3))

    def buffer(tensor: TensorShape) -> bytes:
        raw = draw(raw_rows(tensor.datatype, tensor.shape, rows))
        return bytes(byte & 1 for byte in raw) if tensor.datatype == "BOOL" else raw

    request = Request(
        draw(uint64),
        tuple(map(buffer, definition.inputs)),
        tuple(map(buffer, definition.outputs)),
        time_ns=draw(st.integers(-(2**63), 2**63 - 1)),
        principal=draw(st.text(max_size=20)).encode(),
        request_id=draw(st.text(max_size=20)).encode(),
        trace_id=draw(st.binary(min_size=16, max_size=16)),
        rows=rows,
        queue_us=draw(uint32),
        total_us=draw(uint32),
        batch_position=draw(uint32),
        shadow_of=draw(uint64),
    )
    batch = BatchFacts(
        draw(uint64), draw(st.sampled_from(Fate)), draw(st.text(max_size=9)).encode(),
        draw(uint64), draw(uint32), draw(uint64), draw(uint32),
    )  # fmt: skip
    return definition, batch, request


@once
@given(written())
def test_any_record_comes_back(drawn: tuple[Definition, BatchFacts, Request]) -> None:
    """Whatever was recorded is read back: every number, every text, every bit of every tensor."""
    definition, batch, request = drawn

    [frame] = encode_predictions(batch, [request])
    found = decode_prediction(frame, 0, definition=definition, log_id="f" * 16)

    tensors = [TensorBlock.of(tensor.array) for tensor in (*found.inputs, *found.outputs)]
    assert [bytes(tensor.buffers[0]) for tensor in tensors] == [*request.inputs, *request.outputs]
    assert (found.sequence, found.time_ns, found.rows) == (
        request.sequence, request.time_ns, request.rows,
    )  # fmt: skip
    assert (found.principal.encode(), found.request_id.encode(), found.reason.encode()) == (
        request.principal, request.request_id, batch.reason,
    )  # fmt: skip
    assert (found.queue_us, found.total_us, found.batch_position) == (
        request.queue_us, request.total_us, request.batch_position,
    )  # fmt: skip
    assert (found.fate, found.run_us, found.batch_id, found.batch_size, found.policy_epoch) == (
        batch.fate, batch.run_us, batch.batch_id, batch.batch_size, batch.policy_epoch,
    )  # fmt: skip


class CrashedLog:
    """The bytes of a log whose writer died, and what it had acknowledged by which offset."""

    def __init__(self, directory: Path) -> None:
        committer = a_committer(directory)
        self.acknowledged: list[tuple[int, int]] = []
        last = 0
        for count in (1, 2, 3):
            committer.sequence = last + count
            assert committer.commit(frames_of(*range(last + 1, last + count + 1))) is None
            last += count
            self.acknowledged.append((_end_of_commits(newest_segment(directory)), last))
        self.data = newest_segment(directory).read_bytes()
        self.end = self.acknowledged[-1][0]
        self.last = last
        committer.close()
        self.sealed = newest_segment(directory).read_bytes()
        a_committer(directory).close()
        self.successor = newest_segment(directory).read_bytes()

    def acknowledged_by(self, offset: int) -> int:
        return max((last for end, last in self.acknowledged if end <= offset), default=0)


def _end_of_commits(segment: Path) -> int:
    return len(without_room(segment))


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> CrashedLog:
    return CrashedLog(tmp_path_factory.mktemp("crashed"))


def restart(directory: Path) -> list[int]:
    """What a restart leaves, having recorded one more."""
    committer = a_committer(directory)
    following = committer.sequence = committer.sequence + 1
    assert committer.commit(frames_of(following)) is None
    committer.close()
    return sequences(directory)


def test_lg_06_a_log_cut_anywhere_recovers_to_a_prefix(crashed: CrashedLog, tmp_path: Path) -> None:
    """At every byte: what was acknowledged by then is kept, nothing is invented, work goes on."""
    directory = tmp_path / "log"
    for cut in range(crashed.end + 1):
        directory.mkdir()
        (directory / "00000001.segment").write_bytes(crashed.data[:cut])

        found = restart(directory)

        kept = len(found) - 1
        assert crashed.acknowledged_by(cut) <= kept <= crashed.last, cut
        assert found == list(range(1, kept + 2)), cut
        assert cut <= FIRST_FRAME or verify(directory).damage == (), cut
        shutil.rmtree(directory)


@once
@given(data=st.data())
def test_a_torn_last_commit_recovers(
    data: st.DataObject, crashed: CrashedLog, tmp_path: Path
) -> None:
    """Any sectors of the last commit missing, as after a power cut: everything before it is kept."""
    start, acknowledged = crashed.acknowledged[-2]
    torn = bytearray(crashed.data)
    edges = [start, *range(start - start % 64 + 64, crashed.end, 64), crashed.end]
    for low, high in pairwise(edges):
        if data.draw(st.booleans()):
            torn[low:high] = bytes(high - low)
    directory = tmp_path / "log"
    directory.mkdir()
    (directory / "00000001.segment").write_bytes(torn)

    found = restart(directory)

    kept = len(found) - 1
    assert acknowledged <= kept <= crashed.last
    assert found == list(range(1, kept + 2))
    assert verify(directory).damage == ()
    shutil.rmtree(directory)


def test_lg_07_every_changed_byte_of_a_sealed_segment_is_found(
    crashed: CrashedLog, tmp_path: Path
) -> None:
    """One flipped bit in each byte: verify names it, and no record is ever read differently."""
    segment = tmp_path / "00000001.segment"
    segment.write_bytes(crashed.sealed)
    (tmp_path / "00000002.segment").write_bytes(crashed.successor)
    originals = {record.sequence: repr(record) for record in read_all(tmp_path)}
    for offset in range(len(crashed.sealed)):
        changed = bytearray(crashed.sealed)
        changed[offset] ^= 1 << offset % 8
        segment.write_bytes(changed)

        assert verify(tmp_path).damage, offset
        if offset % 7 == 0:
            assert all(originals[r.sequence] == repr(r) for r in read_all(tmp_path)), offset


@once
@given(data=st.data())
def test_changed_bytes_of_an_open_segment_are_never_read_as_records(
    data: st.DataObject, crashed: CrashedLog, tmp_path: Path
) -> None:
    """A burst of up to 32 changed bits below the last commit is damage; what is read is original."""
    segment = tmp_path / "00000001.segment"
    segment.write_bytes(crashed.data)
    originals = {record.sequence: repr(record) for record in read_all(tmp_path)}
    protected, _ = crashed.acknowledged[-2]
    offset = data.draw(st.integers(FIRST_FRAME, protected - 1))
    burst = data.draw(st.integers(1, 2**32 - 1))
    changed = bytearray(crashed.data)
    for index, byte in enumerate(burst.to_bytes(4, "little")):
        changed[offset + index] ^= byte
    segment.write_bytes(changed)

    found = read_all(tmp_path)

    assert all(originals[record.sequence] == repr(record) for record in found)
    assert verify(tmp_path).damage


def test_restarts_can_be_repeated(tmp_path: Path) -> None:
    """Crash after crash, each with its own torn tail, the log only grows."""
    for turn in range(1, 6):
        committer = a_committer(tmp_path)
        committer.sequence = turn
        committer.commit(frames_of(turn))
        crash = without_room(newest_segment(tmp_path))
        committer.close()
        newest_segment(tmp_path).write_bytes(crash + b"torn" + bytes(100))

    found = restart(tmp_path)

    assert found == [1, 2, 3, 4, 5, 6]
    report = verify(tmp_path)
    assert report.damage == ()
    assert [segment.cut_bytes > 0 for segment in report.segments] == [True] * 5 + [False]


def test_times_of_a_recovered_segment_are_known(tmp_path: Path) -> None:
    """A query by time finds recovered records too."""
    committer = a_committer(tmp_path)
    committer.commit(frames_of(1))
    crash = newest_segment(tmp_path).read_bytes()
    committer.close()
    newest_segment(tmp_path).write_bytes(crash)

    restart(tmp_path)

    assert {record.time_ns for record in read_all(tmp_path)} == {NOW_NS}
