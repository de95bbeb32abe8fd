"""The control process killed in the middle of a change of versions: the next one finishes it."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.catalogue import write_models
from tests.faults.test_swaps import CONTROL, SWAPS, Crowd
from tests.instances import ANSWER_S, Instance
from tests.operators import Operator
from tests.places import Place, running, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


def kill_control(instance: Instance) -> None:
    """SIGKILL to the process that every model runs in, too."""
    (pid,) = running(instance.process.pid, "serving.app.local_control\0")
    os.kill(pid, signal.SIGKILL)
    instance.expect("child_died", process="control")


def asked(operator: Operator) -> bool:
    """The order is in the database, and nothing else has happened for sure."""
    return bool(operator)


def deployed(operator: Operator) -> bool:
    return ("doubler@2", "not_running") not in operator.drift()


def serves(operator: Operator) -> bool:
    """Its replica holds a lease; traffic has moved or is about to."""
    rows = {each["version"]: each["state"] for each in operator.status()["versions"]}
    return rows.get("2") == "ready"


def moved(operator: Operator) -> bool:
    return operator.moved()


def drained(operator: Operator) -> bool:
    return not operator.drift()


EVERY: list[Callable[[Operator], bool]] = [asked, deployed, serves, moved, drained]
STEPS = EVERY if SWAPS > 20 else [asked, serves]
"""The supervisor waits longer after each death, so the short form takes two of them."""


async def test_sh_09_change_that_control_did_not_survive_is_finished(tmp_path: Path) -> None:
    """Killed after each step in turn: version 2 answers in the end, version 1 is gone, no answer was
    of the wrong version, and callers were at worst told to come back."""
    models = write_models(tmp_path / "models")
    deployment = {"model": "doubler", "stable": "1", "shadows": ["2"]}
    with Instance(tmp_path, deployments=[deployment], models_dir=models, control=CONTROL) as it:
        it.expect("ready")
        operator, place = Operator(it), Place(it.url, it.data_dir)
        async with Crowd(place, 2) as crowd:
            for step in STEPS:
                operator.route("doubler", "1")
                await asyncio.to_thread(operator.settle)
                operator.route("doubler", "2")
                await asyncio.to_thread(wait_until, lambda step=step: step(operator))  # type: ignore[misc]  # called now
                await asyncio.to_thread(kill_control, it)
                await asyncio.to_thread(operator.settle, within_s=60)

                rows = operator.status()["versions"]
                assert [(each["version"], each["answers"]) for each in rows] == [("2", True)]

    # Models run inside the killed process here, so that for a moment there is no replica.
    assert [text for text in crowd.failures if "no_replica" not in text] == []
    assert crowd.versions


def test_p20_sh_09_registry_away_stops_changes_and_nothing_else(tmp_path: Path) -> None:
    """Predictions go on, orders are refused as 503, nothing is promoted; afterwards all is as it was."""
    models = write_models(tmp_path / "models")
    deployment = {"model": "doubler", "stable": "1", "shadows": ["2"]}
    with Instance(tmp_path, deployments=[deployment], models_dir=models, control=CONTROL) as it:
        it.expect("ready")
        operator = Operator(it)
        file = it.data_dir / "registry.sqlite"
        file.rename(it.data_dir / "away")
        refused = operator.ask("PUT", "/v1/traffic/doubler", {"stable": "2"})
        wait_until(lambda: operator.status()["trouble"])
        answered = _ask(it)
        during = operator.status()
        (it.data_dir / "away").rename(file)
        wait_until(lambda: not operator.status()["trouble"])
        operator.route("doubler", "2")
        operator.settle()
        after = _ask(it)

    assert (refused.status_code, refused.json()["code"]) == (503, "registry_unavailable")
    assert (answered.status_code, answered.headers["serving-model-version"]) == (200, "1")
    assert [each["version"] for each in during["versions"]] == ["1", "2"]
    assert after.headers["serving-model-version"] == "2"


def _ask(instance: Instance) -> httpx.Response:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [-1, 0]}
    return httpx.post(
        f"{instance.url}/v2/models/doubler/infer",
        json={"inputs": [tensor]},
        headers={"Authorization": f"Bearer {instance.token()}"},
        timeout=ANSWER_S,
    )
