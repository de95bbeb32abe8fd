"""Idempotency keys: carried out once, answered twice, forgotten after a week."""

from pathlib import Path

import pytest
from sqlalchemy import Connection

from serving.core.clock import ManualClock
from serving.errors import KeyReused, ParameterInvalid
from serving.storage.database import Database
from serving.storage.operations import KEPT_NS, Operations, operation


class Counted:
    """A change that counts how often it was made."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, _connection: Connection) -> bytes:
        self.times += 1
        return b"%d" % self.times


def test_the_same_order_is_carried_out_once(database: Database) -> None:
    """The second time gives the first answer, status included."""
    operations, change = Operations(database, ManualClock()), Counted()
    wanted = operation("ada", "k", b"order")

    first = operations.perform(wanted, change, status=201)
    second = operations.perform(wanted, change, status=201)

    assert (first.status, first.answer, first.repeated) == (201, b"1", False)
    assert (second.status, second.answer, second.repeated) == (201, b"1", True)


def test_another_order_or_another_caller_is_another_matter(database: Database) -> None:
    """The one is refused, the other has keys of its own."""
    operations, change = Operations(database, ManualClock()), Counted()
    operations.perform(operation("ada", "k", b"order"), change)

    with pytest.raises(KeyReused):
        operations.perform(operation("ada", "k", b"other"), change)
    outcome = operations.perform(operation("bob", "k", b"other"), change)

    assert (outcome.answer, change.times) == (b"2", 2)


def test_without_a_key_every_order_counts(database: Database) -> None:
    """Nothing is remembered then."""
    operations, change = Operations(database, ManualClock()), Counted()
    for _ in range(2):
        operations.perform(operation("ada", "", b"order"), change)

    assert change.times == 2


def test_parts_of_an_order_do_not_run_together() -> None:
    """What moves from one part to the next is another order."""
    assert operation("a", "k", b"ab", b"c").digest != operation("a", "k", b"a", b"bc").digest


def test_keys_are_kept_for_a_week(database: Database) -> None:
    """After that they are forgotten, when the next is written."""
    clock, change = ManualClock(), Counted()
    operations = Operations(database, clock)
    operations.perform(operation("ada", "old", b"order"), change)
    clock.advance(KEPT_NS / 1e9 + 1)
    operations.perform(operation("ada", "new", b"order"), change)

    assert not operations.perform(operation("ada", "old", b"order"), change).repeated


@pytest.mark.parametrize("key", ["k" * 256, "a\nb", "\x00"])
def test_odd_keys_are_refused(key: str, tmp_path: Path) -> None:
    """A key is short and can be printed."""
    del tmp_path
    with pytest.raises(ParameterInvalid):
        operation("ada", key, b"order")
