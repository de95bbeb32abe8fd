"""Quotas through the real edge: told in the answer, refused when used up, charged what was used."""

from pathlib import Path

import pytest

from tests.places import InProcess

INFER = "/v2/models/doubler/infer"
TWO_ROWS = {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}]}


@pytest.fixture
async def limited(tmp_path: Path) -> InProcess:
    """`few` may ask 3 times a day; `rows` may use one row a day; `one` may have one request inside."""
    product = InProcess(tmp_path)
    rules = [
        {"subject": "few", "requests_per_day": 3},
        {"subject": "rows", "rows_per_day": 1},
        {"subject": "one", "concurrent": 1},
    ]
    product.settings = product.settings.model_validate(
        {**product.settings.model_dump(), "quotas": rules}
    )
    await product.start()
    return product


async def test_rl_06_a_quota_is_told_and_kept(limited: InProcess) -> None:
    """Answers say what is left; beyond it 429 with the time of the next chance, and no record."""
    place = limited.place
    async with place.client("few") as few, place.client("other") as other:
        answers = [await few.post(INFER, json=TWO_ROWS) for _ in range(5)]
        free = await other.post(INFER, json=TWO_ROWS)
    refused = await place.metric("serving_refusals_total", code="quota_exceeded")
    await limited.aclose()

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert [answer.headers["RateLimit"].split(";")[1] for answer in answers[:3]] == [
        "r=2",
        "r=1",
        "r=0",
    ]
    assert answers[3].json()["code"] == "quota_exceeded"
    assert 28_000 <= int(answers[3].headers["Retry-After"]) <= 32_000
    assert refused == 2
    assert "RateLimit" not in free.headers
    own = [each for each in place.records() if each.principal == "few" and not each.shadow_of]
    assert len(own) == 3


async def test_rows_are_charged_when_they_were_answered(limited: InProcess) -> None:
    """One row a day: a request of two rows is answered and leaves a debt; the next is refused."""
    async with limited.place.client("rows") as client:
        statuses = [(await client.post(INFER, json=TWO_ROWS)).status_code for _ in range(2)]
    await limited.aclose()

    assert statuses == [200, 429]


async def test_a_place_comes_back_with_every_answer(limited: InProcess) -> None:
    """One request at a time: whatever becomes of it, refused bodies included, the next may come."""
    async with limited.place.client("one") as client:
        statuses = [
            (await client.post(INFER, json=body)).status_code for body in [TWO_ROWS, {}] * 5
        ]
    await limited.aclose()

    assert statuses == [200, 400] * 5
