"""Reporting what turned out to be true, through the inference port."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.core.clock import ManualClock
from serving.core.outcomes import Outcome
from serving.core.principals import Role
from serving.edge.outcomes import MOST_OUTCOMES, read_outcomes
from serving.errors import JsonInvalid, OutcomeInvalid
from serving.ledger.tailing import Cursor
from tests.places import InProcess, a_row

ID = "0123456789abcdef-1f"
REPORT = {"prediction_id": ID, "name": "employed", "value": 1}
NOW_NS = 1_700_000_000_000_000_000


def read(body: object) -> list[Outcome]:
    return read_outcomes(json.dumps(body).encode(), model="m", principal="p", now_ns=NOW_NS)


def test_one_report_needs_no_list() -> None:
    """What is left out has the values that are written down: row 0, revision 0, observed now."""
    assert read(REPORT) == [Outcome(ID, 0, "employed", 1, NOW_NS, 0, "m", "p", NOW_NS)]


def test_several_truths_of_a_row_come_by_name() -> None:
    """`values` stands for as many names and values."""
    report = {"prediction_id": ID, "row": 3, "values": {"late": True, "delay": 12.5, "why": None}}

    found = [(each.row, each.name, each.value) for each in read(report)]

    assert found == [(3, "late", True), (3, "delay", 12.5), (3, "why", None)]


def test_times_are_read_in_any_zone() -> None:
    """The world decides at some instant, wherever it is told."""
    [outcome] = read(REPORT | {"observed_at": "2026-01-31T13:00:00.5+01:00"})

    assert outcome.observed_ns == 1_769_860_800_500_000_000


@pytest.mark.parametrize(
    "body",
    [
        [],
        [REPORT] * (MOST_OUTCOMES + 1),
        {"prediction_id": ID},
        REPORT | {"values": {"a": 1}},
        {"prediction_id": ID, "name": "employed"},
        REPORT | {"prediction_id": "0123456789ABCDEF-1f"},
        REPORT | {"prediction_id": "17"},
        REPORT | {"row": -1},
        REPORT | {"row": 2**32},
        REPORT | {"revision": 1.5},
        REPORT | {"name": ""},
        REPORT | {"name": "n" * 129},
        REPORT | {"value": "v" * 1025},
        REPORT | {"value": [1]},
        REPORT | {"observed_at": "2026-01-31T12:00:00"},
        REPORT | {"observed_at": "1969-12-31T12:00:00Z"},
        REPORT | {"observed_at": "soon"},
        REPORT | {"label": 1},
        [[[[]]]],
        "employed",
    ],
)
def test_what_is_no_outcome_is_refused_whole(body: object) -> None:
    """One bad report in a list refuses all of it, so that nobody has to find out which were taken."""
    with pytest.raises(OutcomeInvalid):
        read([REPORT, *body] if isinstance(body, list) and body else body)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"value": NaN}'])
def test_what_is_no_json_is_said_to_be_none(body: bytes) -> None:
    """Bytes that are not JSON are the caller's fault."""
    with pytest.raises(JsonInvalid):
        read_outcomes(body, model="m", principal="p", now_ns=NOW_NS)


async def report(client: httpx.AsyncClient, body: object, model: str = "doubler") -> httpx.Response:
    return await client.post(f"/v2/models/{model}/outcomes", json=body)


async def test_outcomes_are_in_the_log_before_they_are_acknowledged(tmp_path: Path) -> None:
    """A 200 says how many were recorded; whoever tails the log finds exactly those."""
    instance = InProcess(tmp_path)
    await instance.start()
    async with instance.place.client() as client:
        answer = await client.post("/v2/models/doubler/infer", json=a_row(1))
        prediction_id = answer.headers["serving-prediction-id"]
        body: list[dict[str, Any]] = [
            {"prediction_id": prediction_id, "name": "truth", "value": 2.5},
            {"prediction_id": prediction_id, "name": "truth", "value": None, "revision": 1},
        ]
        reported = await report(client, body)
        cursor = Cursor(
            instance.place.data_dir / "log", tmp_path / "checkpoint", clock=ManualClock()
        )
        found = [each for each in cursor.read(100) if isinstance(each, Outcome)]
        counted = await instance.place.metric("serving_outcomes_total", model="doubler")
    await instance.aclose()

    assert (reported.status_code, reported.json()) == (200, {"recorded": 2})
    assert [(each.prediction_id, each.value, each.revision) for each in found] == [
        (prediction_id, 2.5, 0),
        (prediction_id, None, 1),
    ]
    assert {(each.model, each.principal) for each in found} == {("doubler", "tester")}
    assert counted == 2


async def test_only_who_may_report_is_heard(tmp_path: Path) -> None:
    """An auditor reads and does not report; a model that nobody has is not there."""
    instance = InProcess(tmp_path)
    await instance.start()
    async with instance.place.client(role=Role.AUDITOR) as auditor:
        refused = await report(auditor, REPORT)
    async with instance.place.client() as caller:
        unknown = await report(caller, REPORT, model="nothing")
        packed = await caller.post(
            "/v2/models/doubler/outcomes",
            content=b"",
            headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
        )
    await instance.aclose()

    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "model_not_found")
    assert (packed.status_code, packed.json()["code"]) == (415, "unsupported_encoding")
