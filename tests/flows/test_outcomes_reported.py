"""N9: late, repeated and corrected truths, reported as callers report them, give exact figures."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serving.ledger.labels import opened
from serving.ledger.places import cold_place
from tests.places import InProcess

ROWS = 10
"""Of one request."""
REPORTS = 500
"""Of one request."""
CALLERS = 8
PREDICT = "/v2/models/doubler/infer"
REPORT = "/v2/models/doubler/outcomes"

Row = tuple[str, int]


async def in_parallel(client: httpx.AsyncClient, path: str, bodies: list[Any]) -> list[Any]:
    """What each body is answered, in their order; a few callers at a time."""
    answers: list[Any] = [None] * len(bodies)
    waiting = iter(enumerate(bodies))

    async def ask() -> None:
        for place, body in waiting:
            answer = await client.post(path, json=body)
            assert answer.status_code == 200, answer.text
            answers[place] = answer

    async with asyncio.TaskGroup() as callers:
        for _ in range(CALLERS):
            callers.create_task(ask())
    return answers


def requests_of(values: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Requests of ten rows, the first column counting down: the doubler waits where it counts up."""
    for first in range(0, len(values), ROWS):
        data = [number for value in values[first : first + ROWS] for number in (-value, 0)]
        tensor = {"name": "x", "datatype": "FP32", "shape": [ROWS, 2], "data": data}
        yield {"inputs": [tensor]}


def reports_of(rows: Sequence[Row], truths: Sequence[int], *, revision: int) -> list[Any]:
    return [
        {"prediction_id": i, "row": row, "name": "right", "value": truth, "revision": revision}
        for (i, row), truth in zip(rows, truths, strict=True)
    ]


@pytest.mark.timeout(1800)
async def test_n9_truths_reported_through_the_api_give_exact_figures(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """80 % labelled, of those 5 % reported twice and 2 % corrected, in any order: the join rate is 0.80,
    every count is exact, and so is the accuracy of the model over the labelled set."""
    count = int(pytestconfig.getoption("--outcome-predictions"))
    random = np.random.default_rng(9)
    patient = {"max_queue_wait_s": 30.0, "default_deadline_s": 30.0}
    place = InProcess(tmp_path, admission=patient)
    await place.start()
    try:
        async with place.place.client() as client:
            answers = await in_parallel(client, PREDICT, list(requests_of(range(count))))
            ids = [answer.headers["serving-prediction-id"] for answer in answers]
            rows = [(each, row) for each in ids for row in range(ROWS)]
            chosen = random.permutation(count)[: count * 8 // 10]
            twice, changed = chosen[: len(chosen) // 20], chosen[-len(chosen) // 50 :]
            first = [*chosen.tolist(), *twice.tolist()]
            sent = reports_of([rows[n] for n in first], [n % 2 for n in first], revision=0)
            sent += reports_of(
                [rows[n] for n in changed], [1 - n % 2 for n in changed.tolist()], revision=1
            )
            order = random.permutation(len(sent)).tolist()
            shuffled = [sent[n] for n in order]
            bodies = [shuffled[n : n + REPORTS] for n in range(0, len(shuffled), REPORTS)]
            await in_parallel(client, REPORT, bodies)
    finally:
        await place.aclose()
    figures, accuracy = look(place)

    assert figures.completeness == 0.8
    assert (figures.predicted_rows, figures.labelled_rows) == (count, len(chosen))
    assert (figures.truths, figures.duplicates) == (len(chosen), len(twice))
    assert (figures.corrections, figures.rejected) == (len(changed), {})
    # The model is said to be right about odd numbers, until a truth is corrected.
    odd = set(chosen[chosen % 2 == 1].tolist()) ^ set(changed.tolist())
    assert accuracy == len(odd) / len(chosen)


def look(place: InProcess) -> tuple[Any, float]:
    """The figures of the doubler and the mean of its truths, from the files."""
    directory, settings = place.directory, place.settings
    cold = cold_place(settings.blobs, directory.root)
    with opened(directory.log, cold, folder=directory.ledger, settings=settings.ledger) as join:
        [figures] = [each for each in join.figures() if each.model == "doubler"]
        table = join.labelled("doubler").read_all()
        own = table.filter(table["shadow_of"].is_null())
        return figures, float(np.mean(own["outcome_right"].to_numpy()))
