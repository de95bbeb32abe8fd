"""An ensemble as its callers see it: HTTP in, stages on replicas, one answer, records with parts."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serving.core.predictions import Fate
from serving.core.principals import Role
from serving.settings import Deployment
from tests.catalogue import SIXFOLD, SLOW, write_ensemble
from tests.places import InProcess, Place, a_row, eventually, rows_of

INFER = "/v2/models/sixfold/infer"


@pytest.fixture
async def chain(tmp_path: Path) -> AsyncIterator[Place]:
    """The models of `tests.catalogue`, and an ensemble of two of them."""
    here = InProcess(tmp_path)
    write_ensemble(tmp_path / "models")
    here.settings = here.settings.model_copy(
        update={"deployments": (*here.settings.deployments, Deployment.model_validate(SIXFOLD))}
    )
    try:
        await here.start()
        yield here.place
    finally:
        await here.aclose()


async def test_one_request_is_answered_by_both_stages(chain: Place) -> None:
    """x times 2 times 3; the record is the ensemble's, and two parts name it."""
    async with chain.client() as client:
        answer = await client.post(INFER, json=a_row(-1, -2))

    assert answer.json()["outputs"][0]["data"] == [-6, -12]
    whole = chain.record(answer.headers["serving-prediction-id"])
    assert whole is not None
    assert (whole.model, whole.fate, rows_of(whole)) == ("sixfold", Fate.OK, [[-6.0, -12.0]])
    parts = [each for each in chain.records() if each.part_of == whole.prediction_id]
    assert [(each.version, rows_of(each)) for each in parts] == [
        ("1", [[-2.0, -4.0]]),
        ("2", [[-6.0, -12.0]]),
    ]


async def test_many_requests_share_the_batches_of_their_stages(chain: Place) -> None:
    """Callers of an ensemble and of its stages are answered each with their own."""
    async with chain.client() as client:
        paths = [INFER if n % 2 else "/v2/models/doubler/infer" for n in range(20)]
        answers = await asyncio.gather(
            *(client.post(path, json=a_row(-n)) for n, path in enumerate(paths))
        )

    found = [answer.json()["outputs"][0]["data"][0] for answer in answers]
    assert found == [-n * (6 if n % 2 else 2) for n in range(20)]
    parts = [each for each in chain.records() if each.part_of]
    assert len(parts) == 20
    assert max(each.batch_size for each in parts) > 1


async def test_a_deadline_ends_in_a_stage(chain: Place) -> None:
    """504 says in which; the caller's record says so too."""
    async with chain.client("hasty") as client:
        late = await client.post(INFER, json=a_row(SLOW, timeout=30_000))

    assert late.status_code == 504
    assert "stage doubling" in late.text
    await eventually(lambda: [r for r in chain.records() if r.model == "sixfold"])
    (whole,) = [each for each in chain.records() if each.model == "sixfold"]
    assert (whole.fate, whole.reason) == (Fate.TIMEOUT, "deadline_exceeded: stage doubling")


async def test_an_ensemble_is_described_like_any_model(chain: Place) -> None:
    """Metadata, readiness and configuration; the latter shows stages and digests."""
    async with chain.client(role=Role.OPERATOR) as client:
        said = (await client.get("/v2/models/sixfold")).json()
        ready = await client.get("/v2/models/sixfold/ready")
        configuration = (await client.get("/v2/models/sixfold/config")).json()

    assert said["platform"] == configuration["platform"] == "ensemble"
    assert ready.status_code == 200
    steps = configuration["ensemble_scheduling"]["step"]
    assert [(each["model_name"], each["output_map"]) for each in steps] == [
        ("doubler", {"y": "twice"}),
        ("doubler", {"y": "y"}),
    ]


async def test_a_data_subject_is_protected_in_every_part(chain: Place) -> None:
    """What a request says of somebody is sealed in the records of its stages, too."""
    async with chain.client() as client:
        answer = await client.post(INFER, json=a_row(-1, subject="somebody"))

    assert answer.status_code == 200
    records = [each for each in chain.records() if each.principal == "tester"]
    assert len(records) == 3
    assert {bool(each.subject) for each in records} == {True}
