"""Runners that are functions, and a gate to hold them in: fits `inference.running.Runner`."""

import threading
from collections.abc import Callable, Sequence

import numpy as np

from serving.core.models import ModelVersion
from serving.core.tensors import Array
from serving.errors import ModelFailed

PATIENCE_S = 10.0


def double(inputs: Sequence[Array]) -> list[Array]:
    return [np.multiply(inputs[0], np.float32(2))]


class FunctionRunner:
    """Runs `function` and keeps what it was given."""

    def __init__(
        self,
        version: ModelVersion,
        function: Callable[[Sequence[Array]], list[Array]] = double,
        *,
        runs_on_caller: bool = False,
    ) -> None:
        self.version = version
        self.runs_on_caller = runs_on_caller
        self.batches: list[Array] = []
        self.terminations = 0
        self.function = function

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        self.batches.append(inputs[0].copy())
        return self.function(inputs)

    def terminate(self) -> None:
        self.terminations += 1

    @property
    def rows(self) -> list[list[float]]:
        """The first column of every batch."""
        return [batch[:, 0].tolist() for batch in self.batches]


class Gate:
    """Holds every run from `close` until `open`; `entered` is set while one is held."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._open = threading.Event()
        self._open.set()

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self.entered.clear()
        self._open.set()

    def __call__(self) -> None:
        """Passes through, now or later."""
        if not self._open.is_set():
            self.entered.set()
            if not self._open.wait(PATIENCE_S):
                raise AssertionError("nobody opened the gate")


class HeldRunner(FunctionRunner):
    """Runs behind a gate; `terminate` makes the run that is held there fail."""

    def __init__(
        self,
        version: ModelVersion,
        function: Callable[[Sequence[Array]], list[Array]] = double,
        *,
        stubborn: bool = False,
    ) -> None:
        """stubborn: `terminate` does not reach it."""
        super().__init__(version, function)
        self.gate = Gate()
        self._stubborn = stubborn
        self._terminated = False

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        self.batches.append(inputs[0].copy())
        self.gate()
        if self._terminated:
            self._terminated = False
            raise ModelFailed("terminated")
        return self.function(inputs)

    def terminate(self) -> None:
        super().terminate()
        if not self._stubborn and self.gate.entered.is_set():
            self._terminated = True
            self.gate.open()
