"""Callers that never pause, and the ledger of what they were told.

The ledger is the test's own: afterwards it is compared with the prediction log, in which every
prediction that was answered must be, exactly once.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Final

import httpx

from serving.core.predictions import Fate
from serving.predictionlog.reading.query import Query, Search
from serving.predictionlog.reading.verification import verify
from tests.places import PATIENCE_S, Place, a_row, eventually

REST_S: Final = 0.05
FIRST_NUMBER: Final = -1_000_000


class Ledger:
    """acknowledged: ids of predictions that were answered, and with what (id to the doubled number).

    refused: how often which code. cut: requests whose connection ended first.
    """

    def __init__(self) -> None:
        self.acknowledged: dict[str, float] = {}
        self.refused: Counter[str] = Counter()
        self.cut = 0

    def take(self, number: float, answer: httpx.Response) -> None:
        if answer.status_code != httpx.codes.OK:
            self.refused[answer.json()["code"]] += 1
            return
        doubled = answer.json()["outputs"][0]["data"][0]
        assert doubled == 2 * number, "a caller got somebody else's answer"
        prediction_id = answer.headers["serving-prediction-id"]
        assert prediction_id not in self.acknowledged, "two predictions with one id"
        self.acknowledged[prediction_id] = doubled

    def reconcile(self, log: Path) -> None:
        """Every acknowledged prediction is in the log exactly once, as it was answered."""
        found: Counter[str] = Counter()
        for record in Search(log, Query(fate=Fate.OK)).records():
            found[record.prediction_id] += 1
            answered = self.acknowledged.get(record.prediction_id)
            assert answered in (None, float(record.outputs[0].array[0, 0]))
        missing = [each for each in self.acknowledged if not found[each]]
        twice = [each for each, times in found.items() if times > 1]
        assert (missing, twice) == ([], []), f"of {len(self.acknowledged)} acknowledged"
        assert verify(log).damage == ()


class Callers:
    """`callers` concurrent clients of one model, each with a connection of its own.

    Every number asked for is different, so that no caller can take another's answer for its own.
    timeout_s: the deadline that each request names.
    """

    def __init__(
        self, place: Place, model: str, *, callers: int = 4, timeout_s: float | None = None
    ) -> None:
        self.ledger = Ledger()
        self._place = place
        self._path = f"/v2/models/{model}/infer"
        self._callers = callers
        self._parameters = {} if timeout_s is None else {"timeout": round(timeout_s * 1e6)}
        self._numbers: Iterator[int] = count(FIRST_NUMBER)
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Callers":
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(self._callers)]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Lets every caller get its last answer."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    def stop(self) -> None:
        """No caller asks again."""
        self._stopping = True

    async def acknowledged(self, more: int) -> None:
        """Returns once so many more predictions were answered."""
        wanted = len(self.ledger.acknowledged) + more
        await eventually(
            lambda: self._failed() or len(self.ledger.acknowledged) >= wanted,
            within_s=2 * PATIENCE_S,
        )

    def _failed(self) -> bool:
        return any(task.done() for task in self._tasks)

    async def _ask(self) -> None:
        async with self._place.client() as client:
            while not self._stopping:
                number = float(next(self._numbers))
                try:
                    answer = await client.post(
                        self._path, json=a_row(number, **self._parameters), timeout=60
                    )
                except httpx.TransportError:
                    self.ledger.cut += 1
                    await asyncio.sleep(REST_S)
                else:
                    self.ledger.take(number, answer)
