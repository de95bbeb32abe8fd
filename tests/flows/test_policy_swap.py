import asyncio
from collections import Counter
from dataclasses import replace

from serving.core.models import VersionName
from serving.core.predictions import Fate
from serving.core.traffic import Shadow, TrafficPolicy
from tests.catalogue import FACTORS
from tests.places import InProcess, a_row, eventually

SWAPS = 6


def swapped(policies: tuple[TrafficPolicy, ...]) -> tuple[TrafficPolicy, ...]:
    """The candidate of each model becomes its stable version, and the other way round."""
    return tuple(
        replace(policy, stable=policy.shadows[0].version, shadows=(Shadow(policy.stable),))
        if policy.shadows
        else policy
        for policy in policies
    )


async def test_every_answer_is_of_the_version_that_its_record_names(in_process: InProcess) -> None:
    """Policies swapped under load fail no request and mix no versions."""
    place, snapshot = in_process.place, in_process.snapshot
    answers: dict[str, tuple[float, str]] = {}
    served: Counter[str] = Counter()
    stopping = asyncio.Event()

    async def ask() -> None:
        async with place.client("swapped") as client:
            while not stopping.is_set():
                answer = await client.post("/v2/models/doubler/infer", json=a_row(-1))
                version = VersionName(answer.headers["serving-model-version"])
                served[version] += 1
                answers[answer.headers["serving-prediction-id"]] = (
                    answer.json()["outputs"][0]["data"][0],
                    version,
                )

    async with asyncio.TaskGroup() as callers:
        for _ in range(3):
            callers.create_task(ask())
        for _ in range(SWAPS):
            seen = served.total()
            await eventually(lambda seen=seen: served.total() > seen + 20)  # type: ignore[misc]
            policies = swapped(snapshot.policies)
            snapshot = replace(snapshot, epoch=snapshot.epoch + 1, policies=policies)
            in_process.worker.apply(snapshot)
        stopping.set()

    records = [each for each in place.records() if not each.shadow_of]
    assert set(served) == {"1", "2"}
    assert {-FACTORS[version] - number for number, version in answers.values()} == {0.0}
    assert {each.prediction_id: each.version for each in records} == {
        prediction_id: version for prediction_id, (_, version) in answers.items()
    }
    assert {each.fate for each in records} == {Fate.OK}
    assert {each.policy_epoch for each in records} <= set(range(1, SWAPS + 2))
