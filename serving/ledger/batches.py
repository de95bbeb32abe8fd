"""One batch of a compaction: several segments on their way into table files."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serving.ledger.catalog import Dataset, HeldSegment, TableFile
from serving.ledger.events import losses_table, outcomes_table
from serving.ledger.extraction import extract, walk
from serving.ledger.schemas import LOSSES, OUTCOMES, VersionSchema, version_schemas
from serving.ledger.segments import SegmentDamaged, SegmentExtent, chunks_of, definitions_in
from serving.ledger.tables import predictions_table
from serving.ledger.writing import (
    DEFINITIONS_KEY,
    SOURCES_KEY,
    TableWriter,
    file_sha256,
    sorted_by_time,
)
from serving.ledger_settings import LedgerSettings
from serving.predictionlog.format import Definition
from serving.predictionlog.records import BodyInvalid, definition_text

NS_PER_DAY: Final = 86_400 * 10**9
_BUFFERED_CHUNKS: Final = 4

VersionKey = tuple[str, str, str]


class Interrupted(Exception):
    """Somebody wants this process to end; nothing of the batch counts."""


@dataclass(frozen=True, slots=True)
class Partition:
    """What a table file holds the rows of. day: days since 1970, UTC."""

    dataset: Dataset
    model: str
    version: str
    digest: str
    day: int

    def file_name(self, batch: str) -> str:
        """Below the place of cold data; the same for the same batch."""
        day = day_text(self.day)
        kind = f"{quote(self.version, safe='')}-{self.digest[:12]}-" if self.version else ""
        return f"{self.dataset}/model={quote(self.model, safe='')}/day={day}/{kind}{batch}.parquet"


@dataclass(slots=True)
class Output:
    """One table file on its way: rows not yet written, then the file."""

    writer: TableWriter
    tables: list[pa.Table] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0
    records: int = 0
    sources: set[str] = field(default_factory=set)

    def flush(self, *, last: bool = False) -> None:
        if self.tables:
            self.writer.write(sorted_by_time(self.tables), last=last)
            self.tables, self.rows, self.bytes = [], 0, 0


class Batch:
    """Writes the files of `segments` below `staging`, under the names that they will have."""

    def __init__(
        self, segments: list[SegmentExtent], staging: Path, *, name: str, settings: LedgerSettings
    ) -> None:
        self._segments = segments
        self._staging = staging
        self._name = name
        self._settings = settings
        self._outputs: dict[Partition, Output] = {}
        self._known = {each.key: definitions_in(each) for each in segments}
        everything = {d for known in self._known.values() for d in known.values()}
        self._schemas = version_schemas(sorted(everything, key=definition_text))
        self._listed: dict[VersionKey, list[Definition]] = {}
        for definition in sorted(everything, key=definition_text):
            self._listed.setdefault(_version_of(definition), []).append(definition)
        self._counts: dict[str, tuple[int, int]] = {}
        self._latest_ns: dict[str, int] = {}

    def write(self, stopping: Callable[[], bool] = lambda: False) -> list[TableFile]:
        """All files, written and closed. Raises SegmentDamaged, Interrupted, OSError."""
        for segment in self._segments:
            records = events = 0
            for frames in chunks_of(segment, chunk_bytes=self._settings.chunk_bytes):
                try:
                    counted = self._chunk(segment, frames)
                except BodyInvalid as error:
                    raise SegmentDamaged(f"{segment.key}: {error}") from error
                records, events = records + counted[0], events + counted[1]
                self._spill()
                if stopping():
                    raise Interrupted
            self._counts[segment.key] = (records, events)
        return [self._finish(partition, output) for partition, output in self._outputs.items()]

    def held(self, now_ns: int) -> dict[str, HeldSegment]:
        """What the catalog says of the segments. Call it after `write`."""
        return {
            each.key: HeldSegment(
                *self._counts[each.key], self._latest_ns.get(each.key, 0), each.root, now_ns
            )
            for each in self._segments
        }

    def _chunk(self, segment: SegmentExtent, frames: bytes) -> tuple[int, int]:
        """How many predictions and events there were."""
        known = self._known[segment.key]
        found = walk(frames, known)
        log_id = segment.header.log_id.hex()
        for group in extract(frames, found.predictions, definitions=known, log_id=log_id):
            key = _version_of(group.definition)
            index = self._listed[key].index(group.definition)
            table = predictions_table(group, self._schemas[key], definition=index)
            self._take(segment, "predictions", key, table)
        if found.outcomes:
            for model, table in outcomes_table(frames, found.outcomes, log_id=log_id).items():
                self._take(segment, "outcomes", (model, "", ""), table)
        if found.losses:
            for model, table in losses_table(frames, found.losses, log_id=log_id).items():
                self._take(segment, "losses", (model, "", ""), table)
        return len(found.predictions), len(found.outcomes) + len(found.losses)

    def _take(
        self, segment: SegmentExtent, dataset: Dataset, key: VersionKey, table: pa.Table
    ) -> None:
        for day, part in by_day(table):
            partition = Partition(dataset, *key, day)
            output = self._outputs.get(partition)
            if output is None:
                output = self._outputs[partition] = Output(self._open(partition))
            output.tables.append(part)
            output.rows += len(part)
            output.bytes += part.nbytes
            output.records += count_records(part)
            output.sources.add(segment.key)
            latest_ns = pc.max(part["time"]).cast(pa.int64()).as_py()
            self._latest_ns[segment.key] = max(
                self._latest_ns.get(segment.key, latest_ns), latest_ns
            )
            if output.rows >= self._settings.row_group_rows:
                output.flush()

    def _spill(self) -> None:
        """Bounds what waits for a full row group, however many partitions there are."""
        limit = _BUFFERED_CHUNKS * self._settings.chunk_bytes
        if sum(output.bytes for output in self._outputs.values()) > limit:
            for output in self._outputs.values():
                output.flush()

    def _open(self, partition: Partition) -> TableWriter:
        path = self._staging / partition.file_name(self._name)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = (partition.model, partition.version, partition.digest)
        texts = [definition_text(each).decode() for each in self._listed.get(key, ())]
        sources = {each.key: each.root for each in self._segments}
        return TableWriter(
            path,
            self._schema(partition),
            facts={SOURCES_KEY: sources, DEFINITIONS_KEY: texts},
            group_rows=self._settings.row_group_rows,
        )

    def _schema(self, partition: Partition) -> pa.Schema:
        if partition.dataset == "predictions":
            key = (partition.model, partition.version, partition.digest)
            schema: VersionSchema = self._schemas[key]
            return schema.arrow
        return OUTCOMES if partition.dataset == "outcomes" else LOSSES

    def _finish(self, partition: Partition, output: Output) -> TableFile:
        output.flush(last=True)
        writer = output.writer
        writer.close()
        return TableFile(
            name=partition.file_name(self._name),
            dataset=partition.dataset,
            model=partition.model,
            version=partition.version,
            digest=partition.digest,
            day=day_text(partition.day),
            rows=writer.rows,
            records=output.records,
            earliest_ns=writer.earliest_ns,
            latest_ns=writer.latest_ns,
            bytes=writer.path.stat().st_size,
            sha256=file_sha256(writer.path),
            sources=tuple(sorted(output.sources)),
            committed_ns=0,
        )


def _version_of(definition: Definition) -> VersionKey:
    return definition.model, definition.version, definition.digest


def by_day(table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """The rows of each UTC day, in their order."""
    days = np.floor_divide(table["time"].cast(pa.int64()).to_numpy(), NS_PER_DAY)
    found = np.unique(days)
    if len(found) == 1:
        yield int(found[0]), table
        return
    for day in found:
        yield int(day), table.filter(pa.array(days == day))


def count_records(table: pa.Table) -> int:
    """How many records begin in the table; those of events are its rows."""
    if "row" not in table.column_names or "rows" not in table.column_names:
        return len(table)
    rows = table["row"].fill_null(0).to_numpy()
    return int(np.count_nonzero(rows == 0))


def day_text(day: int) -> str:
    return datetime.fromtimestamp(day * 86_400, UTC).strftime("%Y-%m-%d")
