import errno
from pathlib import Path

import pytest

from serving.predictionlog.reading.verification import verify
from serving.predictionlog.removals import REMOVAL_NAME, Removal, write_removal
from serving.trust.signatures import SigningKey
from tests.logs import SIGNER, TRUSTED, FaultyFiles, a_committer, frames_of
from tests.predictionlog.forgery import state_removed


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Four sealed segments of one record each."""
    return a_log(tmp_path / "log")


def a_log(directory: Path) -> Path:
    for sequence in range(1, 5):
        committer = a_committer(directory)
        committer.sequence = sequence
        committer.commit(frames_of(sequence))
        committer.close()
    return directory


def remove(log: Path, *numbers: int) -> None:
    for number in numbers:
        (log / f"{number:08d}.segment").unlink()


def reasons(log: Path) -> list[str]:
    return [finding.reason for finding in verify(log, trusted=TRUSTED).damage]


def test_what_retention_took_is_no_damage(log: Path) -> None:
    """With a signed statement the log may begin later, and the report says how far it went."""
    state_removed(log, through=2)
    remove(log, 1, 2)

    report = verify(log, trusted=TRUSTED)

    assert report.damage == ()
    assert [(each.through, each.reason) for each in report.removed] == [(2, "retention")]


def test_a_statement_whose_deletion_was_cut_short_is_no_damage(log: Path) -> None:
    """A process killed between the statement and the deletion leaves a segment too many, no lie."""
    remove(log, 1)
    state_removed(log, through=2)

    assert reasons(log) == []


@pytest.mark.parametrize("stated", [None, 1])
def test_more_than_was_stated_is_damage(log: Path, stated: int | None) -> None:
    """Without a statement, or with an earlier one, what is gone is missing."""
    if stated is not None:
        state_removed(log, through=stated)
    remove(log, 1, 2)

    assert reasons(log) == ["everything up to segment 2 is gone, and no statement says why"]


@pytest.mark.parametrize("how", ["stranger", "edited", "other log", "garbage"])
def test_a_forged_statement_is_found(
    log: Path, how: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Who has no key of the log cannot make what is missing look removed."""
    if how == "stranger":
        state_removed(log, through=2, signer=SigningKey.create())
    elif how == "edited":
        state_removed(log, through=1)
        path = log / REMOVAL_NAME
        path.write_bytes(path.read_bytes().replace(b'"payload":"', b'"payload":"IA'))
    elif how == "other log":
        other = a_log(tmp_path_factory.mktemp("other") / "log")
        state_removed(other, through=2)
        (log / REMOVAL_NAME).write_bytes((other / REMOVAL_NAME).read_bytes())
    else:
        (log / REMOVAL_NAME).write_bytes(b"{}")
    remove(log, 1, 2)

    [reason] = reasons(log)

    missing = reason == "everything up to segment 2 is gone, and no statement says why"
    assert missing if how == "other log" else reason.startswith("the statement does not count: ")


def test_a_statement_about_a_suspect_segment_counts(tmp_path: Path) -> None:
    """A segment that was never sealed is named as its successor names it."""
    files = FaultyFiles()
    committer = a_committer(tmp_path, files=files)
    committer.commit(frames_of(1))
    files.fail("write", errno.EIO)
    committer.commit(frames_of(2))
    committer.close()
    state_removed(tmp_path, through=1)
    remove(tmp_path, 1)

    assert reasons(tmp_path) == []


def test_a_statement_that_names_no_hash_explains_nothing(log: Path) -> None:
    """The number alone is not enough: another log has it, too."""
    write_removal(log, Removal(log.name, 2, "", 2, "retention", 1), SIGNER)
    remove(log, 1, 2)

    assert reasons(log) == ["everything up to segment 2 is gone, and no statement says why"]
