"""P1 and P6 by experiment: whatever process is killed whenever, an answer has its record, once."""

import asyncio
import os
import random
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serving.cli import app
from tests.catalogue import TWIN, write_models
from tests.instances import START_S, Instance
from tests.openload import OpenCallers
from tests.operators import Operator
from tests.places import eventually, running

pytestmark = [pytest.mark.faults]

RATE_PER_S = 500.0
ACKNOWLEDGED_A_CYCLE = 100
PROCESSES = {
    "gateway": "serving.app.worker\0",
    "control and replicas": "serving.app.local_control\0",
    "ledger": "serving.app.ledger\0",
}
LIFE = ("gateway",) * 6 + ("control and replicas", "ledger")
"""Who is killed before everything is: in any order, and then the product is started again. A supervisor
waits longer and longer before it restarts what dies again and again, so that a longer life would be
one of waiting; and a whole product that is killed proves more."""
RAY_PROCESSES = {
    "gateway": "serving.app.worker\0",
    "control": "serving.app.control\0",
    "ledger": "serving.app.ledger\0",
    "replica": "ray::ServeReplica:m:twin@1",
    "Ray Serve's controller": "ray::ServeController",
}


async def kill_one(instance: Instance, mark: str, dice: random.Random) -> None:
    """SIGKILL to one of the processes with this mark, at some moment soon."""
    await asyncio.sleep(dice.uniform(0, 0.05))
    await eventually(lambda: running(instance.process.pid, mark), within_s=START_S)
    os.kill(dice.choice(running(instance.process.pid, mark)), signal.SIGKILL)


def callers(instance: Instance, ledger: Path) -> OpenCallers:
    return OpenCallers(
        instance.url, instance.token(), model="twin", rate_per_s=RATE_PER_S, acknowledgements=ledger
    )


def reconcile(data_dir: Path, ledger: Path) -> None:
    """The product's own check of the client's ledger, from the files alone."""
    arguments = ["log", "reconcile", "--data-dir", str(data_dir), "--client-ledger", str(ledger)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert " 0 missing, 0 twice" in result.output


async def live(instance: Instance, ledger: Path, victims: list[str], dice: random.Random) -> int:
    """One life of the product, in which one process after the other is killed, and at last all of them;
    how many predictions were acknowledged."""
    async with callers(instance, ledger) as load:
        for victim in victims:
            await load.acknowledged(ACKNOWLEDGED_A_CYCLE)
            await kill_one(instance, PROCESSES[victim], dice)
        await load.acknowledged(ACKNOWLEDGED_A_CYCLE)
        os.kill(instance.process.pid, signal.SIGKILL)
        await eventually(lambda: not instance.processes(), within_s=20)
    load.ledger.reconcile(instance.data_dir / "log")
    return len(load.ledger.acknowledged)


@pytest.mark.timeout(3600)
async def test_p1_p6_lg_01_lg_03_kill_cycles_lose_no_answer_and_record_none_twice(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """Open-loop load while random processes are killed, and now and then all of them at once: no
    acknowledged id is missing from the log, none is there twice, and nobody got another's answer."""
    cycles = int(pytestconfig.getoption("--kill-cycles"))
    dice = random.Random(pytestconfig.getoption("--kill-seed"))  # noqa: S311 -- which to kill
    models, ledger = write_models(tmp_path / "models"), tmp_path / "acknowledged.txt"
    acknowledged = 0
    for done in range(0, cycles, len(LIFE) + 1):
        victims = dice.sample(LIFE, len(LIFE))[: cycles - done - 1]
        with Instance(
            tmp_path, deployments=[TWIN], models_dir=models, http={"workers": 2}
        ) as instance:
            instance.expect("ready")
            acknowledged += await live(instance, ledger, victims, dice)

    assert acknowledged >= cycles * ACKNOWLEDGED_A_CYCLE
    assert len(ledger.read_text().splitlines()) == acknowledged
    reconcile(tmp_path / "data", ledger)


@pytest.mark.ray
@pytest.mark.timeout(300)
async def test_p1_lg_01_lg_03_kill_cycles_on_ray_lose_no_answer(
    ray_instance: Instance, tmp_path: Path
) -> None:
    """The same with replicas of their own on Ray, and one of Ray's own processes, each killed once."""
    ledger = tmp_path / "acknowledged.txt"
    dice = random.Random(1)  # noqa: S311 -- which to kill
    async with callers(ray_instance, ledger) as load:
        for mark in RAY_PROCESSES.values():
            await load.acknowledged(ACKNOWLEDGED_A_CYCLE)
            await kill_one(ray_instance, mark, dice)
        await load.acknowledged(ACKNOWLEDGED_A_CYCLE)
    await asyncio.to_thread(Operator(ray_instance).settle, within_s=START_S)

    load.ledger.reconcile(ray_instance.data_dir / "log")
    reconcile(ray_instance.data_dir, ledger)
