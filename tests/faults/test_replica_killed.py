import os
import signal
from pathlib import Path

import httpx
import pytest

from serving.app.descendants import descendants
from serving.app.directory import DataDirectory
from tests.instances import Instance
from tests.load import Callers
from tests.places import Place, eventually

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(180)]

KILLS = 3


def replicas_of(instance: Instance, key: str) -> list[int]:
    """Processes of a version's replicas on Ray."""
    return [
        pid
        for pid in descendants(instance.process.pid)
        if f"ray::ServeReplica:m:{key}" in command_of(pid)
    ]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def connected(instance: Instance, key: str) -> int:
    """To how many replicas of a version the gateway worker has a connection."""
    socket = DataDirectory.at(instance.data_dir).gateway_socket(0)
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket))) as client:
        return int(client.get("http://here/status").json()["queues"][key]["replicas"])


@pytest.fixture
def place(ray_instance: Instance) -> Place:
    return Place(ray_instance.url, ray_instance.data_dir)


async def test_death_of_one_of_two_replicas_fails_no_request(
    ray_instance: Instance, place: Place
) -> None:
    """Under load, each kill -9 costs at most a retry on the other replica; strength comes back."""
    async with Callers(place, "twin") as load:
        for _ in range(KILLS):
            await eventually(lambda: connected(ray_instance, "twin@1") == 2, within_s=30)
            await load.acknowledged(50)
            os.kill(replicas_of(ray_instance, "twin@1")[0], signal.SIGKILL)
            await load.acknowledged(50)
    await eventually(lambda: connected(ray_instance, "twin@1") == 2, within_s=30)

    assert (load.ledger.refused, load.ledger.cut) == ({}, 0)
    load.ledger.reconcile(place.data_dir / "log")
