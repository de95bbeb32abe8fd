"""Runs batches one at a time: isolates failing rows, ends runs that last too long.

A run that lasts longer than `run_timeout_s` is terminated by a watchdog, a thread of its own, and its
rows fail without bisection: they would hang again. A runner that has to be terminated time after time
or does not react is stuck, and says so to whoever asks for its health. A device that is lost (`ailments`)
is used no more.
"""

import threading
from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from serving.core.batches import RowFailure
from serving.core.clock import Clock
from serving.core.models import ModelVersion
from serving.core.tensors import Array
from serving.errors import ModelFailed, OutOfMemory, OutputInvalid
from serving.inference.ailments import Ailment, ailment_of
from serving.inference.merging import run_isolating
from serving.inference.padding import Padder

logger = structlog.get_logger()

MAX_OVERDUE_RUNS: Final = 3
"""So many runs in a row that had to be ended: the replica is to be replaced."""


class Runner(Protocol):
    """What runs a batch: one model version on one device."""

    version: ModelVersion
    runs_on_caller: bool
    """The calling thread does all the work, so that its CPU time is what a run costs."""

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Arrays in the order of the version's outputs. Raises ModelFailed."""

    def terminate(self) -> None:
        """Makes the run in progress fail soon; called from another thread."""


class WatchedRunner:
    """A runner under a watchdog, which `start` starts and `join` awaits. Used by one thread."""

    def __init__(self, runner: Runner, *, run_timeout_s: float, clock: Clock) -> None:
        version = runner.version
        self.padder = Padder(version) if version.padding is not None else None
        self.abandoned = False
        self.lost = False
        """Whether the device is lost: nothing that was asked of it has an answer."""
        self._runner = runner
        self._run_timeout_ns = round(run_timeout_s * 1e9)
        self._clock = clock
        self._overdue_runs = 0
        self._run_started_ns: int | None = None
        self._overdue_ns: int | None = None
        self._ended = threading.Event()
        self._watchdog = threading.Thread(target=self._watch, name="replica-watch", daemon=True)

    @property
    def stuck(self) -> bool:
        """Whether run after run had to be ended."""
        return self._overdue_runs >= MAX_OVERDUE_RUNS

    def start(self) -> None:
        self._watchdog.start()

    def end(self) -> None:
        """Lets the watchdog go, once nothing runs any more."""
        self._ended.set()

    def join(self, wait_s: float) -> bool:
        """Waits for `end`, and for the watchdog after it; False when it did not come in time."""
        ended = self._ended.wait(wait_s)
        if ended:
            self._watchdog.join(wait_s)
        return ended

    def abandon(self) -> None:
        """Ends the run in progress; nobody waits for its answer. From any thread."""
        self.abandoned = True
        self._runner.terminate()

    def run(self, inputs: Sequence[Array]) -> tuple[list[Array], dict[int, RowFailure]]:
        """The outputs, and which rows have none; without outputs when no row can be trusted."""
        rows = len(inputs[0])
        version = self._runner.version
        self._run_started_ns = self._clock.monotonic_ns()
        try:
            outputs, failures = run_isolating(self._run_diagnosed, inputs, version=version)
        except OutputInvalid as error:
            terminated = isinstance(error, _Terminated)
            self._overdue_runs = self._overdue_runs + 1 if terminated else 0
            reason = RowFailure.EXPIRED if terminated else RowFailure.INVALID_OUTPUT
            logger.warning("batch failed", model=version.key, rows=rows, error=str(error))
            return [], dict.fromkeys(range(rows), reason)
        finally:
            self._run_started_ns = None
        self._overdue_runs = 0
        return outputs, failures

    def run_once(self, inputs: Sequence[Array]) -> list[Array]:
        """One run as it is. Raises ModelFailed, or OutputInvalid when it had to be ended."""
        try:
            outputs = self._runner.run(inputs)
        except ModelFailed as error:
            if self.abandoned or self._overdue_ns == self._run_started_ns is not None:
                raise _Terminated(error.message) from error
            raise
        except Exception as error:
            # A runner translates its own failures; what it forgot must not end the loop.
            logger.exception("the runner failed", model=self._runner.version.key)
            raise ModelFailed("the runner failed in an unexpected way") from error
        if self.padder is not None:
            self.padder.check(inputs, outputs)
        return outputs

    def _run_diagnosed(self, inputs: Sequence[Array]) -> list[Array]:
        try:
            return self.run_once(inputs)
        except ModelFailed as error:
            ailment = ailment_of(error.__cause__)
            if ailment is Ailment.LOST:
                self.lost = True
                logger.exception("the device is lost", model=self._runner.version.key)
                # Not bisected: every other run would fail as this one did.
                raise OutputInvalid("the device is lost") from error
            if ailment is Ailment.NO_MEMORY:
                raise OutOfMemory("the device has no memory for this batch") from error
            raise

    def _watch(self) -> None:
        """Terminates a run that has lasted too long; sleeps otherwise."""
        period_s = min(1.0, self._run_timeout_ns / 4e9)
        while not self._ended.wait(period_s):
            started_ns = self._run_started_ns
            if started_ns is None:
                continue
            if self._clock.monotonic_ns() - started_ns > self._run_timeout_ns:
                # Names the run that is meant: the next one must not be taken for it.
                self._overdue_ns = started_ns
                self._runner.terminate()


class _Terminated(OutputInvalid):
    """A run that was ended by the watchdog: not bisected, it would hang again."""
