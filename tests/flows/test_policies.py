from pathlib import Path
from typing import Any

import httpx

from serving.ledger.places import Folder
from serving.ledger.reconciliation import Reconciliation, reconcile
from serving.predictionlog.reading.verification import verify
from tests.flows.test_privacy import INFER, TWIN, running
from tests.places import InProcess, a_row, eventually


class Disk:
    """The folder of the worker's log, taken away and put back."""

    def __init__(self, place: InProcess) -> None:
        self._place = place
        self._folder = place.directory.prediction_log(0)
        self._aside = place.directory.root.parent / "aside"

    async def take_away(self) -> None:
        """Returns when the log has noticed."""
        self._folder.rename(self._aside)
        await eventually(lambda: self._place.worker.log.refusal is not None)

    async def put_back(self) -> None:
        """Returns when the log records again."""
        self._aside.rename(self._folder)
        await eventually(lambda: self._place.worker.log.refusal is None)


def balance(place: InProcess, **more: Any) -> Reconciliation:
    root = place.directory.root
    return reconcile(root / "log", Folder(root / "ledger" / "cold"), **more)


def ids(answers: list[httpx.Response]) -> list[str]:
    assert [each.status_code for each in answers] == [200] * len(answers)
    return [each.headers["serving-prediction-id"] for each in answers]


async def asked(client: httpx.AsyncClient, count: int, model: str = TWIN) -> list[httpx.Response]:
    return [await client.post(model, json=a_row(number)) for number in range(count)]


async def test_at_least_once_answers_through_the_spill(tmp_path: Path) -> None:
    """While the log refuses, a fail_closed model is refused too, an at_least_once model is answered
    and found by readers at once; afterwards its records have moved home, verify and reconcile."""
    spill = tmp_path / "spill"
    log = {"spill_dir": spill}
    async with running(tmp_path, {"policy": "at_least_once"}, log=log) as place:
        disk, home = Disk(place), place.directory.root / "log"
        async with place.place.client() as client:
            acknowledged = ids(await asked(client, 3))
            await disk.take_away()
            refused = await client.post(INFER, json=a_row(1))
            spilled = ids(await asked(client, 5))
            (link,) = home.glob("spill-*")
            was_a_link = link.is_symlink()
            found = [place.place.record(each) for each in spilled]
            await disk.put_back()
            await eventually(lambda: not link.is_symlink() and link.is_dir())
            acknowledged += spilled + ids(await asked(client, 2))

        assert refused.status_code == 503
        assert was_a_link
        assert None not in found
        await place.aclose()
        result = balance(place, acknowledged=acknowledged)
        assert (result.sound, result.acknowledged) == (True, 10)
        assert [(each.account.answered, each.recorded) for each in result.balances] == [(10, 10)]
        assert not verify(home).damage
        assert not list(spill.iterdir())


async def test_a_full_spill_refuses(tmp_path: Path) -> None:
    """The spill is bounded: where it is full, and the log refuses, nobody is answered."""
    log = {"spill_dir": tmp_path / "spill", "spill_bytes": 2000}
    async with running(tmp_path, {"policy": "at_least_once"}, log=log) as place:
        disk = Disk(place)
        async with place.place.client() as client:
            await disk.take_away()
            answers = await asked(client, 20)
            await disk.put_back()

        statuses = [each.status_code for each in answers]
        assert statuses == sorted(statuses)
        assert (statuses[0], statuses[-1]) == (200, 503)
        assert answers[-1].json()["code"] == "log_unavailable"
        await place.aclose()
        assert balance(place, acknowledged=ids([each for each in answers if each.is_success])).sound


async def test_n7_best_effort_declares_what_it_lost(tmp_path: Path) -> None:
    """N7: a best_effort model is answered while the log refuses; what was lost is declared in the log
    once it records again, and both identities hold: in the metrics and in the files."""
    async with running(tmp_path, {"policy": "best_effort"}) as place:
        disk = Disk(place)
        async with place.place.client() as client:
            ids(await asked(client, 4))
            await disk.take_away()
            ids(await asked(client, 6))
            undeclared = await place.place.metric("serving_ledger_undeclared_requests")
            await disk.put_back()
            await eventually(lambda: place.worker.recording.accounts.declared == 6)
            figures = {
                account: await place.place.metric("serving_ledger_requests_total", account=account)
                for account in ("admitted", "answered", "refused", "failed", "recorded", "lost")
            }

        assert undeclared == 6
        assert figures == {
            "admitted": 10, "answered": 10, "refused": 0, "failed": 0, "recorded": 4, "lost": 6
        }  # fmt: skip
        await place.aclose()
        (found,) = balance(place).balances
        assert (found.account.answered, found.recorded, found.lost, found.missing) == (10, 4, 6, 0)
        assert found.state == "closed"


async def test_refused_and_failed_requests_are_accounted(tmp_path: Path) -> None:
    """admitted = answered + refused + failed, whatever became of them."""
    async with running(tmp_path, {}) as place:
        async with place.place.client() as client:
            await asked(client, 2)
            late = await client.post(
                TWIN, json=a_row(1_000_000.0), headers={"serving-timeout-ms": "5"}
            )
        await place.aclose()

        (found,) = balance(place).balances
        account = found.account
        assert late.status_code == 504
        assert (account.admitted, account.answered, account.failed) == (3, 2, 1)
        assert (account.refused, account.open) == (0, 0)
