from pathlib import Path

import pytest

from serving.errors import LogDamaged
from serving.predictionlog.format import HEADER_BYTES, VERSION, closed
from serving.predictionlog.reading.verification import verify
from tests.logs import a_committer, crash, frames_of, names_in, newest_segment, sequences


def test_a_sealed_log_is_left_as_it_is(tmp_path: Path) -> None:
    """A clean stop leaves nothing to recover: no byte of the old segment changes."""
    committer = a_committer(tmp_path)
    committer.commit(frames_of(1))
    committer.close()
    before = newest_segment(tmp_path).read_bytes()

    a_committer(tmp_path).close()

    assert (tmp_path / "00000001.segment").read_bytes() == before
    assert verify(tmp_path).damage == ()


def test_the_end_is_reported(tmp_path: Path) -> None:
    """A recovered segment says so in its seal, with how much was cut."""
    committer = a_committer(tmp_path)
    committer.commit(frames_of(1))
    committer.close()
    crash(tmp_path, tail=b"torn in the middle")

    a_committer(tmp_path).close()

    [recovered, _] = verify(tmp_path).segments
    assert (recovered.state, recovered.records, recovered.cut_bytes) == ("recovered", 1, 18)


def test_prepared_files_are_removed(tmp_path: Path) -> None:
    """A file made ready for a segment that was never begun goes; its number is not used again."""
    a_committer(tmp_path).close()
    (tmp_path / "00000002.segment").write_bytes(bytes(1000))
    (tmp_path / "00000003.segment").write_bytes(b"")

    a_committer(tmp_path).close()

    assert names_in(tmp_path) == ["00000001.segment", "00000004.segment", "head.json", "lock"]
    assert verify(tmp_path).damage == ()


def test_damage_below_the_end_stays_and_is_reported(tmp_path: Path) -> None:
    """Recovery never repairs damage away: later records stay, and verify still names the place."""
    committer = a_committer(tmp_path)
    for n in (1, 2, 3):
        committer.commit(frames_of(n))
    committer.close()
    crash(tmp_path)
    segment = newest_segment(tmp_path)
    data = bytearray(segment.read_bytes())
    data[data.index(frames_of(2)[0]) + 40] ^= 4
    segment.write_bytes(data)

    again = a_committer(tmp_path)
    again.commit(frames_of(again.sequence + 1))
    again.close()

    assert sequences(tmp_path) == [1, 3, 1]
    assert [finding.reason for finding in verify(tmp_path).damage] == ["invalid frame"]


def test_an_unreadable_head_does_not_stop_the_start(tmp_path: Path) -> None:
    """The segment is kept for the operator, verify names it, and work goes on in a new one."""
    committer = a_committer(tmp_path)
    committer.commit(frames_of(1))
    committer.close()
    segment = newest_segment(tmp_path)
    segment.write_bytes(b"?" * 300 + segment.read_bytes()[300:])

    again = a_committer(tmp_path)
    again.commit(frames_of(2))
    again.close()

    assert sequences(tmp_path) == [2]
    assert [finding.reason for finding in verify(tmp_path).damage] == ["the header is damaged"]


def test_lg_21_a_later_format_is_refused(tmp_path: Path) -> None:
    """A segment of a later version stops the start with its name and the version known here."""
    a_committer(tmp_path).close()
    segment = newest_segment(tmp_path)
    data = segment.read_bytes()
    later = closed(data[:8] + (VERSION + 1).to_bytes(2, "little") + data[10 : HEADER_BYTES - 4])
    segment.write_bytes(later * 2 + data[2 * HEADER_BYTES :])

    with pytest.raises(LogDamaged, match="version 3; this program reads 1 to 2"):
        a_committer(tmp_path)

    assert "version 3" in verify(tmp_path).damage[0].reason
