"""The result of a replay: a file of JSON lines, which is the checkpoint of the run that writes it, too.

    {"replay": {…}}                      what was replayed, against what; a run that goes on with the
                                         file must say the same
    {"prediction_id": …, "row": 0, …}    one predicted row: a `ReplayedRow`
    {"prediction_id": …, "failed": true} a record on which the other version failed

The rows of a record are written together. A run that ends without a word leaves a last record that is
not whole: the next one cuts it off, and knows every record that is there. `to_parquet` makes the table
that a comparison reads, values as JSON.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from serving.core.predictions import PredictionRecord
from serving.errors import ParameterInvalid
from serving.predictionlog.outcomes import prediction_key

SYNC_RECORDS: Final = 1000
"""Records that a cut of the power may cost."""
_BATCH_ROWS: Final = 16_384


class ReplayHead(msgspec.Struct, frozen=True):
    """What is replayed, against what. Times are arrival, up to and excluding `until_ns`."""

    model: str
    recorded_version: str
    since_ns: int
    until_ns: int
    against: str
    digest: str
    absolute: float
    relative: float


class ReplayedRow(msgspec.Struct, frozen=True, kw_only=True):
    """One predicted row, as `differences` compares it over all outputs.

    distance: None is infinite. recorded, replayed: by output, None for a long one.
    """

    prediction_id: str
    row: int
    rows: int
    time_ns: int
    version: str
    exact: bool
    within: bool
    flipped: bool
    distance: float | None
    recorded: dict[str, Any]
    replayed: dict[str, Any]


class _Line(msgspec.Struct):
    """What counting and going on need of a line."""

    prediction_id: str = ""
    row: int = 0
    rows: int = 1
    exact: bool = False
    within: bool = False
    flipped: bool = False
    distance: float | None = None
    failed: bool = False
    replay: ReplayHead | None = None


class ReplayCounts(msgspec.Struct):
    """Records and rows of a result. skipped: reason to records of this run.

    largest_distance: of the rows where it is finite.
    """

    records: int = 0
    rows: int = 0
    exact_rows: int = 0
    within_rows: int = 0
    flipped_rows: int = 0
    failed_records: int = 0
    largest_distance: float = 0.0
    skipped: dict[str, int] = {}

    @property
    def differing_rows(self) -> int:
        """Beyond the tolerance."""
        return self.rows - self.within_rows

    def skip(self, reason: str) -> None:
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

    def take(self, line: "_Line | ReplayedRow") -> None:
        """One row more."""
        self.rows += 1
        self.exact_rows += line.exact
        self.within_rows += line.within
        self.flipped_rows += line.flipped
        if line.distance is not None and line.distance != float("inf"):
            self.largest_distance = max(self.largest_distance, line.distance)


class _Seen:
    """Prediction ids in a bit each: the sequences of a log are dense."""

    def __init__(self) -> None:
        self._logs: dict[bytes, bytearray] = {}

    def add(self, prediction_id: str) -> None:
        log_id, sequence = prediction_key(prediction_id)
        bits = self._logs.setdefault(log_id, bytearray())
        place = sequence >> 3
        if place >= len(bits):
            bits.extend(bytes(max(place + 1 - len(bits), len(bits) // 2, 64)))
        bits[place] |= 1 << (sequence & 7)

    def __contains__(self, prediction_id: str) -> bool:
        log_id, sequence = prediction_key(prediction_id)
        bits = self._logs.get(log_id, b"")
        place = sequence >> 3
        return place < len(bits) and bool(bits[place] & 1 << (sequence & 7))


class ResultFile:
    """Writes a result. Use it as a context manager. counts: of all that the file holds."""

    def __init__(self, path: Path, head: ReplayHead, *, resume: bool) -> None:
        """Raises ParameterInvalid when there is a file that this run must not go on with."""
        self.counts = ReplayCounts()
        self._path = path
        self._head = head
        self._resume = resume
        self._seen = _Seen()
        self._unsynced = 0
        self._file: BinaryIO

    def __enter__(self) -> Self:
        exists = self._path.exists() and self._path.stat().st_size > 0
        if exists and not self._resume:
            raise ParameterInvalid(f"{self._path} exists; --resume goes on with it")
        end = self._read() if exists else 0
        self._file = self._path.open("r+b" if exists else "wb")
        self._file.truncate(end)
        self._file.seek(end)
        if not end:
            self._write([{"replay": self._head}])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def holds(self, prediction_id: str) -> bool:
        return prediction_id in self._seen

    def add(self, rows: Sequence[ReplayedRow]) -> None:
        """All rows of one record."""
        for row in rows:
            self.counts.take(row)
        self._add(rows[0].prediction_id if rows else "", rows)

    def failed(self, record: PredictionRecord) -> None:
        self.counts.failed_records += 1
        line = {"prediction_id": record.prediction_id, "failed": True}
        self._add(record.prediction_id, [line])

    def sync(self) -> None:
        """Everything is on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._unsynced = 0

    def _add(self, prediction_id: str, lines: Sequence[object]) -> None:
        self.counts.records += 1
        if prediction_id:
            self._seen.add(prediction_id)
        self._write(lines)
        self._unsynced += 1
        if self._unsynced >= SYNC_RECORDS:
            self.sync()

    def _write(self, lines: Sequence[object]) -> None:
        self._file.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))

    def _read(self) -> int:
        """Takes in what is there; how many bytes of it are whole records."""
        decode = msgspec.json.Decoder(_Line).decode
        whole, at = 0, 0
        lines: list[_Line] = []
        with self._path.open("rb") as file:
            for text in file:
                at += len(text)
                try:
                    line = decode(text)
                except msgspec.MsgspecError:
                    break
                if not text.endswith(b"\n"):
                    break
                if line.replay is not None:
                    self._check(line.replay)
                    whole = at
                    continue
                lines.append(line)
                if line.failed or line.row == line.rows - 1:
                    self._take(lines)
                    lines, whole = [], at
        if not whole:
            raise ParameterInvalid(f"{self._path} is no result of a replay")
        return whole

    def _take(self, lines: Sequence[_Line]) -> None:
        self.counts.records += 1
        self._seen.add(lines[0].prediction_id)
        if lines[0].failed:
            self.counts.failed_records += 1
            return
        for line in lines:
            self.counts.take(line)

    def _check(self, head: ReplayHead) -> None:
        if head != self._head:
            raise ParameterInvalid(
                f"{self._path} is the result of another replay: {msgspec.json.encode(head).decode()}"
            )


_COLUMNS: Final = pa.schema(
    [
        pa.field("prediction_id", pa.string()),
        pa.field("row", pa.int32()),
        pa.field("time", pa.timestamp("ns")),
        pa.field("version", pa.string()),
        pa.field("exact", pa.bool_()),
        pa.field("within", pa.bool_()),
        pa.field("flipped", pa.bool_()),
        pa.field("distance", pa.float64()),
        pa.field("recorded", pa.string()),
        pa.field("replayed", pa.string()),
        pa.field("failed", pa.bool_()),
    ]
)


def to_parquet(result: Path, table: Path) -> None:
    """The rows of a result as a table; what was replayed is in its metadata as `replay`."""
    with result.open("rb") as file:
        head = file.readline().rstrip()
        schema = _COLUMNS.with_metadata({"replay": head})
        with pq.ParquetWriter(table, schema, compression="zstd") as writer:
            for rows in _batches(file):
                writer.write_table(pa.Table.from_pylist(rows, schema))


def _batches(lines: Iterator[bytes]) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    for line in lines:
        row = msgspec.json.decode(line, type=dict[str, Any])
        values = {k: msgspec.json.encode(row.get(k)).decode() for k in ("recorded", "replayed")}
        rows.append({"failed": False, **row, **values, "time": row.get("time_ns")})
        if len(rows) == _BATCH_ROWS:
            yield rows
            rows = []
    if rows:
        yield rows
