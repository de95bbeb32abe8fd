"""Whoever has the files but not the key: every change to a sealed log is found, and named."""

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.predictionlog.heads import Head, open_head, read_envelope
from serving.predictionlog.reading.findings import Finding
from serving.predictionlog.reading.verification import verify
from tests.logs import TRUSTED, a_committer, frames_of
from tests.predictionlog.forgery import Forgery, edited, with_sequence

COMMITS, PER_COMMIT = 8, 5
FIRST = {1: 1, 2: 41, 3: 81}
often = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sealed segments of eight commits, five records each: 1 to 120."""
    directory = tmp_path_factory.mktemp("sealed") / "log"
    for first in FIRST.values():
        committer = a_committer(directory)
        for start in range(first, first + COMMITS * PER_COMMIT, PER_COMMIT):
            committer.sequence = start + PER_COMMIT - 1
            committer.commit(frames_of(*range(start, start + PER_COMMIT)))
        committer.close()
    return directory


@pytest.fixture(scope="module")
def anchor(sealed: Path) -> Head:
    envelope = read_envelope(sealed)
    assert envelope is not None
    return open_head(envelope, TRUSTED)


def copy_of(sealed: Path, tmp_path: Path) -> Path:
    directory = tmp_path / "log"
    shutil.rmtree(directory, ignore_errors=True)
    return Path(shutil.copytree(sealed, directory))


def findings(directory: Path) -> tuple[Finding, ...]:
    return verify(directory, trusted=TRUSTED).damage


segments = st.sampled_from(sorted(FIRST))
places = st.integers(0, COMMITS * PER_COMMIT - 1)


@often
@given(data=st.data(), number=segments, place=places)
def test_any_edit_is_named(
    *, data: st.DataObject, number: int, place: int, sealed: Path, tmp_path: Path
) -> None:
    """Any bits of any record's body, checksums made right: its place and sequence are named."""
    directory = copy_of(sealed, tmp_path)
    forgery = Forgery.of(directory / f"{number:08d}.segment")
    commit, index = forgery.records()[place]
    at, bits = data.draw(st.integers(0, 200)), data.draw(st.integers(1, 255))
    forgery.commits[commit][index] = edited(forgery.commits[commit][index], at, bits)
    forgery.write()

    found = [f for f in findings(directory) if f.reason != "definition missing"]

    assert [f.sequence for f in found] == [FIRST[number] + place]
    assert found[0].file == forgery.path.name
    content = forgery.path.read_bytes()[found[0].start : found[0].end]
    assert content == forgery.commits[commit][index]


@often
@given(number=segments, gone=st.sets(places, min_size=1, max_size=3))
def test_any_removal_is_named(*, number: int, gone: set[int], sealed: Path, tmp_path: Path) -> None:
    """Up to three records taken out without a trace: each gap is named by its neighbours."""
    directory = copy_of(sealed, tmp_path)
    forgery = Forgery.of(directory / f"{number:08d}.segment")
    records = forgery.records()
    for place in sorted(gone, reverse=True):
        commit, index = records[place]
        del forgery.commits[commit][index]
    forgery.write()

    found = findings(directory)

    first = FIRST[number]
    missing = {
        sequence
        for f in found
        for sequence in range((f.last_safe or first - 1) + 1, f.first_safe or first + 40)
    }
    assert missing == {first + place for place in gone}
    assert all("missing" in f.reason for f in found)


@often
@given(number=segments, one=places, other=places)
def test_any_reordering_is_named(
    *, number: int, one: int, other: int, sealed: Path, tmp_path: Path
) -> None:
    """Two records that changed places, in one commit or across commits, are found as moved."""
    directory = copy_of(sealed, tmp_path)
    forgery = Forgery.of(directory / f"{number:08d}.segment")
    (a, i), (b, j) = forgery.records()[one], forgery.records()[other]
    frames = forgery.commits
    frames[a][i], frames[b][j] = frames[b][j], frames[a][i]
    forgery.write()

    found = findings(directory)

    assert bool(found) == (one != other)
    assert {f.reason for f in found} <= {"a record is not where it was when this was sealed"}


@often
@given(number=segments, place=places, sequence=st.integers(1, 2**64 - 1))
def test_any_addition_is_named(
    *, number: int, place: int, sequence: int, sealed: Path, tmp_path: Path
) -> None:
    """A record that never was, with right checksums, is named by the sequence it claims."""
    directory = copy_of(sealed, tmp_path)
    forgery = Forgery.of(directory / f"{number:08d}.segment")
    commit, index = forgery.records()[place]
    forgery.commits[commit].insert(index, with_sequence(forgery.commits[commit][index], sequence))
    forgery.write()

    found = findings(directory)

    assert len(found) == 1
    assert found[0].sequence in (sequence, FIRST[number] + place)


@often
@given(data=st.data())
def test_any_truncation_is_found(
    data: st.DataObject, sealed: Path, anchor: Head, tmp_path: Path
) -> None:
    """Whatever end is cut off, at any byte, with or without the head: somebody knows better."""
    directory = copy_of(sealed, tmp_path)
    number = data.draw(segments)
    segment = directory / f"{number:08d}.segment"
    content = segment.read_bytes()
    keep = data.draw(st.integers(0, len(content) - 1))
    segment.write_bytes(content[:keep])
    for later in sorted(FIRST)[number:]:
        (directory / f"{later:08d}.segment").unlink()
    if data.draw(st.booleans()):
        (directory / "head.json").unlink()

    found = verify(directory, trusted=TRUSTED, anchors={"log": anchor}).damage

    assert found
    if number == 3 and keep > 256:
        assert found[0].file.startswith("00000003")


@often
@given(data=st.data(), number=segments)
def test_no_changed_byte_passes(
    data: st.DataObject, number: int, sealed: Path, tmp_path: Path
) -> None:
    """Any burst of up to 32 bits anywhere, in tree and seal too, is found in its segment."""
    directory = copy_of(sealed, tmp_path)
    segment = directory / f"{number:08d}.segment"
    content = bytearray(segment.read_bytes())
    at = data.draw(st.integers(0, len(content) - 4))
    burst = data.draw(st.integers(1, 2**32 - 1))
    for index, byte in enumerate(burst.to_bytes(4, "little")):
        content[at + index] ^= byte
    segment.write_bytes(content)

    assert segment.name in {f.file for f in findings(directory)}
