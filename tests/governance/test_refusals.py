from pathlib import Path

import msgspec
import pytest

from serving.artifacts.statements import Approval
from serving.errors import RegistryUnavailable
from serving.governance.refusals import Refusals

WORD = Approval(
    kind="withdrawal",
    model="fraud",
    version="1",
    digest="ab" * 32,
    approver="grace",
    approver_owner="",
    roles=("approver",),
    author="ada",
    decision="rejected",
    reason="the data were wrong",
    issued_ns=1,
    expires_ns=0,
    request="r",
)


def test_what_was_kept_is_known_after_a_restart(tmp_path: Path) -> None:
    """Each version has its own words, oldest first, whoever reads the file."""
    refusals = Refusals(tmp_path / "refusals.jsonl")
    refusals.keep(WORD, "one")
    refusals.keep(msgspec.structs.replace(WORD, version="2"), "two")
    refusals.keep(WORD, "three")

    again = Refusals(tmp_path / "refusals.jsonl")
    assert refusals.about("fraud", "1") == again.about("fraud", "1") == ("one", "three")
    assert again.about("fraud", "2") == ("two",)
    assert again.about("other", "1") == ()


def test_line_that_a_crash_cut_off_costs_no_other(tmp_path: Path) -> None:
    """What was whole before it counts, and so does what is kept after it."""
    path = tmp_path / "refusals.jsonl"
    Refusals(path).keep(WORD, "one")
    with path.open("ab") as file:
        file.write(b'{"model":"fraud","vers')

    after = Refusals(path)
    after.keep(WORD, "two")

    assert Refusals(path).about("fraud", "1") == after.about("fraud", "1") == ("one", "two")


def test_word_that_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    """Nobody is told that an approval was taken back when it could come again."""
    with pytest.raises(RegistryUnavailable):
        Refusals(tmp_path / "missing" / "refusals.jsonl").keep(WORD, "one")


def test_file_is_for_its_owner_only(tmp_path: Path) -> None:
    """It names people and their reasons."""
    path = tmp_path / "refusals.jsonl"
    Refusals(path).keep(WORD, "one")

    assert path.stat().st_mode & 0o777 == 0o600
