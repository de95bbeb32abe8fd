import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from serving.artifacts.bundles import Bundle
from serving.core.models import ModelVersion
from serving.core.predictions import Fate
from serving.core.tensors import Array
from serving.engine_settings import InferenceSettings
from serving.inference.hosting import Session
from serving.inference.session import OnnxSession
from tests.instances import Instance
from tests.load import Callers
from tests.places import InProcess, Place, eventually_async, replicas_of

pytestmark = pytest.mark.faults

DROPPED = "serving_shadow_dropped_total"
REQUESTS = 60


class Hanging:
    """A candidate that answers nothing until it is let go."""

    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    runs_on_caller = True

    def __init__(self, session: OnnxSession, go: threading.Event) -> None:
        self.version = session.version
        self._session = session
        self._go = go

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        self._go.wait()
        return self._session.run(inputs)

    def terminate(self) -> None:
        """It does not listen."""


@pytest.fixture
def go() -> Iterator[threading.Event]:
    """Lets the candidate go, at the latest when the test ends."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
async def in_process(tmp_path: Path, go: threading.Event) -> AsyncIterator[InProcess]:
    def load(version: ModelVersion, bundle: Bundle, *, settings: InferenceSettings) -> Session:
        session = OnnxSession.load(version, bundle, settings=settings)
        return Hanging(session, go) if version.key == "doubler@2" else session

    shadow = {"max_queued_rows": 8, "deadline_s": 2.0}
    place = InProcess(tmp_path, load=load, shadow=shadow)
    try:
        await place.start()
        yield place
    finally:
        go.set()
        await place.aclose()


async def test_hanging_candidate_takes_nothing_from_the_primary(in_process: InProcess) -> None:
    """Every request is answered in time; every copy is in the log or counted as dropped."""
    place = in_process.place

    async def dropped() -> float:
        return await place.metric(DROPPED, model="doubler", version="2", role="shadow")

    async with Callers(place, "doubler") as load:
        await load.acknowledged(REQUESTS)
        await eventually_async(dropped)
    answered = len(load.ledger.acknowledged)

    async def accounted() -> bool:
        copies = [record for record in place.records() if record.shadow_of]
        assert Fate.OK not in {record.fate for record in copies}
        return await dropped() + len(copies) == answered

    assert (load.ledger.refused, load.ledger.cut) == ({}, 0)
    load.ledger.reconcile(place.data_dir / "log")
    await eventually_async(accounted)


@pytest.mark.ray
@pytest.mark.timeout(300)
async def test_stopped_candidate_takes_nothing_from_the_primary(ray_instance: Instance) -> None:
    """A candidate's process that stands still fills its own queue and nothing else."""
    place = Place(ray_instance.url, ray_instance.data_dir)
    (pid,) = replicas_of(ray_instance.process.pid, "doubler@2")

    async def dropped() -> bool:
        return await place.metric(DROPPED, model="doubler", version="2") > 0

    os.kill(pid, signal.SIGSTOP)
    try:
        async with Callers(place, "doubler") as load:
            await eventually_async(dropped)
    finally:
        os.kill(pid, signal.SIGCONT)

    assert (load.ledger.refused, load.ledger.cut) == ({}, 0)
    load.ledger.reconcile(place.data_dir / "log")
