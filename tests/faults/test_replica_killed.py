import asyncio
import os
import signal

import pytest

from serving.core.predictions import Fate
from tests.instances import START_S, Instance
from tests.load import Callers
from tests.places import Place, a_row, eventually_async, replicas_of

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(300)]

KILLS = 3
DEATHS = 2
LEAST_PAUSE_S = 0.5
"""Between two starts of a replica that dies at once."""


async def strength(place: Place, key: str, replicas: int) -> None:
    """Returns when the gateway is connected to so many replicas of a version."""

    async def reached() -> bool:
        return await place.connected(key) == replicas

    await eventually_async(reached, within_s=START_S)


@pytest.fixture
def place(ray_instance: Instance) -> Place:
    return Place(ray_instance.url, ray_instance.data_dir)


async def test_ft_01_death_of_one_of_two_replicas_fails_no_request(
    ray_instance: Instance, place: Place
) -> None:
    """Under load, each kill -9 costs at most a retry on the other replica; strength comes back."""
    async with Callers(place, "twin") as load:
        for _ in range(KILLS):
            await strength(place, "twin@1", 2)
            await load.acknowledged(50)
            os.kill(replicas_of(ray_instance.process.pid, "twin@1")[0], signal.SIGKILL)
            await load.acknowledged(50)
    await strength(place, "twin@1", 2)

    assert (load.ledger.refused, load.ledger.cut) == ({}, 0)
    load.ledger.reconcile(place.data_dir / "log")


async def test_ft_02_request_that_may_wait_survives_the_death_of_the_only_replica(
    ray_instance: Instance, place: Place
) -> None:
    """With a long deadline a request waits for the next replica; with a short one it is told."""
    await strength(place, "doubler@1", 1)
    async with Callers(place, "doubler", timeout_s=30) as load, place.client() as client:
        await load.acknowledged(20)
        os.kill(replicas_of(ray_instance.process.pid, "doubler@1")[0], signal.SIGKILL)
        await strength(place, "doubler@1", 0)
        impatient = await client.post("/v2/models/doubler/infer", json=a_row(-1, timeout=100_000))
        await load.acknowledged(20)

    assert (load.ledger.refused, load.ledger.cut) == ({}, 0)
    load.ledger.reconcile(place.data_dir / "log")
    record = place.record(impatient.json()["request_id"])
    assert record is not None
    assert (impatient.status_code, impatient.json()["code"]) == (503, "no_replica")
    assert int(impatient.headers["retry-after"]) >= 1
    assert (record.fate, record.reason) == (Fate.REPLICA_LOST, "no_replica")


async def test_ft_12_replica_that_the_kernel_kills_again_and_again(
    ray_instance: Instance, place: Place
) -> None:
    """As for want of memory, at every start: others answer all the while, it is not started in a
    storm, and once it may live it serves again."""
    pid = ray_instance.process.pid
    await strength(place, "doubler@1", 1)
    killed: set[int] = set()

    async def killed_so_often() -> bool:
        for replica in replicas_of(pid, "doubler@1"):
            if replica not in killed:
                killed.add(replica)
                os.kill(replica, signal.SIGKILL)
        return len(killed) >= DEATHS

    async with Callers(place, "twin") as load:
        started_s = asyncio.get_running_loop().time()
        await eventually_async(killed_so_often, within_s=90)
        took_s = asyncio.get_running_loop().time() - started_s
        await load.acknowledged(50)
    await strength(place, "doubler@1", 1)

    assert (load.ledger.refused, load.ledger.cut) == ({}, 0)
    assert took_s > (DEATHS - 1) * LEAST_PAUSE_S
    async with place.client() as client:
        answer = await client.post("/v2/models/doubler/infer", json=a_row(3, timeout=30_000_000))
    assert answer.status_code == 200
