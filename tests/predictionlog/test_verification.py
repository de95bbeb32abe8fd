from pathlib import Path

import pytest

from serving.predictionlog.query import Query
from serving.predictionlog.verification import Finding, verify
from tests.logs import NOW_NS, SETTINGS, a_committer, frames_of, newest_segment, read_all, sequences


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Three sealed segments; commits of four records, 1 to 40, then 41 to 80, then 81 to 120."""
    for start in (1, 41, 81):
        committer = a_committer(tmp_path)
        for first in range(start, start + 40, 4):
            committer.sequence = first + 3
            committer.commit(frames_of(*range(first, first + 4)))
        committer.close()
    return tmp_path


def damage_record(segment: Path, sequence: int, *, at: int = 30) -> int:
    """Flips a bit of the record; the offset of its frame."""
    data = bytearray(segment.read_bytes())
    offset = data.index(sequence.to_bytes(8, "little") + NOW_NS.to_bytes(8, "little")) - 8
    data[offset + at] ^= 1
    segment.write_bytes(data)
    return offset


def test_a_sound_log_is_sound(log: Path) -> None:
    """Everything is counted, every segment is sealed, and nothing is complained about."""
    report = verify(log)

    assert (report.records, report.damage) == (120, ())
    assert [segment.state for segment in report.segments] == ["sealed"] * 3


@pytest.mark.parametrize(("at", "first_safe"), [(30, 47), (0, 49)], ids=["body", "length"])
def test_damage_is_named_with_its_neighbours(log: Path, at: int, first_safe: int) -> None:
    """The report gives the file, the place, and the last and first sound records around it.

    With its length intact only the record is lost; without it, the rest of its commit.
    """
    segment = sorted(log.glob("*.segment"))[1]
    offset = damage_record(segment, 46, at=at)

    first, second = verify(log).damage

    assert (first.file, first.start, first.reason) == (segment.name, offset, "invalid frame")
    assert (first.last_safe, first.first_safe) == (45, first_safe)
    assert second == Finding(
        segment.name, 0, second.end, "the segment differs from its seal", 80, None
    )


def test_damage_hides_nothing_but_itself(log: Path) -> None:
    """Every record outside the damaged commit is still read; `salvage` adds those behind it."""
    damage_record(sorted(log.glob("*.segment"))[1], 46)

    found = sequences(log)
    backwards = [record.sequence for record in read_all(log, Query(newest_first=True))]
    salvaged = [record.sequence for record in read_all(log, Query(salvage=True))]

    assert found == backwards[::-1] == [n for n in range(1, 121) if n not in (46, 47, 48)]
    assert salvaged == [n for n in range(1, 121) if n != 46]


def test_a_missing_segment_is_damage(log: Path) -> None:
    """A segment removed from the middle is missed; the oldest ones may go by retention."""
    first, second, _ = sorted(log.glob("*.segment"))
    second.rename(log / "moved")
    missing = verify(log).damage
    first.unlink()
    retained = verify(log).damage

    assert [finding.reason for finding in missing] == [
        "segment 2, which stands before this one, is missing"
    ]
    assert retained == ()


def test_a_replaced_segment_is_damage(log: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A sound segment of another log in the place of ours contradicts both of its neighbours."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for _ in range(2):
        a_committer(elsewhere).close()
    second = sorted(log.glob("*.segment"))[1]
    second.write_bytes(sorted(elsewhere.glob("*.segment"))[1].read_bytes())

    found = {(finding.file, finding.reason) for finding in verify(log).damage}

    reason = "not the seal that the successor names"
    assert found == {("00000001.segment", reason), ("00000002.segment", reason)}


def test_a_cut_sealed_segment_is_damage(log: Path) -> None:
    """A sealed segment that lost its end, even at a commit's border, is found by its successor."""
    second = sorted(log.glob("*.segment"))[1]
    data = second.read_bytes()
    second.write_bytes(data[: len(data) - 116])

    reasons = [finding.reason for finding in verify(log).damage]

    assert reasons == ["the seal is missing"]


def test_a_foreign_file_is_damage(log: Path) -> None:
    """A file that is no segment but has the name of one is named, and harms nothing else."""
    (log / "00000009.segment").write_bytes(b"not a segment" * 100)

    report = verify(log)

    assert [finding.reason for finding in report.damage] == ["the header is damaged"]
    assert sequences(log) == list(range(1, 121))


def test_an_open_segment_is_sound(tmp_path: Path) -> None:
    """A log in use verifies; the room written ahead is no torn tail."""
    committer = a_committer(tmp_path, settings=SETTINGS)
    committer.commit(frames_of(1, 2))

    [segment] = verify(tmp_path).segments
    committer.close()

    assert (segment.state, segment.records, segment.torn_bytes) == ("open", 2, 0)


def test_a_huge_length_costs_nothing(log: Path) -> None:
    """A damaged length of almost 4 GiB is found without taking memory for it."""
    segment = newest_segment(log)
    data = bytearray(segment.read_bytes())
    offset = damage_record(segment, 90, at=2)
    data[offset : offset + 4] = b"\xff\xff\xff\xff"
    segment.write_bytes(data)

    assert verify(log).damage[0].start == offset


def test_a_substituted_record_is_damage(log: Path) -> None:
    """A sound record put in the place of another contradicts its commit and is not read."""
    segment = sorted(log.glob("*.segment"))[0]
    data = segment.read_bytes()
    segment.write_bytes(data.replace(frames_of(6)[0], frames_of(600)[0]))

    reasons = [finding.reason for finding in verify(log).damage]

    assert reasons == ["frames do not belong to their commit", "the segment differs from its seal"]
    assert sequences(log) == [n for n in range(1, 121) if n not in (5, 6, 7, 8)]


def test_bytes_after_the_seal_are_damage(log: Path) -> None:
    """Nothing can be added to a sealed segment; zeros may stand there, an unfinished cut."""
    first, second, _ = sorted(log.glob("*.segment"))
    first.write_bytes(first.read_bytes() + bytes(5000))
    second.write_bytes(second.read_bytes() + frames_of(99)[0])

    found = [(finding.file, finding.reason) for finding in verify(log).damage]

    assert found == [("00000002.segment", "bytes after the seal")]
    assert sequences(log) == list(range(1, 121))


def test_a_segment_under_another_number_is_damage(log: Path) -> None:
    """A segment that was renamed is found by its own header."""
    newest_segment(log).rename(log / "00000009.segment")

    reasons = [finding.reason for finding in verify(log).damage]

    assert reasons == ["the header says that this is segment 3"]


def test_an_unsealed_segment_in_the_middle_is_damage(tmp_path: Path) -> None:
    """A segment with records that no later header accounts for is complained about."""
    committer = a_committer(tmp_path)
    committer.commit(frames_of(1))
    orphan = newest_segment(tmp_path).read_bytes()
    committer.close()
    newest_segment(tmp_path).write_bytes(orphan)
    (tmp_path / "elsewhere").mkdir()
    a_committer(tmp_path / "elsewhere").close()
    newest_segment(tmp_path / "elsewhere").rename(tmp_path / "00000002.segment")
    (tmp_path / "elsewhere" / "lock").unlink()

    reasons = [finding.reason for finding in verify(tmp_path).damage]

    assert "neither sealed nor named by its successor" in reasons
