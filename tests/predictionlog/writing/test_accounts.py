import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest

from serving.core.clock import SystemClock
from serving.predictionlog.losses import Loss, decode_loss, encode_loss
from serving.predictionlog.writing.accounts import MAX_TICKETS, Accounts, LeftAccounts, read_history
from serving.predictionlog.writing.settling import settle_left
from tests.logs import NOW_NS, a_writer, record

VERSION = "doubler@1"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answered request, as accounts see it."""

    sequence: int
    time_ns: int = NOW_NS


def answers(*sequences: int) -> list[Answer]:
    return [Answer(each) for each in sequences]


def opened(directory: Path, log_id: str = "ab" * 8) -> Accounts:
    directory.mkdir(exist_ok=True)
    accounts = Accounts()
    accounts.open(directory, log_id=log_id, sequence=lambda: 0, now_ns=NOW_NS)
    return accounts


def live(directory: Path) -> LeftAccounts:
    """What a process that looks from outside, or the next one, finds."""
    (path,) = directory.glob("accounts-*.live")
    left = LeftAccounts.read(path)
    assert left is not None
    return left


def test_figures_are_in_the_file_before_anybody_is_answered(tmp_path: Path) -> None:
    """A process that is killed right after it counted leaves the figures to the next."""
    accounts = opened(tmp_path)
    accounts.answer(3, recorded=True)
    accounts.refused += 1
    accounts.answer(2, recorded=False)

    account = live(tmp_path).account
    assert (account.answered, account.recorded, account.refused) == (5, 3, 1)
    assert account.unsettled == 2


def test_a_closed_start_is_a_line_of_history(tmp_path: Path) -> None:
    """After the end the figures are in the history, and there is no open file left."""
    accounts = opened(tmp_path)
    accounts.answer(3, recorded=True)
    accounts.close(NOW_NS + 1)

    (account,) = read_history(tmp_path)
    assert (account.answered, account.ended_ns, account.crashed) == (3, NOW_NS + 1, False)
    assert not list(tmp_path.glob("*.live"))


def test_losses_are_declared_once_and_add_up(tmp_path: Path) -> None:
    """What is lost is told with its span and reason until it is declared; the next loss is new."""
    accounts = opened(tmp_path)
    accounts.lose(VERSION, [Answer(1, NOW_NS), Answer(2, NOW_NS + 5)], "log_storage_full")
    accounts.lose(VERSION, [Answer(3, NOW_NS - 9)], "log_storage_full")
    (first,) = accounts.undeclared(NOW_NS + 7)
    accounts.declare(first)
    nothing = accounts.undeclared(NOW_NS + 8)
    accounts.lose(VERSION, answers(4), "log_unavailable")
    (second,) = accounts.undeclared(NOW_NS + 9)

    assert (first.count, first.total, first.reason) == (3, 3, "log_storage_full")
    assert (first.since_ns, first.until_ns) == (NOW_NS - 9, NOW_NS)
    assert nothing == []
    assert (second.count, second.total) == (1, 4)


def test_tickets_are_bounded(tmp_path: Path) -> None:
    """There is an end of answers whose records are on their way; a settled one makes room."""
    accounts = opened(tmp_path)
    tickets = [accounts.lend(VERSION, answers(number)) for number in range(1, MAX_TICKETS + 2)]
    first = tickets[0]
    assert first is not None
    accounts.settle(first)

    assert tickets[-1] is None
    assert accounts.lend(VERSION, answers(1)) is not None


def test_versions_beyond_the_table_share_the_last_place(tmp_path: Path) -> None:
    """However many versions lose something, the sum is right."""
    accounts = opened(tmp_path)
    for number in range(100):
        accounts.lose(f"model-{number}@1", answers(number + 1), "log_unavailable")

    losses = accounts.undeclared(NOW_NS)
    assert len(losses) == 64
    assert sum(loss.count for loss in losses) == 100


@pytest.mark.parametrize("declared_before", [False, True])
async def test_n7_a_killed_process_s_losses_are_found_and_declared(
    tmp_path: Path, declared_before: bool
) -> None:
    """N7: answers were out when the process was killed. Those whose frames are in the log count as
    recorded, the others as lost; a loss that was declared already is not declared again."""
    log = a_writer(tmp_path)
    await log.start()
    (here,) = await record(log)
    accounts = Accounts()
    accounts.open(tmp_path, log_id=log.log_id, sequence=lambda: log.sequence, now_ns=NOW_NS)
    accounts.lend(VERSION, answers(here))
    accounts.lend(VERSION, answers(1000, 1001))
    accounts.answer(3, recorded=False)
    if declared_before:
        loss = Loss(log.log_id, "doubler", "1", 2, 2, NOW_NS, NOW_NS, "crash", NOW_NS)
        told: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        log.append([encode_loss(loss, sequence=log.next_sequence())], told.set_result)
        assert await told is None
    await log.aclose()

    (settling,) = settle_left(
        tmp_path, log_id="cd" * 8, max_pending_bytes=1_000_000, clock=SystemClock()
    )
    counted = [(loss.model, loss.count, loss.reason) for loss in settling.losses]
    settling.close()

    assert counted == ([] if declared_before else [("doubler", 2, "crash")])
    (account,) = read_history(tmp_path)
    assert (account.answered, account.recorded, account.lost) == (3, 1, 2)
    assert account.crashed


def test_a_file_that_was_never_whole_is_nobody_s(tmp_path: Path) -> None:
    """A process that was killed while it made its file had answered nobody."""
    (tmp_path / "accounts-00.live").write_bytes(b"PLOGACC1")

    found = settle_left(tmp_path, log_id="cd" * 8, max_pending_bytes=1, clock=SystemClock())

    assert (found, list(tmp_path.iterdir())) == ([], [])


def test_a_loss_comes_back_from_its_frame() -> None:
    """Every field of a loss is in its frame."""
    loss = Loss("ab" * 8, "doubler", "1", 3, 9, NOW_NS, NOW_NS + 1, "log_unavailable", NOW_NS + 2)

    assert decode_loss(b"...." + encode_loss(loss, sequence=77), 4) == loss
