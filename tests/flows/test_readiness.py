import asyncio
from dataclasses import replace

from tests.places import InProcess, eventually, eventually_async

READY = "/v2/health/ready"


async def test_ready_only_while_every_version_has_a_replica(in_process: InProcess) -> None:
    """Losing the only replica of a version is told at once, and so is its return."""
    async with in_process.place.client() as client:

        async def answers(status: int) -> bool:
            return (await client.get(READY)).status_code == status

        before = await client.get(READY)
        worker, snapshot = in_process.worker, in_process.snapshot
        others = tuple(each for each in snapshot.endpoints if each.model != "twin")
        worker.apply(replace(snapshot, epoch=2, endpoints=others))
        await eventually_async(lambda: answers(503))
        without = await client.get(READY)
        model = await client.get("/v2/models/twin/ready")
        worker.apply(replace(snapshot, epoch=3))
        await eventually_async(lambda: answers(200))

    assert before.json() == {"live": True, "ready": True}
    assert without.json()["code"] == "not_ready"
    assert without.json()["error"] == "waiting for twin@1"
    assert (model.status_code, model.json()["code"]) == (503, "not_ready")


async def test_replicas_that_come_and_go_leave_nothing_behind(in_process: InProcess) -> None:
    """After many changes of the endpoints there are as many tasks and connections as before."""
    worker, snapshot = in_process.worker, in_process.snapshot
    tasks = len(asyncio.all_tasks())
    for epoch in range(2, 12):
        endpoints = snapshot.endpoints if epoch % 2 else ()
        worker.apply(replace(snapshot, epoch=epoch, endpoints=endpoints))
        await eventually(lambda wanted=bool(endpoints): (worker.not_ready() is None) == wanted)  # type: ignore[misc]

    await eventually(lambda: len(asyncio.all_tasks()) == tasks)
    assert [await in_process.place.connected(key) for key in ("doubler@1", "twin@1")] == [1, 1]
