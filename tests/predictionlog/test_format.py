"""The prediction log's format, held by golden files: old bytes stay readable, new ones equal."""

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving.core.predictions import Fate
from serving.core.tensors import numbers
from serving.predictionlog.format import FIRST_FRAME, FrameType, closed
from serving.predictionlog.outcomes import decode_outcome
from serving.predictionlog.reading.reader import SegmentReader, list_segments
from serving.predictionlog.reading.verification import verify
from serving.predictionlog.tree import EXTENT, SEAL_BYTES
from serving.trust.merkle import leaf_hash, root
from tests.logs import NOW_NS, SIGNER, TRUSTED, a_committer, frames_of, read_all, sequences
from tests.predictionlog.golden.make import (
    GOLDEN,
    TAG,
    TEXTS,
    TRUTH,
    write_numbers,
    write_strings,
)

VERSIONS = ["v1", "v2"]


@pytest.mark.parametrize(
    ("name", "write"),
    [("numbers.segment", write_numbers), ("strings.segment", write_strings)],
    ids=["numbers", "strings"],
)
def test_the_golden_bytes_are_still_written(
    tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    """The same facts give the same bytes as when the format was fixed."""
    write(tmp_path / name)

    assert (tmp_path / name).read_bytes() == (GOLDEN / "v2" / name).read_bytes()


def golden_log(name: str, folder: Path, *, version: str) -> Path:
    shutil.copyfile(GOLDEN / version / name, folder / "00000002.segment")
    return folder


@pytest.mark.parametrize("version", VERSIONS)
def test_lg_21_golden_strings_are_still_read(tmp_path: Path, version: str) -> None:
    """BYTES come back element by element, whatever is in them, and BF16 by its bits."""
    (record,) = read_all(golden_log("strings.segment", tmp_path, version=version))
    text, weight = record.inputs

    assert text.array.tolist() == [list(TEXTS[:2]), list(TEXTS[2:])]
    assert weight.array.tobytes() == struct.pack("<2H", 0x3F80, 0xC020)
    assert numbers(weight.array).tolist() == [1.0, -2.5]
    assert record.outputs[0].array.tolist() == [b"yes", b"no"]
    [beginning] = verify(tmp_path).damage
    assert beginning.reason == "everything up to segment 1 is gone, and no statement says why"


@pytest.mark.parametrize("version", VERSIONS)
def test_lg_21_golden_numbers_are_still_read(tmp_path: Path, version: str) -> None:
    """Every fact of the golden segment comes back."""
    answered, shadow, failed = read_all(golden_log("numbers.segment", tmp_path, version=version))

    assert answered.prediction_id == "00112233445566ff-b"
    assert answered.trace_id == "000102030405060708090a0b0c0d0e0f"
    assert shadow.shadow_of == answered.prediction_id
    assert (failed.fate, failed.reason, failed.outputs) == (Fate.TIMEOUT, "deadline_exceeded", ())
    np.testing.assert_array_equal(answered.outputs[0].array, [[22, 24], [26, 28]])
    assert (answered.model, answered.version, answered.digest) == ("doubler", "1", "ab" * 32)


@pytest.mark.parametrize(("version", "commits"), [("v1", 3), ("v2", 4)])
def test_lg_21_the_golden_segment_is_sound(tmp_path: Path, version: str, commits: int) -> None:
    """Header, frames, commits and seal verify."""
    [segment] = verify(golden_log("numbers.segment", tmp_path, version=version)).segments

    assert segment.damage == ()
    assert (segment.state, segment.records, segment.commits) == ("sealed", 3, commits)


def test_events_are_read_apart_from_predictions(tmp_path: Path) -> None:
    """An outcome among predictions comes back whole, and is no prediction."""
    [segment] = list_segments(golden_log("numbers.segment", tmp_path, version="v2"))

    [event] = SegmentReader(segment).events()

    assert (event.type, event.sequence, event.time_ns) == (FrameType.OUTCOME, 14, NOW_NS + 1)
    assert decode_outcome(event.frame, 0) == TRUTH
    assert list(SegmentReader(segment).events([FrameType.LOSS])) == []


@pytest.mark.parametrize(
    ("version", "states"),
    [
        ("v1", ["sealed", "suspect", "suspect", "sealed"]),
        ("v2", ["sealed", "suspect", "recovered", "sealed"]),
    ],
)
def test_lg_21_a_directory_of_any_version_goes_on(
    tmp_path: Path, version: str, states: list[str]
) -> None:
    """The writer of today recovers a directory that an earlier one left, and adds to it."""
    directory = tmp_path / "log"
    shutil.copytree(GOLDEN / version / "log", directory)

    committer = a_committer(directory)
    following = committer.sequence = committer.sequence + 1
    committer.commit(frames_of(following))
    committer.close()

    report = verify(directory, trusted=TRUSTED)
    assert report.damage == ()
    assert [segment.state for segment in report.segments] == states
    assert sequences(directory) == list(range(1, 11))


def test_lg_21_format_1_alone_is_not_signed(tmp_path: Path) -> None:
    """Where signatures are asked for, segments of format 1 count only before signed ones."""
    shutil.copytree(GOLDEN / "v1" / "log", tmp_path / "log")

    report = verify(tmp_path / "log", trusted=TRUSTED)

    assert {finding.reason for finding in report.damage} == {"not signed"}


def test_lg_21_unknown_frames_are_passed_over_and_counted(tmp_path: Path) -> None:
    """A sound frame of a type from a later program harms no reader, and verify tells how many."""
    committer = a_committer(tmp_path)
    later = closed(struct.pack("<IBBHQqQ", 36 + 3, 200, 0, 0, 9, NOW_NS, 0) + b"new")
    committer.commit([*frames_of(1), later])
    committer.commit(frames_of(2))
    committer.close()

    [segment] = verify(tmp_path, trusted=TRUSTED).segments
    assert (segment.damage, segment.records, segment.unknown) == ((), 2, 1)
    assert sequences(tmp_path) == [1, 2]


def test_the_layout_is_the_documented_one() -> None:
    """Offsets as the format's docstring gives them, read without the product's own structures."""
    data = (GOLDEN / "v2" / "numbers.segment").read_bytes()

    def number(at: int, size: int = 8) -> int:
        return int.from_bytes(data[at : at + size], "little")

    assert data[:8] == b"\x89PLOG\r\n\x1a"
    assert data[:128] == data[128:256]
    assert (number(8, 2), data[10], data[11], number(12, 4)) == (2, 3, 1, 128)
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


def test_the_layout_of_the_end_is_the_documented_one() -> None:
    """Tree, root and signature as the docstring gives them, computed again from the file's bytes."""
    data = (GOLDEN / "v2" / "numbers.segment").read_bytes()

    def number(at: int, size: int = 8) -> int:
        return int.from_bytes(data[at : at + size], "little")

    seal = len(data) - SEAL_BYTES
    tree = number(seal + 96)
    assert (data[seal + 4], number(seal, 4), number(seal + 8)) == (4, 284, 4)
    assert (number(seal + 56), number(seal + 64)) == (3, 1)
    assert (data[tree + 4], number(tree + 8), tree + number(tree, 4)) == (7, 5, seal)
    leaves, end, frames = [], 0, 0
    for length, count, leaf in EXTENT.iter_unpack(data[tree + 16 : tree + 16 + 5 * 44]):
        leaves.append(leaf_hash(data[end : end + length]))
        assert leaf == leaves[-1]
        end, frames = end + length, frames + count
    assert (end, frames) == (tree, 6)
    assert data[tree + 16 + 5 * 44 + 4 :][:4] == record_end(data)
    assert data[seal + 136 : seal + 168] == root(leaves)
    signed = b"serving prediction log seal 2\n" + data[seal : seal + 208]
    assert SIGNER.public.signed(signed, data[seal + 216 : seal + 280])
    assert data[seal + 208 : seal + 216].hex() == SIGNER.key_id


def record_end(data: bytes) -> bytes:
    """The last four bytes of the second frame, which is the first record."""
    record = FIRST_FRAME + int.from_bytes(data[FIRST_FRAME : FIRST_FRAME + 4], "little")
    end = record + int.from_bytes(data[record : record + 4], "little")
    return data[end - 4 : end]
