"""Whatever is done to a trail is found, and named with its place, from the trail alone."""

import dataclasses
from pathlib import Path

import pytest

from serving.audit.events import Event
from serving.audit.findings import Kind, Report
from serving.audit.reading import export, read_export, trail_of
from serving.audit.verification import verify
from serving.errors import AuditDamaged
from serving.trust.installation import edit_trusted, read_trusted
from serving.trust.signatures import SigningKey
from tests.audit.trails import Trail

PLACES = (0, 3, 7, 11)
"""Of a trail of twelve events: the first, two in the middle, the last."""


@pytest.fixture
def trail(tmp_path: Path) -> Trail:
    """Twelve events, signed after the fourth, the eighth and the last."""
    trail = Trail(tmp_path)
    for count in (3, 4, 4):
        trail.append(count)
        trail.sign()
    return trail


def found(report: Report) -> list[tuple[Kind, int]]:
    return [(each.kind, each.position) for each in report.findings]


def test_untouched_trail_is_intact(trail: Trail) -> None:
    """The opening event and eleven others, all signed, nothing to complain of."""
    report = trail.verify()

    assert (report.intact, report.events, report.covered) == (True, 12, 12)
    assert (report.checkpoints, report.anchored, report.refused) == (3, 3, ())


def test_events_since_the_last_checkpoint_are_counted_as_not_covered(trail: Trail) -> None:
    """They are at most a second old in a running product, and no damage."""
    trail.append(2)

    report = trail.verify()

    assert (report.intact, report.events, report.covered) == (True, 14, 12)


EDITS: dict[str, tuple[str, ...]] = {
    "flip": (
        "UPDATE audit_events SET body = replace(body, '\"ada\"', '\"bob\"'), actor = 'bob'"
        " WHERE position = :p",
        "UPDATE audit_events SET body = replace(body, '\"serving\"', '\"bob\"'), actor = 'bob'"
        " WHERE position = :p",
    ),
    "hash": (
        "UPDATE audit_events SET hash = iif(hash LIKE '0%', 'f', '0') || substr(hash, 2)"
        " WHERE position = :p",
    ),
    "column": ("UPDATE audit_events SET actor = 'nobody' WHERE position = :p",),
    "nothing left": ("UPDATE audit_events SET body = '{}' WHERE position = :p",),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("how", EDITS)
def test_au_01_au_10_edit_with_sql_is_named(trail: Trail, how: str, place: int) -> None:
    """Body, hash or a column beside them: the event is named, whichever it is."""
    trail.sql(*EDITS[how], p=place)

    assert (Kind.EDITED, place) in found(trail.verify(anchored=False))


@pytest.mark.parametrize("place", PLACES)
def test_au_01_deletion_is_named(trail: Trail, place: int) -> None:
    """In the middle it is a gap, at the end a truncation."""
    trail.sql("DELETE FROM audit_events WHERE position = :p", p=place)

    kind = Kind.TRUNCATED if place == PLACES[-1] else Kind.DELETED
    assert found(trail.verify(anchored=False))[0] == (kind, place)


@pytest.mark.parametrize("place", PLACES[:-1])
def test_au_01_deletion_that_closes_the_gap_is_named(trail: Trail, place: int) -> None:
    """Numbering the rest anew does not help: each event says its own place."""
    trail.sql(
        "DELETE FROM audit_events WHERE position = :p",
        "UPDATE audit_events SET position = -position WHERE position > :p",
        "UPDATE audit_events SET position = -position - 1 WHERE position < 0",
        "UPDATE audit_head SET size = size - 1",
        p=place,
    )

    assert (Kind.DELETED, place) in found(trail.verify(anchored=False))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("same", [True, False], ids=["duplicate", "insert"])
def test_au_01_insertion_and_duplicate_are_named(
    tmp_path: Path, trail: Trail, place: int, same: bool
) -> None:
    """In an export: the same event twice, or another one at a place that is taken."""
    lines = list(export(trail.database))
    line = lines[1 + place]
    lines.insert(2 + place, line if same else line.replace(b'"source":"', b'"source":"x'))

    report = verify_lines(tmp_path, trail, lines)

    kinds = {each for each in found(report) if each[1] == place}
    assert (Kind.DUPLICATED if same else Kind.INSERTED, place) in kinds
    assert found(report)[0][1] == place


@pytest.mark.parametrize("place", PLACES[:-1])
def test_au_01_reorder_is_named(tmp_path: Path, trail: Trail, place: int) -> None:
    """Two neighbours that changed places."""
    lines = list(export(trail.database))
    lines[1 + place], lines[2 + place] = lines[2 + place], lines[1 + place]

    assert found(verify_lines(tmp_path, trail, lines))[0] == (Kind.REORDERED, place)


@pytest.mark.parametrize("cut", [1, 4, 11])
def test_au_02_cut_tail_is_named(trail: Trail, cut: int) -> None:
    """Head and checkpoints cut as well: the anchor knows better, and names the first lost place."""
    size = 12 - cut
    trail.sql(
        "DELETE FROM audit_events WHERE position >= :size",
        "DELETE FROM audit_checkpoints WHERE size > :size",
        "UPDATE audit_head SET size = :size,"
        " last = (SELECT hash FROM audit_events WHERE position = :size - 1)",
        size=size,
    )

    assert found(trail.verify()) == [(Kind.ROLLED_BACK, size)]


def test_au_02_older_copy_is_found(tmp_path: Path, trail: Trail) -> None:
    """A database that is whole and signed, but from before the anchor's last checkpoint."""
    copy = (tmp_path / "registry.sqlite").read_bytes()
    trail.append(3)
    trail.sign()
    trail.database.close()
    (tmp_path / "registry.sqlite").write_bytes(copy)

    assert found(trail.verify()) == [(Kind.ROLLED_BACK, 12)]
    with pytest.raises(AuditDamaged, match="anchor knows 15 events"):
        trail.resumed().write()


def test_au_02_fork_from_a_middle_event_is_found(trail: Trail) -> None:
    """Every hash made anew: only what was signed tells, and says between which events."""
    trail.rewrite(5, rename)

    assert found(trail.verify(anchored=False)) == [(Kind.FORKED, 4)]


def test_fork_beside_the_anchor_is_found(trail: Trail) -> None:
    """With the database's checkpoints gone too, the anchor's are enough."""
    trail.rewrite(9, rename)
    trail.sql("DELETE FROM audit_checkpoints")

    assert found(trail.verify()) == [(Kind.FORKED, 8)]
    assert found(trail.verify(anchored=False)) == [(Kind.UNSIGNED, 0)]


def test_au_03_logs_of_one_key_cannot_be_swapped(tmp_path: Path) -> None:
    """The log's id is in each checkpoint: another log with the same key is another log."""
    ours = Trail(tmp_path / "ours", keys=tmp_path / "keys")
    theirs = Trail(tmp_path / "theirs", keys=tmp_path / "keys")
    for each in (ours, theirs):
        each.append(3)
        each.sign()

    swapped = trail_of(theirs.database, anchor=ours.anchor)

    report = verify(swapped, read_trusted(tmp_path / "keys"))
    assert found(report) == [(Kind.OTHER_LOG, 0)]


def test_au_04_checkpoint_of_an_unknown_key_does_not_count(trail: Trail) -> None:
    """It is named, and covers nothing."""
    stranger = SigningKey.create()
    edit_trusted(
        trail.keys,
        lambda keys: tuple(
            type(each)(stranger.key_id, stranger.public.text, "stranger", each.roles)
            for each in keys
        ),
    )

    report = trail.verify()

    assert (report.covered, found(report)) == (0, [(Kind.UNSIGNED, 0)])
    assert len(report.refused) == 6
    assert "is unknown" in report.refused[0]


def test_au_04_old_key_counts_for_what_it_signed_in_its_time_only(trail: Trail) -> None:
    """After a rotation its earlier checkpoints hold; a later one of the same key is refused."""
    end_ns = trail.clock.wall_ns()
    edit_trusted(
        trail.keys,
        lambda keys: tuple(
            type(each)(each.key_id, each.public_key, each.name, each.roles, 0, end_ns + 1)
            for each in keys
        ),
    )
    before = trail.verify()
    trail.append(1)
    trail.sign()

    after = trail.verify()

    assert (before.intact, before.covered) == (True, 12)
    assert (after.covered, len(after.refused)) == (12, 2)
    assert "is expired" in after.refused[0]


def test_au_04_size_that_goes_back_is_refused(trail: Trail) -> None:
    """By what verifies, and by what signs: a shorter trail is never signed again."""
    notes = trail.anchor.read_text()
    trail.anchor.write_text(notes + notes)
    trail.sql("DELETE FROM audit_events WHERE position > 5", "UPDATE audit_head SET size = 6")

    report = trail.verify()

    assert any("goes back" in reason for reason in report.refused)
    assert (Kind.TRUNCATED, 6) in found(report)
    with pytest.raises(AuditDamaged, match="were signed already"):
        trail.checkpoints.write()


def test_damage_is_not_signed(trail: Trail) -> None:
    """What signs looks first: an event that was changed before its checkpoint stops it."""
    trail.append(4)
    trail.sql("UPDATE audit_events SET body = replace(body, 'ada', 'bob') WHERE position = 13")

    with pytest.raises(AuditDamaged, match="event 13"):
        trail.checkpoints.write()


def test_signing_goes_on_after_a_restart(trail: Trail) -> None:
    """From the last checkpoint's frontier: no event is read twice, and the roots agree."""
    trail.append(5)
    trail.checkpoints = trail.resumed()
    trail.sign()

    report = trail.verify()

    assert (report.intact, report.covered, report.anchored) == (True, 17, 4)


def test_checkpoint_that_did_not_leave_leaves_with_the_next(trail: Trail) -> None:
    """An anchor that could not be written is caught up."""
    trail.append(1)
    trail.anchor.rename(trail.anchor.with_suffix(".kept"))
    trail.anchor.mkdir()
    with pytest.raises(OSError, match="directory"):
        trail.sign()
    trail.anchor.rmdir()
    trail.anchor.with_suffix(".kept").rename(trail.anchor)

    trail.checkpoints.write()

    assert trail.verify().anchored == 4


def test_torn_note_in_the_anchor_is_passed_over(trail: Trail) -> None:
    """A crash in the middle of a write costs that checkpoint's copy and nothing else."""
    text = trail.anchor.read_text()
    trail.anchor.write_text(text[: len(text) - 40])
    trail.append(1)
    trail.sign()

    report = trail.verify()

    assert (report.intact, report.anchored) == (True, 3)


def test_export_is_as_good_as_the_database(tmp_path: Path, trail: Trail) -> None:
    """It verifies elsewhere, with the trusted keys alone; what is cut off it is noticed."""
    lines = list(export(trail.database))

    whole = verify_lines(tmp_path, trail, lines)
    cut = verify_lines(tmp_path, trail, lines[:-2])
    headless = tmp_path / "headless"
    headless.write_bytes(b"".join(lines[1:]))

    assert (whole.intact, whole.events, whole.checkpoints) == (True, 12, 3)
    assert whole.root == trail.verify().root
    assert (cut.events, cut.checkpoints) == (12, 2)
    with pytest.raises(AuditDamaged, match="no header"):
        read_export(headless)


def test_place_far_ahead_is_an_edit_and_no_gap_of_that_size(tmp_path: Path, trail: Trail) -> None:
    """A forged number costs neither memory nor time."""
    lines = list(export(trail.database))
    lines[3] = lines[3].replace(b'"position":2', b'"position":9007199254740991')

    assert found(verify_lines(tmp_path, trail, lines))[0] == (Kind.EDITED, 2)


def verify_lines(folder: Path, trail: Trail, lines: list[bytes]) -> Report:
    file = folder / "export.jsonl"
    file.write_bytes(b"".join(lines))
    return verify(read_export(file), read_trusted(trail.keys))


def rename(event: Event) -> Event:
    return dataclasses.replace(event, actor="nobody")


def test_p23_every_event_of_a_long_trail_is_guarded(tmp_path: Path) -> None:
    """Each of 300 events changed, dropped, doubled or moved in an export: found every time."""
    trail = Trail(tmp_path)
    trail.append(299)
    trail.sign()
    lines = list(export(trail.database))
    trusted = read_trusted(trail.keys)
    missed = []
    for place in range(300):
        at = place + 1
        damaged = {
            "edit": [*lines[:at], lines[at].replace(b'"actor":"', b'"actor":"x'), *lines[at + 1 :]],
            "drop": [*lines[:at], *lines[at + 1 :]],
            "double": [*lines[:at], lines[at], *lines[at:]],
            "move": [*lines[:at], *lines[at + 1 : at + 2], lines[at], *lines[at + 2 :]],
        }
        if place == 299:
            del damaged["move"]
        # One kind for each place, all kinds in turn: the whole product would take minutes.
        name = list(damaged)[place % len(damaged)]
        file = tmp_path / "export.jsonl"
        file.write_bytes(b"".join(damaged[name]))
        report = verify(read_export(file), trusted)
        if report.intact or report.findings[0].position != place:
            missed.append((name, place))

    assert missed == []
