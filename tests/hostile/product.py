"""The product as hostile callers meet it: one real instance for all cases, and what it says of itself.

Deadlines are shorter than the defaults, so that a case about slowness does not have to be slow.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import orjson

from serving.app.descendants import descendants
from serving.app.directory import DataDirectory
from serving.core.predictions import PredictionRecord
from serving.predictionlog.reading.query import Query, Search
from serving.predictionlog.reading.verification import verify
from tests.catalogue import WIDE_COLUMNS, write_models, write_wide
from tests.edge.wire import Client, request
from tests.hostile.kinds import write_kinds
from tests.instances import Instance
from tests.places import a_row

SHORT: Final[dict[str, Any]] = {
    "head_timeout_s": 1.0,
    "body_timeout_s": 2.0,
    "idle_timeout_s": 2.0,
    "write_timeout_s": 1.0,
}
SHORT_CALLS: Final[dict[str, Any]] = {
    "head_timeout_s": 1.0,
    "body_timeout_s": 2.0,
    "idle_timeout_s": 3.0,
    "write_timeout_s": 1.0,
}
SWEEPS_S: Final = 2.0
"""How much later than its deadline something may end: two sweeps, who lingers, a busy machine."""
HEAD_S: Final[float] = SHORT_CALLS["head_timeout_s"]
BODY_S: Final[float] = SHORT_CALLS["body_timeout_s"]
IDLE_S: Final[float] = SHORT_CALLS["idle_timeout_s"]
WRITE_S: Final[float] = SHORT_CALLS["write_timeout_s"]
PATIENT_S: Final = 20.0
"""Requests wait as long as a test keeps the model busy: refusing them is another module's case."""
SEGMENT_BYTES: Final = 1 << 20
"""Small, so that looking for what is new does not read what is old."""
INFER: Final = "/v2/models/doubler/infer"
WIDE: Final = "/v2/models/wide/infer"
WIDE_ROWS: Final = 63
"""Of `wide`; nearly 16 MiB."""
READY: Final = request("GET", "/v2/health/ready")

INSPECTION: Final = b"serving.inference.inspection"
_REFUSAL: Final = re.compile(r'^serving_refusals_total\{code="(\w+)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process holds."""

    resident_bytes: int
    descriptors: int
    threads: int


class Product:
    """A running instance with one gateway worker."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.http_port = _port(instance.url)
        self.metrics_port = _port(instance.metrics_url)
        self.control_port = _port(instance.control_url)
        self.data_dir = instance.data_dir
        self.token = instance.token()

    @property
    def authorization(self) -> str:
        return f"Authorization: Bearer {self.token}"

    def inference(self, number: float = 1.0, *headers: str, **parameters: int) -> bytes:
        """One row for the doubler, by somebody who may ask."""
        body = orjson.dumps(a_row(number, 0.0, **parameters))
        kind = "Content-Type: application/json"
        return request("POST", INFER, self.authorization, kind, *headers, body=body)

    def wide_inference(self, *, rows: int = WIDE_ROWS) -> bytes:
        """Rows of 256 KiB in binary, answered alike; as many as fit a body unless told otherwise."""
        shape = [rows, WIDE_COLUMNS]
        size = {"binary_data_size": rows * WIDE_COLUMNS * 4}
        given = {"name": "x", "shape": shape, "datatype": "FP32", "parameters": size}
        wanted = {"name": "y", "parameters": {"binary_data": True}}
        head = orjson.dumps({"inputs": [given], "outputs": [wanted]})
        length = f"Inference-Header-Content-Length: {len(head)}"
        body = head + bytes(size["binary_data_size"])
        return request("POST", WIDE, self.authorization, length, body=body)

    def connect(self) -> Client:
        return Client(self.http_port)

    # -- what it says of itself --------------------------------------------------------------------

    def pids(self) -> tuple[int, ...]:
        """Every process of it but those that look at one upload and end, or have ended."""
        pid = self.instance.process.pid
        commands = {each: command_of(each) for each in descendants(pid)}
        staying = [each for each, it in commands.items() if it and INSPECTION not in it]
        return (pid, *staying)

    @cached_property
    def worker_pid(self) -> int:
        """The gateway worker's."""
        pid = self.instance.process.pid
        (worker,) = (each for each in descendants(pid) if b"app.worker" in command_of(each))
        return worker

    def usage(self) -> Usage:
        """Of the gateway worker."""
        process = Path(f"/proc/{self.worker_pid}")
        return Usage(
            resident_bytes=int((process / "statm").read_text().split()[1])
            * os.sysconf("SC_PAGE_SIZE"),
            descriptors=len(list((process / "fd").iterdir())),
            threads=len(list((process / "task").iterdir())),
        )

    @cached_property
    def first_usage(self) -> Usage:
        """Of a worker that has served a large request, before any case."""
        with self.connect() as client:
            assert client.send(self.wide_inference()).receive().status == 200
        return self.usage()

    def cpu_s(self) -> float:
        """Processor time of the gateway worker's event loop until now."""
        text = Path(f"/proc/{self.worker_pid}/schedstat").read_text()
        return int(text.split()[0]) / 1e9

    def status(self) -> Mapping[str, Any]:
        """`/status` of the gateway worker."""
        facts: dict[str, Any] = orjson.loads(self._introspect("/status"))
        return facts

    def refusals(self) -> Counter[str]:
        """Refused requests by code, as the gateway worker counts them."""
        text = self._introspect("/metrics").decode()
        return Counter({code: int(float(value)) for code, value in _REFUSAL.findall(text)})

    def series(self) -> set[str]:
        """Names and labels of all metrics of the gateway worker."""
        text = self._introspect("/metrics").decode()
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        return {line.rpartition(" ")[0] for line in lines}

    def records(self, *, since_ns: int) -> list[PredictionRecord]:
        """What the prediction log holds of requests that arrived since then; undamaged."""
        search = Search(self.data_dir / "log", Query(since_ns=since_ns))
        found = list(search.records())
        assert search.damaged == set()
        return found

    def logs(self) -> dict[Path, bytes]:
        """Every log file of every process."""
        return {file: file.read_bytes() for file in (self.data_dir / "logs").iterdir()}

    def _introspect(self, path: str) -> bytes:
        with Client(DataDirectory.at(self.data_dir).gateway_socket(0)) as client:
            return client.send(request("GET", path)).receive().body


@contextmanager
def running_product(folder: Path, **grpc: Any) -> Iterator[Product]:
    """A real instance without a shadow, whose deadlines are short. grpc: more settings of that port."""
    models = write_kinds(write_wide(write_models(folder / "models")))
    deployments = [{"model": name, "stable": "1"} for name in ("doubler", "kinds", "wide")]
    with Instance(
        folder,
        deployments=deployments,
        models_dir=models,
        http=SHORT,
        grpc=SHORT_CALLS | grpc,
        log={"segment_bytes": SEGMENT_BYTES},
        admission={"max_queue_wait_s": PATIENT_S},
    ) as instance:
        instance.expect("ready")
        made = Product(instance)
        assert made.first_usage.resident_bytes
        yield made
        assert instance.stop() == 0
    assert verify(instance.data_dir / "log").damage == ()


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
