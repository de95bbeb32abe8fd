"""Callers of the census model for `loadtests.story`: real people's rows, and soon what was true of them.

Each thread asks for a few rows at a time, as one of several principals, and reports the truth of each
row right after the answer. Everything that was answered is counted by version and status; what failed
is kept in words. They go on until the block ends, at about the rate that was wanted.
"""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx
import numpy as np
import orjson

from serving.core.clock import Clock

MODEL: Final = "census-employment"
PATH: Final = f"/v2/models/{MODEL}"
OUTCOME: Final = "employed"
THREADS: Final = 2
PRINCIPALS: Final = 20
ROWS_A_REQUEST: Final = 8
MOST_FAILURES: Final = 100
TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Question:
    """A request and the truths of its rows."""

    body: bytes
    truths: tuple[int, ...]


def questions(samples: Path) -> list[Question]:
    """The sample rows in requests of `ROWS_A_REQUEST`."""
    rows = np.load(samples / "rows.npy")
    labels = np.load(samples / "labels.npy")
    return [
        _question(rows[start : start + ROWS_A_REQUEST], labels[start : start + ROWS_A_REQUEST])
        for start in range(0, len(rows), ROWS_A_REQUEST)
    ]


def is_answered(url: str, question: Question, token: str) -> bool:
    """Whether the model answers yet."""
    headers = {"Authorization": f"Bearer {token}"}
    answer = httpx.post(f"{url}{PATH}/infer", content=question.body, headers=headers)
    return answer.status_code == HTTPStatus.OK


class Callers:
    """Use it as a context manager: they call as long as the block runs."""

    def __init__(
        self,
        url: str,
        asked: Sequence[Question],
        *,
        tokens: Sequence[str],
        rate_per_s: float,
        clock: Clock,
    ) -> None:
        """tokens: one for each principal. rate_per_s: requests of all threads together."""
        self.answered: Counter[str] = Counter()
        self.failures: list[str] = []
        self._url = url
        self._asked = asked
        self._tokens = tokens
        self._pause_s = THREADS / rate_per_s
        self._clock = clock
        self._turns = count()
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(THREADS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def snapshot(self) -> Counter[str]:
        """Requests answered so far, by version."""
        with self._lock:
            return Counter(self.answered)

    def _call(self) -> None:
        with httpx.Client(base_url=self._url, timeout=TIMEOUT_S, trust_env=False) as client:
            due_s = self._clock.monotonic_ns() / 1e9
            while not self._ending.wait(max(due_s - self._clock.monotonic_ns() / 1e9, 0)):
                due_s = max(due_s + self._pause_s, self._clock.monotonic_ns() / 1e9 - 1)
                self._ask(client)

    def _ask(self, client: httpx.Client) -> None:
        with self._lock:
            turn = next(self._turns)
        question = self._asked[turn % len(self._asked)]
        headers = {"Authorization": f"Bearer {self._tokens[turn % len(self._tokens)]}"}
        try:
            answer = client.post(f"{PATH}/infer", content=question.body, headers=headers)
            self._count(answer)
            if answer.status_code == HTTPStatus.OK:
                reports = _reports(answer.headers["serving-prediction-id"], question.truths)
                told = client.post(f"{PATH}/outcomes", content=reports, headers=headers)
                if told.status_code != HTTPStatus.OK:
                    self._fail(f"outcome: {told.status_code} {told.text[:200]}")
        except httpx.HTTPError as error:
            self._fail(f"{type(error).__name__}: {error}")

    def _count(self, answer: httpx.Response) -> None:
        if answer.status_code != HTTPStatus.OK:
            self._fail(f"{answer.status_code} {answer.text[:200]}")
            return
        with self._lock:
            self.answered[answer.headers["serving-model-version"]] += 1

    def _fail(self, words: str) -> None:
        with self._lock:
            if len(self.failures) < MOST_FAILURES:
                self.failures.append(words)


def _question(rows: np.ndarray, labels: np.ndarray) -> Question:
    tensor = {"name": "input", "datatype": "FP32", "shape": list(rows.shape)}
    body = {"inputs": [{**tensor, "data": rows.ravel().tolist()}]}
    return Question(orjson.dumps(body), tuple(int(each) for each in labels))


def _reports(prediction_id: str, truths: Sequence[int]) -> bytes:
    return orjson.dumps(
        [
            {"prediction_id": prediction_id, "row": row, "name": OUTCOME, "value": truth}
            for row, truth in enumerate(truths)
        ]
    )
