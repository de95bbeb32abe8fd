import asyncio
import os
import signal
import time

import pytest

from tests.instances import Instance
from tests.load import Callers
from tests.places import Place, a_row, eventually_async, replicas_of, running

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(300)]

PATIENT_US = 20_000_000
HURRIED_US = 300_000


async def test_ft_05_a_stopped_replica_costs_time_and_no_wrong_answer(
    ray_instance: Instance,
) -> None:
    """SIGSTOP without dying: who can wait is answered, who cannot is told in time, nobody gets another's
    answer when it goes on, and the log has every answer once."""
    place = Place(ray_instance.url, ray_instance.data_dir)

    async def both_connected() -> bool:
        return await place.connected("twin@1") == 2

    await eventually_async(both_connected, within_s=30)
    stopped = replicas_of(ray_instance.process.pid, "twin@1")[0]
    async with Callers(place, "twin", timeout_s=PATIENT_US / 1e6) as load, place.client() as client:
        await load.acknowledged(50)
        os.kill(stopped, signal.SIGSTOP)
        try:
            began_s = time.monotonic()
            hurried = [
                client.post("/v2/models/twin/infer", json=a_row(number, timeout=HURRIED_US))
                for number in range(8)
            ]
            answers = await asyncio.gather(*hurried)
            took_s = time.monotonic() - began_s
        finally:
            os.kill(stopped, signal.SIGCONT)
        await load.acknowledged(50)
    await eventually_async(both_connected, within_s=60)

    assert {answer.status_code for answer in answers} <= {200, 504}
    assert took_s < HURRIED_US / 1e6 + 2
    for number, answer in enumerate(answers):
        if answer.is_success:
            assert answer.json()["outputs"][0]["data"][0] == 2.0 * number
    assert set(load.ledger.refused) <= {"deadline_exceeded", "queue_full"}
    load.ledger.reconcile(place.data_dir / "log")


def raylet_of(instance: Instance) -> int:
    """Ray's node manager below an instance."""
    return running(instance.process.pid, "/raylet\0")[0]


async def test_ft_06_a_stopped_raylet_stops_no_prediction(ray_instance: Instance) -> None:
    """Ray's node manager answers nothing for a while: predictions go on, and so does it afterwards."""
    place = Place(ray_instance.url, ray_instance.data_dir)
    raylet = raylet_of(ray_instance)
    async with Callers(place, "twin", timeout_s=PATIENT_US / 1e6) as load:
        os.kill(raylet, signal.SIGSTOP)
        try:
            await load.acknowledged(200)
        finally:
            os.kill(raylet, signal.SIGCONT)
        await load.acknowledged(50)

    assert (load.ledger.refused, load.ledger.cut) == ({}, 0)
    load.ledger.reconcile(place.data_dir / "log")
