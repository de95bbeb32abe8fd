"""Versions changed again and again while callers never pause: nobody notices.

`SERVING_TEST_SWAPS=100` makes it the long form.
"""

import asyncio
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.core.predictions import Fate
from serving.predictionlog.reading.query import Query, Search
from tests.catalogue import FACTORS, write_models
from tests.instances import Instance
from tests.operators import Operator
from tests.places import Place, a_row, eventually, running, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

SWAPS = int(os.environ.get("SERVING_TEST_SWAPS", "20"))
CONTROL = {"drain_s": 0.2, "reconcile_s": 0.1}
PATIENT = {"max_queue_wait_s": 5.0}
"""Where models are loaded beside others that run, on a busy machine, a queue stands still for a moment."""
FLAT_BYTES = 16 * 2**20
"""What both processes together may grow by after the first swaps: the allocator, and the figures that
callers leave behind."""


class Crowd:
    """Callers that ask until they are told to stop, and what they were told."""

    def __init__(self, place: Place, callers: int) -> None:
        self.versions: dict[str, str] = {}
        self.failures: list[str] = []
        self._place = place
        self._callers = callers
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Crowd":
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(self._callers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def _ask(self) -> None:
        async with self._place.client("crowd") as client:
            while not self._stopping.is_set():
                answer = await client.post(
                    "/v2/models/doubler/infer", json=a_row(-1, timeout=5_000_000)
                )
                if answer.status_code != 200:
                    self.failures.append(answer.text)
                    continue
                version = answer.headers["serving-model-version"]
                value = answer.json()["outputs"][0]["data"][0]
                if value != -FACTORS[version]:
                    self.failures.append(f"version {version} answered {value}")
                self.versions[answer.headers["serving-prediction-id"]] = version


def add_broken(models: Path, version: str) -> None:
    """A version whose artifact is no model."""
    file = models / "doubler" / "model.yaml"
    specification: dict[str, Any] = yaml.safe_load(file.read_text())
    (models / "doubler" / f"{version}.onnx").write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    broken = {**specification["versions"][0], "version": version}
    specification["versions"].append({**broken, "file": f"{version}.onnx", "sha256": empty})
    file.write_text(yaml.safe_dump(specification))


def resident_bytes(instance: Instance) -> int:
    """Of the gateway and of the process that its models run in."""
    total = 0
    for module in ("worker", "local_control"):
        for pid in running(instance.process.pid, f"serving.app.{module}\0"):
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            total += pages * os.sysconf("SC_PAGE_SIZE")
    return total


async def test_p12_n16_sh_08_swaps_under_load_cost_no_request(tmp_path: Path) -> None:
    """No failure, no mixed batch, the version in each answer is its record's; a broken version gets no
    traffic; memory stays where it was."""
    models = write_models(tmp_path / "models")
    add_broken(models, "9")
    deployment = {"model": "doubler", "stable": "1"}
    with Instance(
        tmp_path, deployments=[deployment], models_dir=models, control=CONTROL, admission=PATIENT
    ) as it:
        it.expect("ready")
        operator, place = Operator(it), Place(it.url, it.data_dir)
        others = ({**deployment, "shadows": ["2"]}, deployment)
        for wanted in others:  # Version 2 is known from here on, and has no traffic.
            await asyncio.to_thread(operator.apply, wanted)
        await asyncio.to_thread(operator.settle)
        async with Crowd(place, 3) as crowd:
            sizes = []
            for swap in range(SWAPS):
                operator.route("doubler", "2" if swap % 2 == 0 else "1")
                # Every other time the next swap comes while the old version still drains.
                settled = operator.settle if swap % 2 else lambda: wait_until(operator.moved)
                await asyncio.to_thread(settled)
                sizes.append(resident_bytes(it))
            last = "2" if SWAPS % 2 else "1"
            broken = {**deployment, "stable": "9"}
            await asyncio.to_thread(operator.apply, broken)
            await eventually(lambda: ("doubler@9", "failed") in operator.drift())
            drift = operator.drift()
            operator.route("doubler", last)
            await asyncio.to_thread(operator.settle)

    records = {
        each.prediction_id: each
        for each in Search(it.data_dir / "log", Query()).records()
        if not each.shadow_of
    }
    batches = defaultdict(set)
    for record in records.values():
        batches[record.batch_id].add(record.version)
    assert crowd.failures == []
    assert set(crowd.versions.values()) == {"1", "2"}
    assert {name: records[name].version for name in crowd.versions} == crowd.versions
    assert {each.fate for each in records.values()} == {Fate.OK}
    assert {len(versions) for versions in batches.values()} == {1}
    assert drift == {("doubler@9", "failed"), ("doubler@9", "not_moved")}
    assert sizes[-1] - sizes[len(sizes) // 4] < FLAT_BYTES, sizes
