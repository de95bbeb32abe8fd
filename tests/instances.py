"""A real instance for tests: `serving up` in a process of its own, on ports that were free."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml

from loadtests.ports import free_ports
from serving.access.issuer import LocalIssuer
from serving.app.descendants import children
from serving.core.clock import SystemClock
from serving.core.principals import Role
from serving.settings import AccessSettings

CENSUS = {"model": "census-employment", "stable": "1"}
ROW = [95, 1, 2, 0, 2, 0, 5, 1, 4, 1, 2, 2, 2, 2, 2, 1]
PATIENCE = {"default_deadline_s": 10.0, "max_queue_wait_s": 5.0}
"""Requests are not late or refused because other tests have the cores; who is after that says so."""
START_S = 120.0
STOP_S = 45.0
"""It gives itself 30 s."""
ANSWER_S = 30.0
"""Patience with an answer; httpx alone would have that of five seconds."""


class Instance:
    """`serving up --json`; `expect` reads its events. Use it as a context manager."""

    def __init__(
        self,
        folder: Path,
        *,
        engine: str = "local",
        deployments: Sequence[dict[str, Any]] = (CENSUS,),
        data_dir: Path | None = None,
        models_dir: Path | None = None,
        **groups: dict[str, Any] | list[dict[str, Any]],
    ) -> None:
        """groups: further settings, such as `http={"workers": 2}`. `command` may be changed before
        it is entered."""
        http, grpc, metrics, control = free_ports(4)
        self.ready: dict[str, Any] = {}
        self.data_dir = data_dir or folder / "data"
        self.config = folder / "serving.yaml"
        self.url = f"http://127.0.0.1:{http}"
        self.grpc_address = f"127.0.0.1:{grpc}"
        self.metrics_url = f"http://127.0.0.1:{metrics}"
        self.control_url = f"http://127.0.0.1:{control}"
        self.process: subprocess.Popen[str]
        ports = {"http": http, "grpc": grpc, "metrics": metrics, "control": control}
        values: dict[str, Any] = {name: {"port": port} for name, port in ports.items()}
        values |= {
            "data_dir": str(self.data_dir),
            "admission": dict(PATIENCE),
            "inference": {"engine": engine, "device": "cpu"},
            "deployments": list(deployments),
        }
        if models_dir is not None:
            values["models_dir"] = str(models_dir)
        for name, group in groups.items():
            if isinstance(group, list):
                values[name] = group
            else:
                values[name] = {**values.get(name, {}), **group}
        self.config.write_text(yaml.safe_dump(values))
        self.command = [sys.executable, "-m", "serving", "up", "--json", "--config"]
        self.command.append(str(self.config))
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def __enter__(self) -> "Instance":
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SERVING_")}
        self.process = subprocess.Popen(  # noqa: S603 - our own command
            self.command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def expect(self, event: str, *, within_s: float = START_S, **fields: Any) -> dict[str, Any]:
        """The next event of this kind whose fields have these values; skips others."""
        while True:
            found = self._events.get(timeout=within_s)
            assert found is not None, f"it ended before {event!r}: {self.complaint()}"
            if found["event"] == event and fields.items() <= found.items():
                return found

    def stop(self, *, with_signal: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status after a signal."""
        self.process.send_signal(with_signal)
        return self.process.wait(STOP_S)

    def complaint(self) -> str:
        """What it wrote to standard error, after its end."""
        self.process.wait(START_S)
        return self.process.stderr.read() if self.process.stderr is not None else ""

    def token(self, role: Role = Role.CALLER) -> str:
        issuer = LocalIssuer.open(self.data_dir / "keys", AccessSettings(), SystemClock())
        return issuer.issue(subject="tester", roles=[role])

    def infer(self, model: str = "census-employment", row: Sequence[float] = ROW) -> httpx.Response:
        """One row to the inference port."""
        tensor = {"name": "input", "shape": [1, len(row)], "datatype": "FP32", "data": list(row)}
        return httpx.post(
            f"{self.url}/v2/models/{model}/infer",
            json={"inputs": [tensor]},
            headers={"Authorization": f"Bearer {self.token()}"},
            timeout=ANSWER_S,
        )

    def scrape(self) -> str:
        """What the metrics port says."""
        return httpx.get(f"{self.metrics_url}/metrics", timeout=ANSWER_S).text

    def hasten(self) -> None:
        """Ledger and monitor as urgent as the others, until they are started again. They get what
        nobody else wants of a machine, which on a busy one is nothing for minutes: who waits for what
        they do says so again and again. Without the right to do so they stay as they are."""
        for pid in children(self.process.pid):
            for thread in Path(f"/proc/{pid}/task").glob("*"):
                with contextlib.suppress(OSError):
                    _hasten(int(thread.name))

    def processes(self) -> list[str]:
        """Command lines of everything that was started for this data directory and still lives."""
        found = []
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(self.data_dir) in command:
                found.append(command)
        return found

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._events.put(json.loads(line))
        self._events.put(None)


def _hasten(thread: int) -> None:
    if os.sched_getscheduler(thread) == os.SCHED_IDLE:
        os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, thread, 0)
