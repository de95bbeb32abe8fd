import asyncio

from serving.core.predictions import Fate
from serving.gateway.pace import FORGOTTEN_NS
from tests.catalogue import SLOW
from tests.places import Place, a_row

DEADLINE_US = 60_000
TURNS, TRIES = 4, 5
"""How often the model may be slow again before a hopeless request must be refused at once."""


async def test_late_answer_is_a_504_and_a_timeout_in_the_log(place: Place) -> None:
    """The deadline that the caller named passes while the model runs: told, recorded, counted."""
    async with place.client() as client:
        answer = await client.post(
            "/v2/models/twin/infer", json=a_row(SLOW, timeout=DEADLINE_US) | {"id": "late"}
        )

    body = answer.json()
    record = place.record(body["request_id"])
    assert (answer.status_code, body["code"]) == (504, "deadline_exceeded")
    assert record is not None
    assert (record.fate, record.reason) == (Fate.TIMEOUT, "deadline_exceeded")
    assert (record.request_id, record.outputs) == ("late", ())
    assert record.total_us >= DEADLINE_US


async def test_neighbours_of_a_late_request_are_answered(place: Place) -> None:
    """After a deadline passed, the same model answers those that can wait."""
    async with place.client() as client:
        await client.post("/v2/models/twin/infer", json=a_row(SLOW, timeout=DEADLINE_US))
        answer = await client.post("/v2/models/twin/infer", json=a_row(1, timeout=20_000_000))

    assert answer.json()["outputs"][0]["data"] == [2.0, 0.0]


async def test_header_names_a_deadline_too(place: Place) -> None:
    """`serving-timeout-ms` counts for callers whose body is not theirs to change."""
    async with place.client() as client:
        client.headers["serving-timeout-ms"] = "50"
        answer = await client.post("/v2/models/twin/infer", json=a_row(SLOW))

    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")


async def test_deadline_that_no_run_can_keep_is_refused_at_once(place: Place) -> None:
    """Once the model is known to take tenths of a second, a hundredth is not waited for: no place in a
    batch, and no prediction id, because there is no record."""
    async with place.client() as client:
        hopeless = a_row(SLOW, timeout=10_000)
        codes, recorded = [], []
        for turn in range(TURNS * TRIES):
            if turn % TRIES == 0:
                # Runs of other rows were short, and that is forgotten when nothing came for a second.
                await asyncio.sleep(FORGOTTEN_NS / 1e9 + 0.2)
                await client.post("/v2/models/twin/infer", json=a_row(SLOW, timeout=20_000_000))
            # It is known within a sweep; until then a request finds out by itself.
            answer = await client.post("/v2/models/twin/infer", json=hopeless)
            codes.append((answer.status_code, answer.json()["code"]))
            recorded.append("-" in answer.json()["request_id"])
            if not recorded[-1]:
                break

    assert set(codes) == {(504, "deadline_exceeded")}
    assert not all(recorded)
