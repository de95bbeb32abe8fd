import asyncio
from pathlib import Path

import httpx
import pytest

from serving.core.predictions import Fate
from serving.predictionlog.reading.verification import verify
from tests.catalogue import SLOW, TWIN, write_models
from tests.instances import Instance
from tests.load import Callers
from tests.places import InProcess, Place, a_row, eventually_async


async def test_running_request_is_answered_before_the_worker_ends(in_process: InProcess) -> None:
    """Draining accepts nothing new, answers what runs, and seals the log."""
    place = in_process.place
    body = a_row(SLOW, timeout=20_000_000)
    async with place.client() as client, place.client() as late:
        running = asyncio.create_task(client.post("/v2/models/twin/infer", json=body))

        async def runs() -> bool:
            return await place.metric("serving_in_flight_requests") == 1

        await eventually_async(runs)
        ending = asyncio.create_task(in_process.aclose())
        answer = await running
        await ending
        with pytest.raises(httpx.ConnectError):
            await late.get("/v2/health/live")

    assert answer.json()["outputs"][0]["data"] == [2 * SLOW, 0.0]
    assert answer.headers["connection"] == "close"
    assert [record.fate for record in place.records()] == [Fate.OK]
    assert {segment.state for segment in verify(place.data_dir / "log").segments} == {"sealed"}


@pytest.mark.faults
async def test_stop_under_load_loses_nothing_that_was_admitted(tmp_path: Path) -> None:
    """After SIGTERM each record is an answer that its caller has; exit 0, and the log is sealed."""
    models = write_models(tmp_path / "models")
    with Instance(tmp_path, deployments=[TWIN], models_dir=models) as instance:
        instance.expect("ready")
        place = Place(instance.url, instance.data_dir)
        async with Callers(place, "twin", timeout_s=20) as load:
            await load.acknowledged(200)
            status = await asyncio.to_thread(instance.stop)

    recorded = {record.prediction_id: record.fate for record in place.records()}
    assert (status, load.ledger.refused) == (0, {})
    assert recorded == dict.fromkeys(load.ledger.acknowledged, Fate.OK)
    assert {segment.state for segment in verify(place.data_dir / "log").segments} == {"sealed"}
