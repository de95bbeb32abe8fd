"""Listeners with runners of the test's making, and gateways that talk to them."""

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from serving.core.clock import Clock, SystemClock
from serving.core.models import BatchLimits, ModelVersion
from serving.core.tensors import Array, TensorSpecification
from serving.errors import ModelFailed
from serving.gateway_settings import ChannelSettings
from serving.inference.listener import BatchTracing, ReplicaListener
from serving.inference.places import UnixPlace
from serving.inference.running import Runner
from tests.inference.peers import Peer, eventually
from tests.inference.runners import HeldRunner, double
from tests.plans import a_version

VERSION = a_version()
VARIABLE = replace(
    VERSION,
    inputs=(TensorSpecification("x", "FP32", (-1, -1)),),
    outputs=(TensorSpecification("y", "FP32", (-1, -1)),),
)
POISON = 666.0
LIMIT = 8 * 1024 * 1024


def of_at_most(rows: int, version: ModelVersion = VERSION) -> ModelVersion:
    return replace(version, batching=BatchLimits(rows))


def poisonable(inputs: Sequence[Array]) -> list[Array]:
    if np.any(inputs[0] == POISON):
        raise ModelFailed("poison")
    return double(inputs)


class World:
    """The listeners and peers of one test; all end with it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "replica.sock"
        self._exit = ExitStack()

    def listen(
        self,
        runner: Runner,
        *,
        clock: Clock | None = None,
        run_timeout_s: float = 60,
        tracing: BatchTracing | None = None,
    ) -> ReplicaListener:
        listener = self.build(runner, clock=clock, run_timeout_s=run_timeout_s, tracing=tracing)
        listener.start()
        self._exit.callback(listener.stop, drain_s=1)
        if isinstance(runner, HeldRunner):
            self._exit.callback(runner.gate.open)
        return listener

    def build(
        self,
        runner: Runner,
        *,
        clock: Clock | None = None,
        run_timeout_s: float = 60,
        tracing: BatchTracing | None = None,
    ) -> ReplicaListener:
        return ReplicaListener(
            runner,
            replica="r-17",
            place=UnixPlace(self.path),
            channel=ChannelSettings(max_message_bytes=LIMIT),
            run_timeout_s=run_timeout_s,
            clock=clock or SystemClock(),
            tracing=tracing,
        )

    def connect(self, version: ModelVersion = VERSION) -> Peer:
        return self._exit.enter_context(Peer(self.path, version))

    def close(self) -> None:
        self._exit.close()


def running(runner: HeldRunner) -> None:
    """Returns when a run waits at the gate."""
    eventually(runner.gate.entered.is_set)


def stopping(listener: ReplicaListener, drain_s: float) -> threading.Thread:
    thread = threading.Thread(target=listener.stop, kwargs={"drain_s": drain_s})
    thread.start()
    return thread


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
