"""The inside of a throw-away process that tries an artifact out before anybody relies on it.

    python -I -m serving.inference.inspection FOLDER

FOLDER holds `order.json` (`reports.InspectionOrder`) and the artifact in `files/`; this process leaves
`report.json` there, and in `stage` what it was at, for the case that it does not live to report. Its
limits are its own first act, after the libraries are loaded: memory, processor time, size of files, no
core, and no parent that it outlives. What the artifact does then harms this process alone.
"""

import ctypes
import math
import os
import resource
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import onnx
import onnxruntime  # type: ignore[import-untyped]  # it ships no types; Any stops in this package

from serving.artifacts.bundles import Bundle, bundle_digest
from serving.core.clock import SystemClock
from serving.core.models import ModelVersion
from serving.core.tensors import MAX_ELEMENTS, Array
from serving.engine_settings import InferenceSettings
from serving.errors import ArtifactInvalid, ModelFailed, OutputInvalid, ServingError
from serving.inference.derivation import derive
from serving.inference.externaldata import check_external_data
from serving.inference.golden import compare_golden, record_golden
from serving.inference.graphrules import MAX_OPERATORS, entry_of, read_model, take_census
from serving.inference.merging import Run, check_outputs
from serving.inference.padding import Padder
from serving.inference.parity import measure_parity
from serving.inference.rehearsal import BatchSizes, Rehearsal
from serving.inference.reports import (
    MAX_REASON_LENGTH,
    BatchCost,
    Code,
    InspectionOrder,
    InspectionReport,
    Rejected,
)
from serving.inference.running import WatchedRunner
from serving.inference.samples import VARIABLE_DIMENSION, zeros
from serving.inference.session import RUNTIME_ERRORS, OnnxSession
from serving.inference.stopwatch import Stopwatch

RUN_S: Final = 5.0
"""A golden vector that takes longer has no answer."""
MAX_FILE_BYTES: Final = 2 * 1024 * 1024
NICENESS: Final = 19
ORDER: Final = "order.json"
REPORT: Final = "report.json"
STAGE: Final = "stage"
FILES: Final = "files"
_RUNS: Final = 3
_SET_PARENT_DEATH_SIGNAL: Final = 1
_MEMORY_WORDS: Final = ("bad_alloc", "Failed to allocate", "std::length_error", "out of memory")


def main(folder: Path) -> None:
    order = msgspec.json.decode((folder / ORDER).read_bytes(), type=InspectionOrder)
    stopwatch = Stopwatch(RUN_S)
    stopwatch.start()
    limit(order)
    began_ns = SystemClock.monotonic_ns()
    inspection = Inspection(order, folder, stopwatch)
    found = inspection.verdict()
    seconds = (SystemClock.monotonic_ns() - began_ns) / 1e9
    found = msgspec.structs.replace(found, seconds=seconds, peak_memory_bytes=_peak_bytes())
    (folder / REPORT).write_bytes(msgspec.json.encode(found))


def limit(order: InspectionOrder) -> None:
    """What this process may take from now on. It cannot raise any of it again."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    os.nice(NICENESS)
    os.umask(0o077)
    memory = _memory("VmSize") + order.memory_bytes
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, order.cpu_s),
        (resource.RLIMIT_FSIZE, MAX_FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(what, (most, most))


class Inspection:
    """One look at one artifact, stage by stage."""

    def __init__(
        self, order: InspectionOrder, folder: Path, stopwatch: Stopwatch | None = None
    ) -> None:
        """stopwatch: None: no run is ended."""
        self._order = order
        self._stopwatch = stopwatch
        self._folder = folder
        self._files = folder / FILES
        self._report = InspectionReport(
            files=order.files, runtime=f"onnxruntime {onnxruntime.__version__}"
        )

    def verdict(self) -> InspectionReport:
        """What was found, whatever it is."""
        try:
            self._run()
        except Rejected as error:
            self._note(code=error.code, reason=error.reason)
        except MemoryError:
            self._note(code="out_of_memory", reason="it takes more memory than permitted")
        except RecursionError:
            self._note(code="invalid_model", reason="it is nested too deep")
        except UnicodeDecodeError:
            self._note(code="invalid_model", reason="it holds names that are no text")
        return self._report

    def _run(self) -> None:
        """Raises Rejected, MemoryError, RecursionError, UnicodeDecodeError."""
        self._enter("reading")
        entry = entry_of(self._order.files)
        model = read_model(self._files / entry)
        census = take_census(model, self._order.domains)
        self._note(
            ir_version=model.ir_version,
            opsets={each.domain: each.version for each in model.opset_import},
            operators=dict(census.operators.most_common(MAX_OPERATORS)),
        )
        used = check_external_data(self._files, census.tensors, entry)
        unknown = sorted(self._order.files.keys() - used - {entry})
        if unknown:
            raise Rejected("unknown_file", f"nothing in the model refers to {unknown[0][:200]!r}")
        self._enter("checking")
        check_model(self._files / entry)
        version = self._order.definition or derive(
            model,
            name=self._order.model,
            version=self._order.version,
            digest=bundle_digest(self._order.files),
        )
        self._note(definition=version)
        check_sizes(version)
        del model, census
        self._try(version, entry)

    def _try(self, version: ModelVersion, entry: str) -> None:
        """Loads it as a replica does, and runs it."""
        self._enter("loading")
        bundle = Bundle(
            entry, {path: (self._files / path).read_bytes() for path in self._order.files}
        )
        began_ns = SystemClock.monotonic_ns()
        session = _load(version, bundle)
        self._note(load_s=(SystemClock.monotonic_ns() - began_ns) / 1e9)
        del bundle
        self._enter("warming up")
        clock = SystemClock()
        running = WatchedRunner(session, run_timeout_s=1e6, clock=clock)
        sizes = BatchSizes(version)
        rehearse(Rehearsal(version, running, sizes, cost_ns=clock.monotonic_ns))
        self._note(dependence=sizes.alone if version.batched else "")
        padder = running.padder
        watch = self._stopwatch
        run = checked(session.run if watch is None else partial(watch.run, session), version)
        self._enter("recording golden vectors")
        self._compare(version, run, padder)
        if self._order.parity:
            self._enter("comparing with the source model")
            self._check_parity(version, run, padder)
        self._enter("measuring")
        rows = sizes.longest.sizes
        self._note(
            costs=tuple(cost for size in rows if (cost := _cost(run, version, padder, size)))
        )

    def _compare(self, version: ModelVersion, run: Run, padder: Padder | None) -> None:
        golden = record_golden(run, version, padder)
        differences = compare_golden(self._order.golden, golden, version)
        self._note(golden=golden, differences=differences)
        if differences:
            raise Rejected("answers_changed", f"not as recorded earlier: {'; '.join(differences)}")

    def _check_parity(self, version: ModelVersion, run: Run, padder: Padder | None) -> None:
        if padder is not None:
            raise Rejected("parity", "rows of a version with padding cannot be compared by file")
        parity = measure_parity(run, version, self._folder / self._order.parity)
        self._note(parity=parity)
        if parity.differing:
            raise Rejected(
                "parity",
                f"{parity.differing} of {parity.rows} rows differ from the source model's answers, "
                f"by up to {parity.largest:g}",
            )

    def _enter(self, stage: str) -> None:
        self._note(stage=stage)
        (self._folder / STAGE).write_text(stage)

    def _note(self, **found: object) -> None:
        self._report = msgspec.structs.replace(self._report, **found)


def check_sizes(version: ModelVersion) -> None:
    """A row of every tensor is one that a request could hold. Raises Rejected."""
    for tensor in (*version.fed, *version.outputs):
        elements = math.prod(max(size, 1) for size in tensor.row_shape)
        if elements > MAX_ELEMENTS:
            raise Rejected(
                "signature", f"{tensor.name[:80]!r} has more than {MAX_ELEMENTS} elements"
            )


def check_model(path: Path) -> None:
    """ONNX's own checker, shapes and types included. Raises Rejected."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        RuntimeError,
        ValueError,
    ) as error:
        raise Rejected("invalid_model", f"the checker: {_line(error)}") from error


def rehearse(rehearsal: Rehearsal) -> None:
    """Raises Rejected."""
    try:
        rehearsal.run()
    except (ArtifactInvalid, ModelFailed, OutputInvalid) as error:
        raise _rejected("warm_up", error) from error


def checked(run: Run, version: ModelVersion) -> Run:
    """Runs whose answers have the form that the version declares. Raises OutputInvalid besides."""

    def run_and_check(inputs: Sequence[Array]) -> list[Array]:
        outputs = run(inputs)
        if version.padding is None:
            check_outputs(outputs, version=version, rows=len(inputs[0]))
        return outputs

    return run_and_check


def _load(version: ModelVersion, bundle: Bundle) -> OnnxSession:
    try:
        return OnnxSession.load(
            version, bundle, settings=InferenceSettings(device="cpu", threads=1)
        )
    except ArtifactInvalid as error:
        runtime = isinstance(error.__cause__, RUNTIME_ERRORS)
        raise _rejected("invalid_model" if runtime else "signature", error) from error


def _rejected(code: Code, error: ServingError) -> Rejected:
    """The rejection, or that memory was the reason."""
    causes = f"{error.message} {error.__cause__}"
    is_memory = isinstance(error.__cause__, MemoryError)
    if is_memory or any(word in causes for word in _MEMORY_WORDS):
        return Rejected("out_of_memory", f"it takes more memory than permitted: {_line(error)}")
    return Rejected(code, _line(error))


def _cost(run: Run, version: ModelVersion, padder: Padder | None, rows: int) -> BatchCost | None:
    length = padder.buckets[-1] if padder is not None else VARIABLE_DIMENSION
    inputs = zeros(version, rows=rows, length=length)
    if padder is not None:
        inputs = padder.merge([inputs], [padder.fit(tuple(each.shape[1:] for each in inputs))])
    before = _forget_peak()
    best = float("inf")
    for _ in range(_RUNS):
        began_ns = SystemClock.monotonic_ns()
        try:
            run(inputs)
        except (ModelFailed, OutputInvalid):
            return None
        best = min(best, (SystemClock.monotonic_ns() - began_ns) / 1e9)
    return BatchCost(rows, best, max(0, _peak_bytes() - before))


def _forget_peak() -> int:
    """What is resident now, from which the peak is counted from now on."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _peak_bytes() -> int:
    return _memory("VmHWM")


def _memory(field: str) -> int:
    """A figure of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            return int(rest.split()[0]) * 1024
    raise LookupError(f"{field} is no figure of a process. This is a bug")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:MAX_REASON_LENGTH]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
