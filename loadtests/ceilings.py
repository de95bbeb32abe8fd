"""What the machine can do at best: the model alone, the disk alone.

`RawModel` is ONNX Runtime without anything around it, with the options that the product gives it:
one thread, no spinning, sequential, fully optimised. It is the ceiling of batching and the oracle
for answers. `sync_rate` appends what a record is long and syncs, once after the other, on the disk
that the prediction log of this run is on. The floors of HTTP are in `fixed_answer`.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
import onnxruntime  # type: ignore[import-untyped]  # it ships no types
from numpy.typing import NDArray

from loadtests import models
from loadtests.payloads import FEATURES
from serving.core.clock import SystemClock
from serving.registry.folder import DEFAULT_MODELS_DIR
from serving.registry.specification import FILE_NAME, read_specification

BATCH_SIZES: Final = (1, 2, 4, 8, 16, 24, 32, 48, 64)
RECORD_BYTES: Final = 450
PASSES: Final = 3

_clock: Final = SystemClock()


@dataclass(frozen=True, slots=True)
class RunRate:
    """How fast a model runs batches of one size. seconds: measured time; cpu_s: of this thread."""

    batch_rows: int
    rows: int
    seconds: float
    cpu_s: float
    run_ms: tuple[float, ...]

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.seconds

    @property
    def p50_ms(self) -> float:
        return median(self.run_ms)


@dataclass(frozen=True, slots=True)
class SyncRate:
    """Appends that were synced one by one. file_system: as the kernel names it."""

    syncs_per_s: float
    p50_ms: float
    p99_ms: float
    file_system: str


class RawModel:
    """One benchmark model in ONNX Runtime, in this thread."""

    def __init__(self, artifact: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            artifact, options, providers=["CPUExecutionProvider"]
        )

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """rows: shape (n, 64). Returns shape (n, 8)."""
        output: NDArray[np.float32] = self._session.run(["output"], {"input": rows})[0]
        return output

    def rate(self, batch_rows: int, *, seconds: float) -> RunRate:
        """Runs batches of that size back to back for that long, after one that does not count."""
        rows = np.random.default_rng(seed=2).standard_normal((batch_rows, FEATURES), np.float32)
        self.run(rows)
        run_ms = []
        cpu_ns = _clock.thread_ns()
        began_ns = before_ns = _clock.monotonic_ns()
        end_ns = began_ns + round(seconds * 1e9)
        while before_ns < end_ns:
            self.run(rows)
            now_ns = _clock.monotonic_ns()
            run_ms.append((now_ns - before_ns) / 1e6)
            before_ns = now_ns
        return RunRate(
            batch_rows=batch_rows,
            rows=batch_rows * len(run_ms),
            seconds=(before_ns - began_ns) / 1e9,
            cpu_s=(_clock.thread_ns() - cpu_ns) / 1e9,
            run_ms=tuple(run_ms),
        )

    def sweep(self, *, seconds: float) -> list[RunRate]:
        """The best of some passes for every batch size, `seconds` for each pass and size."""
        passes = [
            [self.rate(batch_rows, seconds=seconds) for batch_rows in BATCH_SIZES]
            for _ in range(PASSES)
        ]
        return [max(rates, key=lambda rate: rate.rows_per_s) for rates in zip(*passes, strict=True)]


def artifact_of(model: str) -> Path:
    """The benchmark model's file, made now when it is not there yet."""
    (version,) = read_specification(DEFAULT_MODELS_DIR / model / FILE_NAME).versions
    path = DEFAULT_MODELS_DIR / model / version.file
    return path if path.exists() else models.write(model, DEFAULT_MODELS_DIR)


def sync_rate(folder: Path, *, seconds: float) -> SyncRate:
    """Appends and fdatasyncs in `folder`, one after the other, for that long."""
    path = folder / "sync"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    record = bytes(RECORD_BYTES)
    waits_ms = []
    began_ns = before_ns = _clock.monotonic_ns()
    try:
        while before_ns - began_ns < seconds * 1e9:
            os.write(descriptor, record)
            os.fdatasync(descriptor)
            now_ns = _clock.monotonic_ns()
            waits_ms.append((now_ns - before_ns) / 1e6)
            before_ns = now_ns
    finally:
        os.close(descriptor)
        path.unlink()
    p50_ms, p99_ms = (float(value) for value in np.percentile(waits_ms, (50, 99)))
    elapsed_s = (before_ns - began_ns) / 1e9
    return SyncRate(len(waits_ms) / elapsed_s, p50_ms, p99_ms, file_system_of(folder))


def file_system_of(folder: Path) -> str:
    """The type of the file system that `folder` is on, or unknown."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    holding = [mount for mount in mounts if folder.resolve().is_relative_to(mount[1])]
    return max(holding, key=lambda mount: len(mount[1]))[2] if holding else "unknown"


def best_of(sweep: Sequence[RunRate]) -> RunRate:
    """The batch size with the most rows per second."""
    return max(sweep, key=lambda rate: rate.rows_per_s)
