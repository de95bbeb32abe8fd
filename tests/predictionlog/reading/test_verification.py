import errno
from pathlib import Path

import pytest
from google_crc32c import value as checksum

from serving.predictionlog.format import FrameType, closed
from serving.predictionlog.heads import open_head, read_envelope
from serving.predictionlog.reading.query import Query
from serving.predictionlog.reading.verification import verify
from serving.trust.signatures import SigningKey, TrustedKeys
from tests.logs import (
    NOW_NS,
    SETTINGS,
    TRUSTED,
    FaultyFiles,
    a_committer,
    frames_of,
    newest_segment,
    read_all,
    sequences,
)
from tests.predictionlog.forgery import Forgery, edited, state_removed, with_sequence


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
def test_lg_07_damage_is_named_with_its_neighbours(log: Path, at: int, first_safe: int) -> None:
    """The report gives the file, the place, and the last and first sound records around it.

    With its length intact only the record is lost; without it, the rest of its commit.
    """
    segment = sorted(log.glob("*.segment"))[1]
    offset = damage_record(segment, 46, at=at)

    [found] = verify(log, trusted=TRUSTED).damage

    assert (found.file, found.start, found.reason) == (segment.name, offset, "invalid frame")
    assert (found.last_safe, found.first_safe) == (45, first_safe)


def test_lg_07_damage_hides_nothing_but_itself(log: Path) -> None:
    """Every record outside the damaged commit is still read; `salvage` adds those behind it."""
    damage_record(sorted(log.glob("*.segment"))[1], 46)

    found = sequences(log)
    backwards = [record.sequence for record in read_all(log, Query(newest_first=True))]
    salvaged = [record.sequence for record in read_all(log, Query(salvage=True))]

    assert found == backwards[::-1] == [n for n in range(1, 121) if n not in (46, 47, 48)]
    assert salvaged == [n for n in range(1, 121) if n != 46]


def test_a_missing_segment_is_damage(log: Path) -> None:
    """A segment removed from the middle is missed, and so are the oldest ones when nobody took them."""
    first, second, _ = sorted(log.glob("*.segment"))
    second.rename(log / "moved")
    missing = verify(log).damage
    first.unlink()
    cut = verify(log).damage

    assert [finding.reason for finding in missing] == [
        "segment 2, which stands before this one, is missing"
    ]
    assert [finding.reason for finding in cut] == [
        "everything up to segment 2 is gone, and no statement says why"
    ]


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
    second.write_bytes(data[: len(data) - 284])

    reasons = [finding.reason for finding in verify(log).damage]

    assert reasons == ["the seal is missing"]


def test_lg_19_a_foreign_file_is_damage(log: Path) -> None:
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


def test_lg_07_a_huge_length_costs_nothing(log: Path) -> None:
    """A damaged length of almost 4 GiB is found without taking memory for it."""
    segment = newest_segment(log)
    data = bytearray(segment.read_bytes())
    offset = damage_record(segment, 90, at=2)
    data[offset : offset + 4] = b"\xff\xff\xff\xff"
    segment.write_bytes(data)

    assert verify(log).damage[0].start == offset


def test_a_substituted_record_is_damage(log: Path) -> None:
    """A sound record put in the place of another contradicts its commit, is not read, and is named."""
    segment = sorted(log.glob("*.segment"))[0]
    data = segment.read_bytes()
    segment.write_bytes(data.replace(frames_of(6)[0], frames_of(600)[0]))

    commit, record = verify(log).damage

    assert commit.reason == "frames do not belong to their commit"
    assert (record.reason, record.sequence) == ("a record is not the one that was sealed", 600)
    assert (record.last_safe, record.first_safe) == (5, 7)
    assert sequences(log) == [n for n in range(1, 121) if n not in (5, 6, 7, 8)]


def test_lg_19_bytes_after_the_seal_are_damage(log: Path) -> None:
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

    assert reasons == [
        "the header says that this is segment 3",
        "this segment, which the head knows, is missing",
    ]


def test_an_unsealed_segment_in_the_middle_is_damage(tmp_path: Path) -> None:
    """A segment with records that no later header accounts for is complained about."""
    committer = a_committer(tmp_path)
    committer.commit(frames_of(1))
    orphan = newest_segment(tmp_path).read_bytes()
    committer.close()
    (tmp_path / "head.json").unlink()
    newest_segment(tmp_path).write_bytes(orphan)
    (tmp_path / "elsewhere").mkdir()
    a_committer(tmp_path / "elsewhere").close()
    newest_segment(tmp_path / "elsewhere").rename(tmp_path / "00000002.segment")
    (tmp_path / "elsewhere" / "lock").unlink()

    reasons = [finding.reason for finding in verify(tmp_path).damage]

    assert "neither sealed nor named by its successor" in reasons


def second_segment(log: Path) -> Path:
    return sorted(log.glob("*.segment"))[1]


def test_an_edited_record_is_named(log: Path) -> None:
    """A record changed with every checksum made right again is named by place and sequence."""
    forgery = Forgery.of(second_segment(log))
    commit, index = forgery.records()[5]
    forgery.commits[commit][index] = edited(forgery.commits[commit][index], 100, 1)
    forgery.write()

    [found] = verify(log, trusted=TRUSTED).damage

    assert (found.file, found.reason) == (
        "00000002.segment", "a record is not the one that was sealed",
    )  # fmt: skip
    assert (found.sequence, found.last_safe, found.first_safe) == (46, 45, 47)
    data = second_segment(log).read_bytes()
    assert data[found.start : found.end] == forgery.commits[commit][index]


def test_a_removed_record_is_missed(log: Path) -> None:
    """A record taken out, the rest closed up behind it, is missed between its neighbours."""
    forgery = Forgery.of(second_segment(log))
    commit, index = forgery.records()[5]
    del forgery.commits[commit][index]
    forgery.write()

    [found] = verify(log, trusted=TRUSTED).damage

    assert found.reason == "1 of the frames that were sealed is missing"
    assert (found.last_safe, found.first_safe) == (45, 47)


def test_an_added_record_is_named(log: Path) -> None:
    """A record that was never there, with right checksums, is named."""
    forgery = Forgery.of(second_segment(log))
    commit, index = forgery.records()[5]
    forgery.commits[commit].insert(index, with_sequence(forgery.commits[commit][index], 4711))
    forgery.write()

    [found] = verify(log, trusted=TRUSTED).damage

    assert (found.reason, found.sequence, found.last_safe, found.first_safe) == (
        "a record was added after this was sealed", 4711, 45, 46,
    )  # fmt: skip


def test_reordered_records_are_named(log: Path) -> None:
    """Two records that changed places are named as moved."""
    forgery = Forgery.of(second_segment(log))
    (commit, one), (_, other) = forgery.records()[5:7]
    frames = forgery.commits[commit]
    frames[one], frames[other] = frames[other], frames[one]
    forgery.write()

    found = verify(log, trusted=TRUSTED).damage

    assert {finding.reason for finding in found} == {
        "a record is not where it was when this was sealed"
    }
    assert {finding.sequence for finding in found} <= {46, 47}


def test_a_removed_commit_is_missed(log: Path) -> None:
    """A whole commit taken out is missed, with how many frames it had."""
    forgery = Forgery.of(second_segment(log))
    del forgery.commits[3], forgery.footers[3]
    forgery.write()

    [found] = verify(log, trusted=TRUSTED).damage

    assert found.reason == "4 of the frames that were sealed are missing"
    assert (found.last_safe, found.first_safe) == (52, 57)


def test_a_changed_commit_frame_is_named(log: Path) -> None:
    """What no record holds, like the times in a commit frame, is sealed too."""
    forgery = Forgery.of(second_segment(log))
    forgery.footers[2] = forgery.footers[2]._replace(latest_ns=NOW_NS + 1)
    forgery.write()

    [found] = verify(log, trusted=TRUSTED).damage

    assert found.reason == "these bytes are not those that were sealed"
    assert found.start < found.end


def test_a_segment_sealed_again_by_another_key_is_refused(log: Path) -> None:
    """Who makes tree and seal anew has to sign, and signs with a key that nobody trusts."""
    elsewhere = log / "elsewhere"
    stranger = SigningKey.create()
    committer = a_committer(elsewhere, signer=stranger)
    committer.commit(frames_of(1))
    committer.close()

    [seal, head] = verify(elsewhere, trusted=TRUSTED).damage

    assert seal.reason == f"the seal does not count: key '{stranger.key_id}' is unknown"
    assert head.file == "head.json"
    assert verify(elsewhere).damage == ()


def test_a_revoked_key_seals_nothing(log: Path) -> None:
    """From its revocation on nothing counts that a key ever signed."""
    [key] = TRUSTED.keys
    revoked = TrustedKeys([type(key)(key.key_id, key.public_key, "t", key.roles, 0, 0, 1)])

    damage = verify(log, trusted=revoked).damage

    assert len([found for found in damage if "revoked" in found.reason]) == 4


def test_a_cut_end_is_found_by_the_head(log: Path) -> None:
    """The newest segment, cut back and its seal gone, holds less than the signed head says."""
    newest = newest_segment(log)
    forgery = Forgery.of(newest)
    del forgery.commits[-2:], forgery.footers[-2:]
    forgery.ending = b""
    forgery.write()

    [found] = verify(log, trusted=TRUSTED).damage

    assert found.reason == "cut: 2 commits that the head knows are missing, up to sequence 120"
    assert found.last_safe == 112


def test_a_removed_end_is_found_by_the_head(log: Path) -> None:
    """The newest segment as a whole is missed, and so is a head that was removed with it."""
    newest_segment(log).unlink()
    missing = [(found.file, found.reason) for found in verify(log, trusted=TRUSTED).damage]
    (log / "head.json").unlink()
    headless = [found.reason for found in verify(log, trusted=TRUSTED).damage]

    assert missing == [("00000003.segment", "this segment, which the head knows, is missing")]
    assert headless == ["the signed head is missing"]


def test_an_older_head_is_found_by_the_anchor(log: Path) -> None:
    """Who puts an older head beside an older log is found by a head that was exported before."""
    envelope = read_envelope(log)
    assert envelope is not None
    anchor = {log.name: open_head(envelope, TRUSTED)}
    newest_segment(log).unlink()
    (log / "head.json").unlink()

    cut = verify(log, trusted=TRUSTED, anchors=anchor).damage
    gone = verify(log / "nowhere", trusted=TRUSTED, anchors=anchor).damage

    assert "this segment, which the head knows, is missing" in {found.reason for found in cut}
    assert [found.reason for found in gone] == [
        "this directory, which the anchor knows, is missing"
    ]


def test_an_anchor_holds_while_the_log_grows(log: Path) -> None:
    """A head from earlier fits every later state of the same log; it misses nothing retention took."""
    envelope = read_envelope(log)
    assert envelope is not None
    anchor = {log.name: open_head(envelope, TRUSTED)}
    committer = a_committer(log)
    committer.commit(frames_of(121))
    grown = verify(log, trusted=TRUSTED, anchors=anchor).damage
    committer.close()
    state_removed(log, through=3)
    for segment in sorted(log.glob("*.segment"))[:3]:
        segment.unlink()

    retained = verify(log, trusted=TRUSTED, anchors=anchor)

    assert (grown, retained.damage) == ((), ())
    assert [each.through for each in retained.removed] == [3]


def test_a_forged_head_is_no_head(log: Path) -> None:
    """A head that nobody trusted signed is refused."""
    stranger = SigningKey.create()
    envelope = read_envelope(log)
    assert envelope is not None
    forged = stranger.sign(envelope.payload_type, envelope.payload)
    (log / "head.json").write_bytes(forged.encode())

    [found] = verify(log, trusted=TRUSTED).damage

    assert found.reason.startswith("the head is not what was signed")


def test_a_changed_suspect_segment_is_damage(tmp_path: Path) -> None:
    """What counts of a suspect segment is covered by the header, and so by the seal, of the next."""
    files = FaultyFiles()
    committer = a_committer(tmp_path, files=files)
    committer.commit(frames_of(1))
    files.fail("write", errno.EIO)
    committer.commit(frames_of(2))
    committer.close()
    suspect = tmp_path / "00000001.segment"
    data = suspect.read_bytes()
    forged = data.replace(frames_of(1)[0], edited(frames_of(1)[0], 80, 1))
    forged = forged[:256] + reclosed(forged[256:])
    suspect.write_bytes(forged)

    [found] = verify(tmp_path, trusted=TRUSTED).damage

    assert (found.file, found.reason) == (
        "00000001.segment", "not the bytes that the successor names",
    )  # fmt: skip


def reclosed(commit: bytes) -> bytes:
    """The first commit of a segment with its checksum made right."""
    at = 0
    while commit[at + 4] != FrameType.COMMIT:
        at += int.from_bytes(commit[at : at + 4], "little")
    check = checksum(commit[:at]).to_bytes(4, "little")
    return commit[:at] + closed(commit[at : at + 68] + check) + commit[at + 76 :]


def test_progress_is_told(log: Path) -> None:
    """Whoever shows a bar hears of nearly every byte."""
    told: list[int] = []

    verify(log, progress=told.append)

    whole = sum(path.stat().st_size for path in log.glob("*.segment"))
    assert 0.7 * whole < sum(told) <= whole
