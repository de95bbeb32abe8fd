import asyncio

import pytest

from tests.places import InProcess, a_row


async def test_task_that_ends_takes_the_worker_with_it(
    in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker without its sweep would never again refuse a token that expired: it ends instead."""

    def broken() -> None:
        raise RuntimeError("the sweep is broken")

    monkeypatch.setattr(in_process.worker.pipeline, "sweep", broken)

    with pytest.raises(RuntimeError, match="the sweep is broken"):
        await in_process.worker.run(asyncio.Event())


async def test_worker_runs_until_it_is_asked_to_stop(in_process: InProcess) -> None:
    """Nothing but the event ends it in the ordinary way."""
    stopping = asyncio.Event()
    running = asyncio.create_task(in_process.worker.run(stopping))
    async with in_process.place.client() as client:
        answer = await client.post("/v2/models/twin/infer", json=a_row(-1))
    stopping.set()

    await asyncio.wait_for(running, 5)
    assert answer.is_success


async def test_metrics_tell_what_the_worker_did(in_process: InProcess) -> None:
    """Answers, records, verified tokens and open connections, each counted once."""
    place = in_process.place
    async with place.client() as client:
        for number in range(3):
            await client.post("/v2/models/twin/infer", json=a_row(-number))
        labels = {"model": "twin", "version": "1", "role": "primary", "fate": "ok"}

        assert await place.metric("serving_requests_total", **labels) == 3
        assert await place.metric("serving_log_records_total") == 3
        assert await place.metric("serving_token_cache_misses_total") == 1
        assert await place.metric("serving_token_cache_hits_total") == 2
        assert await place.metric("serving_connections") == 1
        assert await place.metric("serving_in_flight_requests") == 0
        assert await place.metric("serving_snapshot_epoch") == 1
        assert await place.metric("serving_log_commit_seconds_count") >= 1
