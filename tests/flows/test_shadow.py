import asyncio

from serving.core.predictions import Fate, PredictionRecord
from tests.places import Place, a_row, eventually, rows_of


def copies(place: Place, subject: str) -> list[PredictionRecord]:
    return [r for r in place.records() if r.principal == subject and r.shadow_of]


async def test_every_answer_has_a_copy_for_the_candidate(place: Place) -> None:
    """A candidate's records name the primary's prediction and hold the candidate's own answer."""
    async with place.client("mirrored") as client:
        answers = await asyncio.gather(
            *(client.post("/v2/models/doubler/infer", json=a_row(-n, 1)) for n in range(10))
        )
    primaries = [answer.headers["serving-prediction-id"] for answer in answers]

    await eventually(lambda: len(copies(place, "mirrored")) == len(primaries))
    by_primary = {record.shadow_of: record for record in copies(place, "mirrored")}
    assert set(by_primary) == set(primaries)
    assert [[[-3.0 * n, 3.0]] for n in range(10)] == [rows_of(by_primary[p]) for p in primaries]
    assert {("2", Fate.OK)} == {(record.version, record.fate) for record in by_primary.values()}
    assert not set(primaries) & {record.prediction_id for record in by_primary.values()}


async def test_what_was_not_answered_is_not_mirrored(place: Place) -> None:
    """A request whose deadline passed leaves its own record and none of a candidate."""
    async with place.client("unmirrored") as client:
        late = await client.post("/v2/models/doubler/infer", json=a_row(-1, timeout=1))
        await client.post("/v2/models/doubler/infer", json=a_row(-2))

    assert late.status_code == 504
    await eventually(lambda: copies(place, "unmirrored"))
    assert [rows_of(copy, "inputs") for copy in copies(place, "unmirrored")] == [[[-2.0, 0.0]]]
