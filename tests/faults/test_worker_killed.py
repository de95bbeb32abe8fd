import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.catalogue import TWIN, write_models
from tests.instances import START_S, Instance
from tests.load import Callers
from tests.places import Place, eventually_async, running

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

CYCLES = 3
ACKNOWLEDGED_A_CYCLE = 300


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    models = write_models(tmp_path / "models")
    with Instance(tmp_path, deployments=[TWIN], models_dir=models) as instance:
        instance.expect("ready")
        yield instance


@pytest.mark.parametrize("module", ["worker", "local_control"])
async def test_ft_03_ft_04_death_of_a_process_loses_no_acknowledged_prediction(
    instance: Instance, module: str
) -> None:
    """Killed again and again under load, it comes back, and the log has every answer once."""
    place = Place(instance.url, instance.data_dir)
    async with Callers(place, "twin", timeout_s=20) as load, place.client() as client:

        async def ready() -> bool:
            try:
                return (await client.get("/v2/health/ready")).is_success
            except httpx.TransportError:
                return False

        for _ in range(CYCLES):
            await load.acknowledged(ACKNOWLEDGED_A_CYCLE)
            (pid,) = running(instance.process.pid, f"serving.app.{module}\0")
            os.kill(pid, signal.SIGKILL)
            await asyncio.to_thread(instance.expect, "child_died")
            await eventually_async(ready, within_s=START_S)
        await load.acknowledged(ACKNOWLEDGED_A_CYCLE)
    instance.stop()

    load.ledger.reconcile(instance.data_dir / "log")
    assert load.ledger.refused == {}
    assert (load.ledger.cut > 0) == (module == "worker")
