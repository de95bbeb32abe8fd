from pathlib import Path

import pytest

from serving.errors import ParameterInvalid
from serving.ledger.places import Folder
from serving.ledger.reconciliation import Reconciliation, client_ids, reconcile
from serving.predictionlog.writing.accounts import Accounts
from tests.ledger.cold import compact
from tests.logs import NOW_NS, a_committer, frames_of

LOG_ID = b"log-id-8"


def a_start(root: Path, *, answered: int, recorded: int) -> None:
    """A start that says it answered so many, and whose log holds so many."""
    directory = root / "log" / "gateway-0"
    committer = a_committer(directory, log_id=LOG_ID)
    given = [0]
    accounts = Accounts()
    accounts.open(directory, log_id=LOG_ID.hex(), sequence=lambda: given[0], now_ns=NOW_NS)
    given[0] = answered
    accounts.answer(answered, recorded=True)
    committer.commit(frames_of(*range(1, recorded + 1)))
    committer.close()
    accounts.close(NOW_NS)


def balanced(root: Path, *acknowledged: str, since_ns: int = 0) -> Reconciliation:
    place = Folder(root / "cold")
    return reconcile(root / "log", place, acknowledged=acknowledged, since_ns=since_ns)


def an_id(sequence: int) -> str:
    return f"{LOG_ID.hex()}-{sequence:x}"


@pytest.mark.parametrize("cold", [False, True])
def test_records_count_wherever_they_are(tmp_path: Path, cold: bool) -> None:
    """Both identities hold over segments as over tables, and ids are found in either, once."""
    a_start(tmp_path, answered=5, recorded=5)
    if cold:
        assert compact(tmp_path) == 5

    result = balanced(tmp_path, *[an_id(each) for each in range(1, 6)])

    (found,) = result.balances
    assert (result.sound, found.recorded, found.missing) == (True, 5, 0)
    assert (result.missing, result.twice) == ((), ())


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """An answer without a record is seen in the accounts, and by its id in the client's ledger."""
    a_start(tmp_path, answered=5, recorded=4)

    result = balanced(tmp_path, an_id(4), an_id(5))

    assert (result.sound, result.balances[0].missing, result.missing) == (False, 1, (an_id(5),))


def test_what_is_there_twice_is_named(tmp_path: Path) -> None:
    """A record that a second directory holds too is told by its id."""
    a_start(tmp_path, answered=2, recorded=2)
    committer = a_committer(tmp_path / "log" / "copy", log_id=LOG_ID)
    committer.commit(frames_of(2))
    committer.close()

    result = balanced(tmp_path, an_id(1), an_id(2))

    assert (result.sound, result.twice) == (False, (an_id(2),))


def test_what_may_be_deleted_is_not_missed(tmp_path: Path) -> None:
    """Starts from before the retention span are shown, and prove nothing."""
    a_start(tmp_path, answered=5, recorded=0)

    assert balanced(tmp_path, since_ns=NOW_NS + 1).sound


def test_ledgers_of_clients_come_in_two_forms(tmp_path: Path) -> None:
    """One id on a line, or a JSON object of which only acknowledged ones count."""
    file = tmp_path / "ledger"
    file.write_text(
        'aa-1\n\n{"prediction_id": "aa-2", "status": 200}\n{"id": "aa-3"}\n{"status": 503}\n'
    )

    assert list(client_ids(file)) == ["aa-1", "aa-2", "aa-3"]
    with pytest.raises(ParameterInvalid):
        balanced(tmp_path, "what is this")
