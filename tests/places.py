"""Where whole-path tests run: in this process, or against an instance in processes of its own.

A story asks its `Place` for a client and for the records, and so is told once for both.
"""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from loadtests.ports import free_ports
from serving.access.issuer import LocalIssuer
from serving.app.descendants import descendants
from serving.app.directory import DataDirectory
from serving.app.worker import Worker
from serving.core.clock import SystemClock
from serving.core.predictions import PredictionRecord
from serving.core.principals import Role
from serving.core.tensors import Array
from serving.core.traffic import ReplicaEndpoint, Snapshot
from serving.inference.approved import ApprovedArtifact
from serving.inference.hosting import Load
from serving.inference.listener import ReplicaListener
from serving.inference.places import UnixPlace
from serving.inference.plans import ApplicationPlan, socket_path
from serving.inference.session import OnnxSession
from serving.predictionlog.reading.query import Query, Search
from serving.settings import AccessSettings, Settings
from tests.catalogue import DOUBLER, TWIN, write_models
from tests.folderplans import Places, read_desired, release_deployments
from tests.instances import PATIENCE

PATIENCE_S: Final = 40.0
PAUSE_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Place:
    """An instance as its callers and the readers of its log see it."""

    url: str
    data_dir: Path

    def authorization(self, subject: str = "tester", role: Role = Role.CALLER) -> dict[str, str]:
        issuer = LocalIssuer.open(self.data_dir / "keys", AccessSettings(), SystemClock())
        return {"Authorization": f"Bearer {issuer.issue(subject=subject, roles=[role])}"}

    def client(self, subject: str = "tester", role: Role = Role.CALLER) -> httpx.AsyncClient:
        """A client with a token; its owner closes it."""
        return httpx.AsyncClient(
            base_url=self.url,
            headers=self.authorization(subject, role),
            timeout=PATIENCE_S,
            verify=False,  # noqa: S501 - there is no TLS, and reading certificates takes long
        )

    def records(self) -> list[PredictionRecord]:
        """All that the log holds now."""
        return list(Search(self.data_dir / "log", Query()).records())

    def record(self, prediction_id: str) -> PredictionRecord | None:
        """The one record with this id; None while there is none."""
        query = Query(prediction_id=prediction_id)
        found = list(Search(self.data_dir / "log", query).records())
        assert len(found) <= 1, f"{len(found)} records of one prediction"
        return found[0] if found else None

    async def metric(self, name: str, **labels: str) -> float:
        """A metric of the first gateway worker, summed over all samples with these labels."""
        families = text_string_to_metric_families((await self._introspect("/metrics")).decode())
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def connected(self, key: str) -> int:
        """To how many replicas of a version the first gateway worker has a connection."""
        queues = json.loads(await self._introspect("/status"))["queues"]
        return int(queues[key]["replicas"])

    async def _introspect(self, path: str) -> bytes:
        socket = DataDirectory.at(self.data_dir).gateway_socket(0)
        transport = httpx.AsyncHTTPTransport(uds=str(socket), verify=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://here", timeout=PATIENCE_S
        ) as client:
            return (await client.get(path)).content


class InProcess:
    """A gateway worker on the running loop, its replicas in threads; no control process.

    Built on the loop; ended by `aclose`, which may be called by the test, too.
    """

    def __init__(self, folder: Path, *, load: Load = OnnxSession.load, **groups: Any) -> None:
        """load: how sessions come about. groups: settings, such as `log={"segment_bytes": …}`."""
        http, grpc, metrics, control = free_ports(4)
        self.directory = DataDirectory.at(folder / "data")
        ports = {"http": http, "grpc": grpc, "metrics": metrics, "control": control}
        values: dict[str, Any] = {name: {"port": port} for name, port in ports.items()}
        values |= {
            "data_dir": self.directory.root,
            "admission": dict(PATIENCE),
            "models_dir": write_models(folder / "models"),
            "inference": {"engine": "local", "device": "cpu"},
            "deployments": [DOUBLER, TWIN],
        }
        for name, group in groups.items():
            values[name] = {**values.get(name, {}), **group}
        self.settings = Settings.model_validate(values)
        self.place = Place(f"http://127.0.0.1:{http}", self.directory.root)
        self._load = load
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Returns when every version has a connected replica."""
        self._stack.enter_context(self.directory.locked())
        self.directory.prepare()
        self.worker = Worker(self.settings, 0)
        release_deployments(self.settings, self.directory.keys, SystemClock())
        desired = read_desired(self.settings, self._places())
        self.listeners = {plan.key: self._listen(plan) for plan in desired.plans}
        await self.worker.start()
        self._stack.push_async_callback(self.worker.aclose)
        self.snapshot = Snapshot(
            epoch=1,
            versions=desired.versions,
            policies=desired.policies,
            endpoints=tuple(_endpoint(plan) for plan in desired.plans),
        )
        self.worker.apply(self.snapshot)
        await eventually(lambda: self.worker.not_ready() is None)

    async def aclose(self) -> None:
        """Drains and stops everything. Harmless when repeated."""
        await self._stack.aclose()

    def _places(self) -> Places:
        directory = self.directory
        return Places(directory.replica_sockets, directory.keys, directory.logs)

    def _listen(self, plan: ApplicationPlan) -> ReplicaListener:
        order, settings = plan.order, self.settings
        bundle = ApprovedArtifact(order, SystemClock()).load()
        session = self._load(order.version, bundle, settings=settings.inference)
        listener = ReplicaListener(
            session,
            replica=_replica(plan),
            place=UnixPlace(socket_path(order, _replica(plan))),
            channel=settings.channel,
            run_timeout_s=settings.inference.run_timeout_s,
            clock=SystemClock(),
        )
        listener.start()
        self._stack.callback(listener.stop)
        return listener


async def eventually(condition: Callable[[], object], *, within_s: float = PATIENCE_S) -> None:
    """Returns once `condition` holds; fails when it does not in time."""

    async def asked() -> object:
        return condition()

    await eventually_async(asked, within_s=within_s)


async def eventually_async(
    condition: Callable[[], Awaitable[object]], *, within_s: float = PATIENCE_S
) -> None:
    """`eventually` for a question that must be awaited."""
    async with asyncio.timeout(within_s):
        while not await condition():  # noqa: ASYNC110 - files and other processes set no event
            await asyncio.sleep(PAUSE_S)


def wait_until(condition: Callable[[], object], *, within_s: float = PATIENCE_S) -> None:
    """`eventually` without a loop."""
    clock, never = SystemClock(), threading.Event()
    end_ns = clock.monotonic_ns() + round(within_s * 1e9)
    while not condition():
        assert clock.monotonic_ns() < end_ns, f"not within {within_s:g} s"
        never.wait(PAUSE_S)


def running(pid: int, mark: str) -> list[int]:
    """Processes below this one whose command line holds `mark`, in which parts end with NUL; parents
    first, for what was forked from one a moment ago has its command line."""
    return [each for each in descendants(pid) if mark in _command_of(each)]


def replicas_of(pid: int, key: str) -> list[int]:
    """Processes of a version's replicas on the Ray of the instance with this process."""
    return running(pid, f"ray::ServeReplica:m:{key}~")


def a_row(first: float, second: float = 0.0, **parameters: object) -> dict[str, Any]:
    """A request body with one row, as JSON. parameters: of the request."""
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [first, second]}
    return {"inputs": [tensor], **({"parameters": parameters} if parameters else {})}


def rows_of(record: PredictionRecord, kind: str = "outputs") -> list[list[float]]:
    """A recorded tensor as lists; `kind` is inputs or outputs."""
    (tensor,) = getattr(record, kind)
    array: Array = tensor.array
    return np.asarray(array, dtype=float).tolist()  # type: ignore[no-any-return]  # numpy's


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def _replica(plan: ApplicationPlan) -> str:
    return plan.key.replace("@", "-")


def _endpoint(plan: ApplicationPlan) -> ReplicaEndpoint:
    version = plan.order.version
    return ReplicaEndpoint(
        replica=_replica(plan),
        model=version.model,
        version=version.version,
        address=f"unix:{socket_path(plan.order, _replica(plan))}",
        node="here",
    )
