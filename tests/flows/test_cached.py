from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.places import InProcess, a_row, eventually

INFER = "/v2/models/doubler/infer"


@asynccontextmanager
async def caching(
    folder: Path, **groups: Any
) -> AsyncIterator[tuple[InProcess, httpx.AsyncClient]]:
    """A place whose doubler remembers its answers, and a caller."""
    place = InProcess(folder, **groups)
    file = folder / "models" / "doubler" / "model.yaml"
    cache = {"max_bytes": 1_000_000, "ttl_s": 60.0}
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "cache": cache}))
    try:
        await place.start()
        async with place.place.client() as client:
            yield place, client
    finally:
        await place.aclose()


async def test_one_run_answers_in_every_form(tmp_path: Path) -> None:
    """JSON, binary and classes of the same rows come from one run; each has its own record, and
    Prometheus and the statistics say how many there were."""
    binary, classes = a_row(7), a_row(7)
    binary["parameters"] = {"binary_data_output": True}
    classes["outputs"] = [{"name": "y", "parameters": {"classification": 1}}]
    async with caching(tmp_path) as (place, client):
        answers = [await client.post(INFER, json=each) for each in (a_row(7), a_row(7), binary)]
        classified = await client.post(INFER, json=classes)
        about = await client.post(INFER, json=a_row(7, subject="customer-4711"))
        statistics = (await client.get("/v2/models/doubler/stats")).json()["model_stats"][0]
        metrics = place.worker.metrics.families.render(b"")[0].decode()
        await eventually(lambda: len([r for r in place.place.records() if not r.shadow_of]) == 5)
        records = [each for each in place.place.records() if not each.shadow_of]

    assert [answer.status_code for answer in (*answers, classified, about)] == [200] * 5
    first, second, packed = answers
    assert first.json()["outputs"] == second.json()["outputs"] == about.json()["outputs"]
    assert packed.content.endswith(b"\0\0\x60\x41\0\0\0\0")
    assert classified.json()["outputs"][0]["data"] == ["14.000000:0"]
    assert second.headers["serving-batch-id"] == "0"
    ids = [answer.headers["serving-prediction-id"] for answer in (*answers, classified, about)]
    cached = {record.prediction_id: record.cached for record in records}
    assert [cached[each] for each in ids] == [False, True, True, True, False]
    assert statistics["inference_stats"]["cache_hit"]["count"] == 3
    assert statistics["inference_stats"]["cache_miss"]["count"] == 1
    for name, value in (("hits_total", "3.0"), ("misses_total", "1.0"), ("evictions_total", "0.0")):
        assert f'serving_cache_{name}{{model="doubler",version="1"}} {value}' in metrics
    assert 'serving_cache_bytes{model="doubler",version="1"} 1' in metrics
