"""What the monitor remembers: together or not at all, bounded, and refused when it is no store."""

from pathlib import Path

import pytest

from serving.errors import LogDamaged
from serving.ledger.pairstore import Changes, PairStore


def test_a_commit_is_whole(tmp_path: Path) -> None:
    """What is written with one commit is there after it, and settled answers are not."""
    file = tmp_path / "store" / "monitor.sqlite"
    with PairStore(file) as store:
        first = Changes({"place": b"1"}, {("a", "x"): b"A", ("b", "x"): b"B"})
        store.commit(first, now_ns=1, max_waiting=10)
        second = Changes({"place": b"2"}, {("b", "x"): b"BB"}, {("a", "x")})
        store.commit(second, now_ns=2, max_waiting=10)
    with PairStore(file) as store:
        assert store.state("place") == b"2"
        assert store.find(["a", "b", "c"]) == {("b", "x"): b"BB"}
        assert store.waiting == 1


def test_the_oldest_answers_go_first(tmp_path: Path) -> None:
    """Above the bound, and how many had to is said."""
    with PairStore(tmp_path / "monitor.sqlite") as store:
        waiting = {(str(n), "x"): b"" for n in range(10)}
        gone = store.commit(Changes(waiting=waiting), now_ns=1, max_waiting=3)

        assert (gone, store.waiting) == (7, 3)
        assert {key for key, _ in store.find([str(n) for n in range(10)])} == {"7", "8", "9"}


def test_what_nobody_asks_for_is_forgotten(tmp_path: Path) -> None:
    """After its time, but for what is in use."""
    with PairStore(tmp_path / "monitor.sqlite") as store:
        store.commit(Changes({"a": b"", "b": b""}), now_ns=1, max_waiting=1)
        store.commit(Changes({"c": b""}), now_ns=5, max_waiting=1)
        store.forget(3, kept=["a"])

        assert [store.state(name) for name in "abc"] == [b"", None, b""]


def test_another_file_is_no_store(tmp_path: Path) -> None:
    """It is told by name, and not written to."""
    file = tmp_path / "monitor.sqlite"
    file.write_bytes(b"something else entirely" * 100)

    with pytest.raises(LogDamaged, match="comparisons begin anew"), PairStore(file):
        pass
    assert file.read_bytes() == b"something else entirely" * 100
