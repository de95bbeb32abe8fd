"""Rollouts under load, for real: a good candidate takes over, a degraded one is gone before anybody minds.

One instance for all of it, and callers that never pause.
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from serving.cli import app
from serving.core.clock import SystemClock
from serving.core.principals import Role
from tests.catalogue import write_degraded
from tests.faults.test_swaps import CONTROL, Crowd
from tests.governance.receivers import answering, receiving
from tests.instances import Instance
from tests.operators import Operator
from tests.places import Place, eventually, eventually_async

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

DEPLOYMENT = {"model": "doubler", "stable": "1", "shadows": ["2", "3"]}
WEBHOOKS = {"allow": ["127.0.0.0/8"], "plain_text": True}
WITHIN_S = 30.0
WEIGHT = "serving_traffic_weight_ratio"
PATH = "/v1/rollouts/doubler"


class Watcher:
    """Whoever conducts a rollout by hand, and looks at it."""

    def __init__(self, instance: Instance) -> None:
        self.operator = Operator(instance)

    async def order(
        self, path: str, body: object = None, role: Role = Role.OPERATOR
    ) -> dict[str, Any]:
        answer = await asyncio.to_thread(self.operator.ask, "POST", path, body or {}, role=role)
        assert answer.status_code == httpx.codes.OK, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def start(self, candidate: str, *steps: tuple[float, float, int]) -> None:
        """steps: weight, seconds, requests."""
        names = ("weight", "hold_s", "min_requests")
        plan = {"steps": [dict(zip(names, step, strict=True)) for step in steps]}
        await self.order(PATH, {"candidate": candidate, "plan": plan})

    async def view(self) -> dict[str, Any]:
        answer = await asyncio.to_thread(self.operator.ask, "GET", PATH)
        found: dict[str, Any] = answer.json()
        return found

    async def until(self, *states: str, weight: float | None = None) -> float:
        """How long it took to one of these. weight: as gateways were told."""
        clock = SystemClock()
        began_ns = clock.monotonic_ns()
        while True:
            view = await self.view()
            told = weight is None or view["published"] == weight
            took_s = (clock.monotonic_ns() - began_ns) / 1e9
            if view["rollout"]["state"] in states and told:
                return took_s
            assert took_s < WITHIN_S, view
            await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """Version 1 answers; 2 is good and 3 is slow, and both are approved."""
    folder: Path = tmp_path_factory.mktemp("canary")
    with Instance(
        folder,
        deployments=[DEPLOYMENT],
        models_dir=write_degraded(folder / "models"),
        control=CONTROL,
        webhooks=WEBHOOKS,
    ) as running:
        running.expect("ready")
        Operator(running).route("doubler", "1")
        yield running


async def answered(crowd: Crowd, place: Place, more: int, **told: float) -> list[str]:
    """The versions of so many further answers, but for the first few, which may be late ones. told: what
    the gateway was told that versions answer; it learns that in a moment, or later on a busy machine."""
    for version, share in told.items():

        async def learned(version: str = version.removeprefix("v"), share: float = share) -> bool:
            weight = await place.metric(WEIGHT, model="doubler", version=version)
            return weight == pytest.approx(share)

        await eventually_async(learned)
    before = len(crowd.versions) + 20
    await eventually(lambda: len(crowd.versions) >= before + more)
    return list(crowd.versions.values())[before : before + more]


async def test_sh_07_rollout_in_steps_under_load_left_at_each_and_taken_back_at_the_end(
    instance: Instance,
) -> None:
    """No request fails, the split is that of the weight, and a rollback is a matter of a moment."""
    watcher, place = Watcher(instance), Place(instance.url, instance.data_dir)
    async with Crowd(place, 2) as crowd:
        await watcher.start("2", (0.1, 60, 20))
        await watcher.until("running")
        await watcher.order(f"{PATH}/rollback", {"reason": "left at 10 %"})
        at_ten = await answered(crowd, place, 50, v2=0.0)
        await watcher.start("2", (0.1, 0.2, 5), (0.5, 60, 20))
        await watcher.until("running", weight=0.5)
        await watcher.order(f"{PATH}/pause")
        half = await answered(crowd, place, 400, v2=0.5)
        await watcher.order(f"{PATH}/promote", {"reason": "good enough"})
        await watcher.until("completed")
        promoted = await answered(crowd, place, 50, v2=1.0)
        clock = SystemClock()
        began_ns = clock.monotonic_ns()
        await watcher.order(f"{PATH}/rollback", {"reason": "changed our minds"})
        back = await answered(crowd, place, 50, v2=0.0)
        took_s = (clock.monotonic_ns() - began_ns) / 1e9

    assert crowd.failures == []
    assert (set(at_ten), set(promoted), set(back)) == ({"1"}, {"2"}, {"1"})
    assert abs(half.count("2") / len(half) - 0.5) <= 0.02
    assert took_s < 5


async def test_sh_08_degraded_model_at_ten_percent_is_out_within_30_s_and_no_request_fails(
    instance: Instance,
) -> None:
    """The gate broke, the trail has the evidence, a webhook was told of it, version 1 answers."""
    watcher, place = Watcher(instance), Place(instance.url, instance.data_dir)
    async with receiving(answering("200 OK")) as receiver:
        hook = {"url": f"http://127.0.0.1:{receiver.port}/", "events": ["rollout:*"]}
        await watcher.order("/v1/webhooks", hook, Role.ADMIN)
        async with Crowd(place, 2) as crowd:
            await watcher.start("3", (0.1, 120, 100))
            await watcher.until("running", "rolled_back")  # It may be gone before anybody looks.
            took_s = await watcher.until("rolled_back")
            afterwards = await answered(crowd, place, 50, v3=0.0)
        await eventually(lambda: b"rolled_back" in b"".join(receiver.bodies))
    event = watcher.operator.events("rollout:canary:rolled_back")[0]

    assert crowd.failures == []
    assert took_s < WITHIN_S
    assert ("3" in crowd.versions.values(), set(afterwards)) == (True, {"1"})
    broken = next(each for each in event["after"]["evidence"] if each["gate"] == "latency")
    assert (event["after"]["gate"], broken["status"]) == ("latency", "breach")
    assert broken["value"] > broken["limit"]
    assert broken["n"] > 0
    told = [json.loads(body) for body in receiver.bodies]
    (notice,) = [each for each in told if each["event"] == "rollout:canary:rolled_back"]
    assert notice["facts"]["evidence"] == event["after"]["evidence"]


def test_rollout_by_commands(instance: Instance) -> None:
    """Started, watched to its end, taken back and listed, as people and programs type it."""

    def run(*words: str) -> str:
        command = ["rollout", *words, "--config", str(instance.config)]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.exception
        return result.stdout

    started = run("start", "doubler", "--to", "2", "--steps", "10%:1h", "--gate", "errors=0.05")
    shown = json.loads(run("status", "doubler", "--json"))
    back = run("rollback", "doubler", "--reason", "tried it")
    watched = run("status", "doubler", "--watch")
    listed = json.loads(run("list", "--json"))["rollouts"]
    history = run("history", "doubler")

    assert "doubler: version 2 beside 1, pending" in started
    assert shown["rollout"]["plan"]["gates"] == {"errors": 0.05}
    assert "rolled back" in back
    assert "why: tried it" in watched
    assert listed[0]["state"] == "rolled_back"
    assert "tried it" in history.splitlines()[-1]
