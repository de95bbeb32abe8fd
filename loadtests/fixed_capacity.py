"""A worker of the product before a model whose capacity is known, because it sleeps.

    python -m loadtests.fixed_capacity FOLDER

A batch of at most 8 rows takes 20 ms, however few there are: 400 rows a second, on every machine. The
worker is the product's, with everything on: authentication, the log synced before the answer,
metrics. The replica is the product's listener in a thread; only what it runs is made up. What it is
given are an objective of 100 ms, of which a run, one ahead of it and the one under way take 60, and
room for one load generator.

Prints `listening PORT TOKEN`, runs until SIGTERM.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import uvloop

from loadtests.children import LOOPBACK
from loadtests.ports import free_ports
from serving.access.issuer import LocalIssuer
from serving.app.child import stop_event
from serving.app.directory import DataDirectory
from serving.app.worker import Worker
from serving.core.clock import SystemClock
from serving.core.models import BatchLimits, Digest, ModelName, ModelVersion, VersionName
from serving.core.principals import Role
from serving.core.tensors import Array, TensorSpecification
from serving.core.traffic import ReplicaEndpoint, Snapshot, TrafficPolicy
from serving.inference.listener import ReplicaListener
from serving.inference.places import UnixPlace
from serving.settings import Settings
from serving.telemetry import logs

BATCH_ROWS: Final = 8
RUN_S: Final = 0.02
CAPACITY_PER_S: Final = BATCH_ROWS / RUN_S
OBJECTIVE_MS: Final = 100.0
MODEL: Final = "fixed"
COLUMNS: Final = 8
RUN_TIMEOUT_S: Final = 30.0
TOKEN_LIFETIME_S: Final = 12 * 3600

VERSION: Final = ModelVersion(
    model=ModelName(MODEL),
    version=VersionName("1"),
    digest=Digest("00" * 32),
    inputs=(TensorSpecification("x", "FP32", (-1, COLUMNS)),),
    outputs=(TensorSpecification("y", "FP32", (-1, COLUMNS)),),
    batching=BatchLimits(max_batch_size=BATCH_ROWS, latency_objective_ms=OBJECTIVE_MS),
)
POLICY: Final = TrafficPolicy(VERSION.model, VERSION.version)


class SleepingModel:
    """Fits `serving.inference.running.Runner`: doubles its input, after a nap."""

    version = VERSION
    runs_on_caller = False

    def __init__(self) -> None:
        self._clock = SystemClock()

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        self._clock.sleep(RUN_S)
        return [np.multiply(inputs[0], np.float32(2))]

    def terminate(self) -> None:
        """Wakes up by itself."""


def settings_in(folder: Path) -> Settings:
    """On free ports. A queue wait of 80 ms lets in what waits for 40: with the replica's 60, 100."""
    http, grpc, metrics, control = free_ports(4)
    return Settings.model_validate(
        {
            "data_dir": folder / "data",
            "http": {"port": http},
            "grpc": {"port": grpc},
            "metrics": {"port": metrics},
            "control": {"port": control},
            "admission": {
                "max_queue_wait_s": 0.08,
                "max_in_flight_per_caller": 2048,
                "max_in_flight_per_model": 2048,
            },
            "telemetry": {"log_level": "error"},
            "inference": {"engine": "local", "device": "cpu"},
        }
    )


async def serve(folder: Path) -> None:
    """Runs until SIGTERM."""
    settings = settings_in(folder)
    logs.configure(process="fixed", level=settings.telemetry.log_level)
    directory = DataDirectory.at(settings.data_dir)
    stopping = stop_event()
    with directory.locked():
        directory.prepare()
        path = directory.replica_sockets / "fixed.sock"
        listener = ReplicaListener(
            SleepingModel(),
            replica="fixed",
            place=UnixPlace(path),
            channel=settings.channel,
            run_timeout_s=RUN_TIMEOUT_S,
            clock=SystemClock(),
        )
        worker = Worker(settings, 0)
        await worker.start()
        listener.start()
        try:
            endpoint = ReplicaEndpoint("fixed", VERSION.model, VERSION.version, f"unix:{path}", "n")
            worker.apply(
                Snapshot(1, versions=(VERSION,), policies=(POLICY,), endpoints=(endpoint,))
            )
            while worker.not_ready() is not None:  # noqa: ASYNC110 - a snapshot sets no event
                await asyncio.sleep(0.01)
            _announce(settings.http.port, _token(directory, settings))
            await worker.run(stopping)
        finally:
            await worker.aclose()
            listener.stop()


def _token(directory: DataDirectory, settings: Settings) -> str:
    issuer = LocalIssuer.open(directory.keys, settings.access, SystemClock())
    return issuer.issue(subject="load", roles=[Role.CALLER], ttl_s=TOKEN_LIFETIME_S)


def _announce(port: int, token: str) -> None:
    sys.stdout.write(f"listening {LOOPBACK} {port} {token}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    uvloop.run(serve(parser.parse_args().folder))


if __name__ == "__main__":
    main()
