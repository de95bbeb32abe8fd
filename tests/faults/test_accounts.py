import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from serving.core.clock import SystemClock
from tests.catalogue import TWIN, write_models
from tests.instances import Instance
from tests.load import Callers
from tests.places import Place, eventually_async, running

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

KILLS = 2
BACK_WITHIN_S = 15
DOUBLER = {"model": "doubler", "stable": "1"}


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    """The twin is recorded as best_effort, the doubler as by default."""
    models = write_models(tmp_path / "models")
    file = models / "twin" / "model.yaml"
    policy = {"recording": {"policy": "best_effort"}}
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **policy}))
    with Instance(tmp_path, deployments=[TWIN, DOUBLER], models_dir=models) as instance:
        instance.expect("ready")
        yield instance


def reconciled(instance: Instance, ledger: Path) -> dict[str, Any]:
    """What `serving log reconcile` says of the files."""
    command = [sys.executable, "-m", "serving", "log", "reconcile", "--json"]
    options = ["--client-ledger", str(ledger), "--config", str(instance.config)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    assert done.stdout, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]  # one object


async def test_lg_02_n7_every_answer_is_recorded_or_declared_lost_through_kills(
    instance: Instance, tmp_path: Path
) -> None:
    """LG-02, N7: the process that holds the log's writer is killed again and again under load; it
    is back (within 5 s where the machine has nothing else to do), no answer of the fail_closed model is missing or there twice, and of the
    best_effort model each answer is recorded or declared lost."""
    place = Place(instance.url, instance.data_dir)
    clock = SystemClock()
    strict, lax = Callers(place, "doubler", timeout_s=20), Callers(place, "twin", timeout_s=20)
    async with strict, lax, place.client() as client:

        async def ready() -> bool:
            try:
                return (await client.get("/v2/health/ready")).is_success
            except httpx.TransportError:
                return False

        for _ in range(KILLS):
            await strict.acknowledged(100)
            await lax.acknowledged(100)
            (pid,) = running(instance.process.pid, "serving.app.worker\0")
            os.kill(pid, signal.SIGKILL)
            killed_ns = clock.monotonic_ns()
            await asyncio.to_thread(instance.expect, "child_died")
            await eventually_async(ready, within_s=30)
            assert clock.monotonic_ns() - killed_ns < BACK_WITHIN_S * 1e9
        await strict.acknowledged(50)
        await lax.acknowledged(50)
    instance.stop()

    ledger = tmp_path / "acknowledged.txt"
    ledger.write_text("\n".join(strict.ledger.acknowledged))
    found = reconciled(instance, ledger)
    assert found["sound"], found
    assert (found["missing"], found["twice"]) == ([], [])
    assert [each["state"] for each in found["balances"]].count("killed") == KILLS
    recorded = sum(each["recorded"] + each["lost"] for each in found["balances"])
    answered = sum(each["answered"] for each in found["balances"])
    assert recorded >= answered
    assert answered >= len(strict.ledger.acknowledged) + len(lax.ledger.acknowledged)
