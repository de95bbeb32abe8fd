"""Case 11 of the benchmark suite: what the prediction log costs as it grows, hot and cold.

    python -m loadtests.ledger                       up to a million records, a minute
    python -m loadtests.ledger --records 10000000    up to ten million: 4 GB of log, some minutes
    python -m loadtests.ledger --quick               up to ten thousand: for CI, not for reporting

Records are J1's (64 numbers in, 8 out, one row), of ten models in turn and of one rare model, one in
ten thousand, made by the product's own encoder and written by its own committer in commits of 32,
handed to the kernel (the disk's share is case 10). At each size the CPU of the next records is
measured, then the time to the newest 100 records of a model, in this process and warm: first in the log,
where nothing was compacted, then in the tables. `random`: the same rows, each with numbers of its own;
32 of 72 bits of a random number cannot be compressed away, so no goal is set for them.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from loadtests import facts
from loadtests.goals import Figures, conclusion, judge, save
from loadtests.payloads import FEATURES, a_row
from loadtests.report import RESULTS, private_folder, tell
from serving.core.clock import SystemClock
from serving.core.predictions import Fate
from serving.ledger.catalog import read_catalog
from serving.ledger.compaction import Compactor
from serving.ledger.places import Folder
from serving.ledger.search import LedgerSearch
from serving.ledger_settings import LedgerSettings
from serving.predictionlog.files import SystemFiles
from serving.predictionlog.format import Definition, TensorShape
from serving.predictionlog.reading.query import Query
from serving.predictionlog.records import BatchFacts, definition_text, encode_predictions
from serving.predictionlog.writing.committer import Committer
from serving.settings import LogSettings
from serving.trust.signatures import SigningKey

SIZES: Final = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
MODELS: Final = 10
RARE: Final = 10_000
BATCH: Final = 32
OUTPUTS: Final = 8
NEWEST: Final = 100
TAG: Final = 0x9C41E7B3
"""Random, as every writer's is: numbers full of zeros are harder to look for."""
STEP_NS: Final = 33_000
RECORD_BYTES: Final = 700
"""Hot and cold together, rounded up."""
MISSED: Final = 1

_clock: Final = SystemClock()


@dataclass(slots=True)
class Request:
    """One row, as the gateway records it."""

    sequence: int
    time_ns: int
    request_id: bytes
    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]
    batch_position: int
    queue_us: int
    total_us: int
    principal: bytes = b"load-test"
    trace_id: bytes = bytes(16)
    rows: int = 1
    shadow_of: int = 0


class Log:
    """A log that grows. random: each record has numbers of its own."""

    def __init__(self, folder: Path, *, random: bool = False) -> None:
        self.records = 0
        self._random = np.random.default_rng(1)
        self._row = a_row().tobytes()
        self._answer = self._random.standard_normal(OUTPUTS).astype("<f4").tobytes()
        self._numbers = random
        self._time_ns = _clock.wall_ns()
        self._committer = Committer(
            folder / "log" / "gateway-0",
            settings=LogSettings(durability="process", min_free_bytes=0),
            clock=_clock,
            files=SystemFiles(),
            log_id=b"loadtest",
            tag=TAG,
            definitions=_definitions(),
            signer=SigningKey.create(),
        )
        self._committer.open()

    def grow(self, records: int) -> float:
        """CPU seconds per record of encoding and appending so many more."""
        spent_ns = 0
        end = self.records + records
        while self.records < end:
            facts_, requests = self._batch()
            began_ns = _clock.thread_ns()
            self._committer.sequence = self.records
            frames = encode_predictions(facts_, requests)
            refusal = self._committer.commit(frames)
            self._committer.absorb()
            spent_ns += _clock.thread_ns() - began_ns
            if refusal is not None:
                raise refusal
            if self._committer.due:
                self._committer.tend(idle=False)
        return spent_ns / 1e9 / records

    def close(self) -> None:
        """Seals what is open."""
        self._committer.close()

    def _batch(self) -> tuple[BatchFacts, list[Request]]:
        number = self.records // BATCH
        rare = number % (RARE // BATCH) == 0
        model = MODELS if rare else number % MODELS
        draws = self._random.integers(100, 900, (BATCH, 2))
        requests = [self._request(at, draws[at].tolist()) for at in range(BATCH)]
        facts_ = BatchFacts(
            TAG << 32 | model, Fate.OK, b"", 1, int(draws[0, 0] // 20), number, BATCH
        )
        return facts_, requests

    def _request(self, place: int, draws: list[int]) -> Request:
        self.records += 1
        self._time_ns += STEP_NS + draws[0]
        row, answer = self._row, self._answer
        if self._numbers:
            numbers = self._random.standard_normal(FEATURES + OUTPUTS).astype("<f4")
            row, answer = numbers[:FEATURES].tobytes(), numbers[FEATURES:].tobytes()
        name = f"{self._random.integers(2**63):016x}".encode()
        return Request(
            self.records, self._time_ns, name, (row,), (answer,), place, draws[0], sum(draws)
        )


def _definitions() -> dict[int, bytes]:
    inputs = (TensorShape("input", "FP32", (FEATURES,)),)
    outputs = (TensorShape("output", "FP32", (OUTPUTS,)),)
    names = [*(f"model-{each}" for each in range(MODELS)), "rare"]
    return {
        TAG << 32 | number: definition_text(Definition(name, "1", "0" * 64, inputs, outputs))
        for number, name in enumerate(names)
    }


def newest(figures: Figures, folder: Path, name: str, *, model: str, times: int) -> None:
    """Median time to the newest hundred records of a model, wherever they are, and its CPU."""
    spent, worked = [], []
    for _ in range(times + 1):
        began_ns, before_ns = _clock.monotonic_ns(), _clock.thread_ns()
        query = Query(model=model, limit=NEWEST, newest_first=True)
        found = list(LedgerSearch(folder / "log", Folder(folder / "cold"), query).records())
        worked.append(_clock.thread_ns() - before_ns)
        spent.append(_clock.monotonic_ns() - began_ns)
        if not found or {record.model for record in found} != {model}:
            raise ValueError(f"{len(found)} records of {model}. This is a bug")
    figures.add(name, float(np.median(spent[1:])) / 1e6)
    figures.add(f"{name}, CPU", float(np.median(worked[1:])) / 1e6)


def compact(folder: Path) -> tuple[float, float]:
    """(CPU seconds per record, bytes per record)."""
    place = Folder(folder / "cold")
    compactor = Compactor(
        folder / "log", place, folder=folder / "work", settings=LedgerSettings(), clock=_clock
    )
    began_ns = _clock.monotonic_ns()
    report = compactor.run(stopping=lambda: False)
    spent_s = (_clock.monotonic_ns() - began_ns) / 1e9
    size = sum(file.bytes for file in read_catalog(place).files)
    return spent_s / report.records, size / report.records


def ledger(folder: Path, *, records: int, times: int, say: Callable[[str], None]) -> Figures:
    """The whole case."""
    figures = Figures("ledger")
    costs = []
    log = Log(folder)
    log.grow(min(records, SIZES[0]))  # Warm.
    for size in _sizes(records):
        log.grow(size - log.records)
        sample = max(size // 10, 400)
        costs.append(min(log.grow(sample // 4) for _ in range(4)))
        figures.add(f"append CPU us per record, {size}", costs[-1] * 1e6)
        newest(figures, folder, f"hot ms for the newest 100, {size}", model="model-3", times=times)
        say(f"{log.records} records")
    figures.add("append CPU of the largest log over the smallest", costs[-1] / costs[0])
    newest(figures, folder, "hot ms for the newest 100 of a model", model="model-3", times=times)
    newest(
        figures, folder, "hot ms for the newest 100 of the rare model", model="rare", times=times
    )
    log.close()
    say("compacting")
    cost_s, size_bytes = compact(folder)
    figures.add("compaction us per record", cost_s * 1e6)
    figures.add("bytes per record, J1 as it is sent", size_bytes)
    newest(figures, folder, "cold ms for the newest 100 of a model", model="model-3", times=times)
    newest(
        figures, folder, "cold ms for the newest 100 of the rare model", model="rare", times=times
    )
    figures.add("records", log.records)
    return figures


def random_rows(folder: Path, *, records: int) -> Figures:
    """What cannot be compressed."""
    figures = Figures("ledger-random")
    log = Log(folder, random=True)
    log.grow(records)
    log.close()
    cost_s, size_bytes = compact(folder)
    figures.add("compaction us per record", cost_s * 1e6)
    figures.add("bytes per record, random rows", size_bytes)
    return figures


def _sizes(records: int) -> Iterator[int]:
    return (size for size in SIZES if size <= records)


def main() -> int:
    """Exit status 1 when a goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    records = SIZES[1] if arguments.quick else arguments.records
    with private_folder(records * RECORD_BYTES) as folder:
        measured = [
            ledger(folder / "same", records=records, times=5 if arguments.quick else 21, say=tell),
            random_rows(folder / "random", records=min(records, 100_000)),
        ]
    verdicts = judge(measured)
    for figures in measured:
        sys.stdout.write(f"{figures.as_text()}\n")
    sys.stdout.write(f"{conclusion(verdicts)}\n")
    if not arguments.quick:
        save({"machine": facts.machine()}, measured, verdicts, folder=RESULTS, name="ledger")
    return MISSED if any(each.missed for each in verdicts) and not arguments.quick else 0


if __name__ == "__main__":
    sys.exit(main())
