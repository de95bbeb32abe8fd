"""Ledgers for tests: logs with a little of everything, and compactors for them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from serving.core.clock import Clock, SystemClock
from serving.core.predictions import Fate, PredictionRecord
from serving.ledger.compaction import Compactor
from serving.ledger.places import Folder, Place
from serving.ledger.search import LedgerSearch
from serving.ledger_settings import LedgerSettings
from serving.predictionlog.format import Definition, TensorShape
from serving.predictionlog.reading.query import Query
from serving.predictionlog.reading.rendering import record_json
from serving.predictionlog.records import definition_text, encode_predictions
from tests.logs import DEFINITIONS, NOW_NS, TAG, Request, a_committer, a_request, facts

DAY_NS = 86_400 * 10**9
SMALL = LedgerSettings(chunk_bytes=4096, row_group_rows=64, commit_bytes=1)
"""Many chunks, many row groups, one segment in each commit."""
LEDGER = LedgerSettings()

CENSUS = Definition(
    "census-employment",
    "1",
    "cd" * 32,
    (TensorShape("input", "FP32", (3,), ("AGEP", "SCHL", "MAR")),),
    (TensorShape("label", "INT64", ()), TensorShape("probabilities", "FP32", (2,))),
)
MIXED = Definition(
    "mixed",
    "7",
    "ef" * 32,
    (
        TensorShape("text", "BYTES", ()),
        TensorShape("half", "FP16", (2,)),
        TensorShape("brain", "BF16", (2, 2)),
        TensorShape("yes", "BOOL", ()),
        TensorShape("big", "UINT64", (1,)),
    ),
    (TensorShape("out", "FP64", (2,)),),
)
CENSUS_NUMBER, MIXED_NUMBER, FAILED_NUMBER = TAG << 32 | 2, TAG << 32 | 3, TAG << 32 | 4
CENSUS_FAILED = Definition("census-employment", "1", "cd" * 32, CENSUS.inputs, ())
KNOWN = {
    **DEFINITIONS,
    CENSUS_NUMBER: definition_text(CENSUS),
    MIXED_NUMBER: definition_text(MIXED),
    FAILED_NUMBER: definition_text(CENSUS_FAILED),
}


def a_census_request(sequence: int, *, rows: int = 1, time_ns: int = NOW_NS) -> Request:
    """The person's age is the sequence."""
    values = np.tile(np.array([sequence, 2, 3], "<f4"), (rows, 1))
    labels, chances = np.arange(rows, dtype="<i8"), np.full((rows, 2), 0.5, "<f4")
    return Request(
        sequence,
        (values.tobytes(),),
        (labels.tobytes(), chances.tobytes()),
        time_ns=time_ns,
        rows=rows,
    )


def a_mixed_request(sequence: int, *, time_ns: int = NOW_NS) -> Request:
    """One row of many datatypes."""
    text = f"text {sequence}".encode()
    inputs = (
        len(text).to_bytes(4, "little") + text,
        np.array([1.5, -2], "<f2").tobytes(),
        np.array([0x3F80, 0x4000, 0xC000, 0x7FC0], "<u2").tobytes(),
        b"\1",
        np.array([2**64 - 1], "<u8").tobytes(),
    )
    return Request(sequence, inputs, (np.array([np.nan, np.inf]).tobytes(),), time_ns=time_ns)


def write_log(
    root: Path, *, workers: int = 2, steps: int = 40, days: int = 2, name: str = "worker"
) -> None:
    """Sealed segments of two workers and three models over some days, failures among them."""
    for worker in range(workers):
        log_id = f"{name}-{worker}".encode()
        committer = a_committer(root / f"gateway-{worker}", definitions=KNOWN, log_id=log_id)
        for step in range(steps):
            at = NOW_NS + step * days * DAY_NS // steps + worker
            first = step * 4 + 1
            committer.commit(encode_predictions(facts(), [a_request(first, time_ns=at)]))
            census = a_census_request(first + 1, rows=step % 3 + 1, time_ns=at + 10)
            committer.commit(encode_predictions(facts(CENSUS_NUMBER), [census]))
            mixed = a_mixed_request(first + 2, time_ns=at + 20)
            committer.commit(encode_predictions(facts(MIXED_NUMBER), [mixed]))
            failed = a_census_request(first + 3, time_ns=at + 30)
            failed.outputs, failed.principal = (), b"=evil"
            late = facts(FAILED_NUMBER, fate=Fate.TIMEOUT, reason=b"deadline_exceeded")
            committer.commit(encode_predictions(late, [failed]))
        committer.close()


def a_compactor(
    root: Path,
    *,
    place: Place | None = None,
    settings: LedgerSettings = SMALL,
    clock: Clock | None = None,
) -> Compactor:
    """Of the log at `root/log`, into `root/cold`."""
    return Compactor(
        root / "log",
        place or Folder(root / "cold"),
        folder=root / "ledger",
        settings=settings,
        clock=clock or SystemClock(),
    )


def compact(root: Path, *, place: Place | None = None, settings: LedgerSettings = SMALL) -> int:
    """How many records were moved."""
    return a_compactor(root, place=place, settings=settings).run(stopping=never).records


def never() -> bool:
    return False


def found(root: Path, query: Query = Query(), *, place: Place | None = None) -> list[str]:  # noqa: B008 -- frozen
    """What a query gives, hot and cold together, as JSON texts."""
    search = LedgerSearch(root / "log", place or Folder(root / "cold"), query)
    texts = as_texts(list(search.records()))
    assert (search.damaged, search.missing) == (set(), set())
    return texts


def as_texts(records: Sequence[PredictionRecord]) -> list[str]:
    """Comparable, NaN included."""
    return [str(record_json(record, full=True)) for record in records]
