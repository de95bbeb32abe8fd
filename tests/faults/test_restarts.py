import asyncio
import signal
from pathlib import Path

import pytest

from tests.catalogue import TWIN, write_models
from tests.instances import Instance
from tests.load import Callers, Ledger
from tests.places import Place

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

RESTARTS = 4


async def live(instance: Instance, *, killed: bool) -> Ledger:
    """One life of the product under load, and how it ends; what callers were told."""
    place = Place(instance.url, instance.data_dir)
    async with place.client() as client:
        assert (await client.get("/v2/health/ready")).status_code == 200
    async with Callers(place, "twin", timeout_s=10) as load:
        await load.acknowledged(100)
        if killed:
            instance.process.send_signal(signal.SIGKILL)
        else:
            await asyncio.to_thread(instance.stop)
        load.stop()
    return load.ledger


async def test_ft_20_restarted_under_load_it_loses_no_answer(tmp_path: Path) -> None:
    """Stopped or killed as a whole, again and again, on one data directory: it is ready only when it can
    answer, and every acknowledged prediction of every life is in the log once."""
    models = write_models(tmp_path / "models")
    ledgers: list[Ledger] = []
    for life in range(RESTARTS):
        with Instance(tmp_path, deployments=[TWIN], models_dir=models) as instance:
            instance.expect("ready")
            ledgers.append(await live(instance, killed=bool(life % 2)))

    for ledger in ledgers:
        assert ledger.acknowledged
        ledger.reconcile(tmp_path / "data" / "log")
