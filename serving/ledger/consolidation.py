"""Small table files of one version and day become one, so that a quiet model is not a thousand files.

Files of about one size (within a factor of 8) are joined 8 at a time, until one has `ledger.merge_bytes`:
so each row is written again a few times and no more, however long the day. Nothing is lost or found
twice: the new file is read back and must hold the rows, records, sequences and times that the old ones
did; then the catalog takes it in place of all of them at once, and they are deleted after the grace
that every reader has.

A crash. The name of the new file follows from those of the old ones and is written down before the file
is made: one that the catalog does not know is deleted by the next run. Where retention, or another
node, was faster the new file is given up. A file whose columns mean something else than those of its
neighbours stays as it is.
"""

import hashlib
import logging
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from serving.core.clock import Clock
from serving.ledger.batches import NS_PER_DAY, Output, Partition
from serving.ledger.catalog import Catalog, TableFile, change_catalog, read_catalog
from serving.ledger.places import Place
from serving.ledger.schemas import LOSSES, OUTCOMES, ValueColumn, version_schemas
from serving.ledger.writing import DEFINITIONS_KEY, SOURCES_KEY, TableWriter, file_sha256
from serving.ledger_settings import LedgerSettings
from serving.predictionlog.records import definition_text, read_definition_text
from serving.trust.privatefiles import replace_private

TOGETHER: Final = 8
_SIZE_BITS: Final = 3
_NAME_DIGITS: Final = 15

_log = logging.getLogger(__name__)


class _Intent(msgspec.Struct, frozen=True):
    """The file that is being made."""

    name: str


class _Sum(NamedTuple):
    """What must be the same before and after, whatever the order."""

    rows: int = 0
    sequences: int = 0
    times: int = 0

    def plus(self, table: pa.Table) -> "_Sum":
        sequences = table["sequence"].to_numpy()
        times = table["time"].cast(pa.int64()).to_numpy().view(np.uint64)
        return _Sum(
            self.rows + len(table),
            (self.sequences + int(sequences.sum(dtype=np.uint64))) % 2**64,
            (self.times + int(times.sum(dtype=np.uint64))) % 2**64,
        )


class _Layout(NamedTuple):
    """What the new file looks like. indices: by old file, what its `definition` numbers become."""

    schema: pa.Schema
    definitions: list[str]
    indices: list[list[int]]
    sources: dict[str, str]


class Unlike(Exception):
    """Files whose columns do not go together."""


class Consolidation:
    """Joins files of one place. `folder` holds its intent and the file on its way."""

    def __init__(
        self, place: Place, *, folder: Path, settings: LedgerSettings, clock: Clock
    ) -> None:
        self._place = place
        self._folder = folder
        self._settings = settings
        self._clock = clock
        self._left: set[str] = set()

    def run(self, stopping: Callable[[], bool]) -> int:
        """How many files there are fewer. One at a time: the caller holds a lock.

        Raises LedgerUnavailable, OSError; what was committed stays so.
        """
        self._give_up_unfinished()
        fewer = 0
        while not stopping():
            files = self._choose(read_catalog(self._place))
            if not files:
                break
            try:
                fewer += self._join(files)
            except Unlike as error:
                self._left |= {file.name for file in files}
                _log.warning("ledger: files stay apart: %s", error)
            except FileNotFoundError:
                break  # Retention was faster; the next run sees what is left.
        return fewer

    @property
    def _intent(self) -> Path:
        return self._folder / "merging.json"

    def _give_up_unfinished(self) -> None:
        try:
            name = msgspec.json.decode(self._intent.read_bytes(), type=_Intent).name
        except (FileNotFoundError, msgspec.MsgspecError):
            return
        self._delete_unknown(name, read_catalog(self._place))
        self._intent.unlink(missing_ok=True)

    def _delete_unknown(self, name: str, catalog: Catalog) -> None:
        known = {file.name for file in catalog.files} | {each.name for each in catalog.removed}
        if name not in known:
            self._place.delete(name)

    def _choose(self, catalog: Catalog) -> list[TableFile]:
        """The oldest of the first partition that has enough of one size; none: there is none."""
        alike: dict[tuple[str, ...], list[TableFile]] = defaultdict(list)
        for file in catalog.files:
            if file.bytes < self._settings.merge_bytes and file.name not in self._left:
                size = str(file.bytes.bit_length() // _SIZE_BITS)
                key = (file.dataset, file.model, file.version, file.digest, file.day, size)
                alike[key].append(file)
        for _, files in sorted(alike.items()):
            if len(files) >= TOGETHER:
                return sorted(files, key=lambda file: (file.earliest_ns, file.name))[:TOGETHER]
        return []

    def _join(self, files: Sequence[TableFile]) -> int:
        partition = _partition(files[0])
        name = partition.file_name(_joint_name(files))
        replace_private(self._intent, msgspec.json.encode(_Intent(name)))
        staging = self._folder / "merging"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700, parents=True)
        now_ns = self._clock.wall_ns()
        joint = self._write(files, staging / "joint.parquet", name)
        self._place.upload(name, staging / "joint.parquet")
        names = [file.name for file in files]
        catalog = change_catalog(
            self._place, lambda current: current.with_joint(joint, names, now_ns=now_ns)
        )
        self._delete_unknown(name, catalog)
        self._intent.unlink(missing_ok=True)
        shutil.rmtree(staging, ignore_errors=True)
        return len(files) - 1

    def _write(self, files: Sequence[TableFile], path: Path, name: str) -> TableFile:
        layout = self._layout(files)
        facts: dict[bytes, object] = {SOURCES_KEY: layout.sources}
        facts[DEFINITIONS_KEY] = layout.definitions
        rows = self._settings.row_group_rows
        output = Output(TableWriter(path, layout.schema, facts=facts, group_rows=rows))
        before = _Sum()
        for file, indices in zip(files, layout.indices, strict=True):
            for table in self._groups(file):
                before = before.plus(table)
                output.tables.append(_conformed(table, layout.schema, indices))
                output.rows += len(table)
                if output.rows >= rows:
                    output.flush()
        output.flush(last=True)
        writer = output.writer
        writer.close()
        _check(path, before, rows=sum(file.rows for file in files), name=name)
        return msgspec.structs.replace(
            files[0],
            name=name,
            rows=writer.rows,
            records=sum(file.records for file in files),
            earliest_ns=writer.earliest_ns,
            latest_ns=writer.latest_ns,
            bytes=path.stat().st_size,
            sha256=file_sha256(path),
            sources=tuple(sorted({key for file in files for key in file.sources})),
            committed_ns=max(file.committed_ns for file in files),
        )

    def _groups(self, file: TableFile) -> Iterator[pa.Table]:
        with self._place.open(file.name) as opened, pq.ParquetFile(opened) as parquet:
            for group in range(parquet.num_row_groups):
                yield parquet.read_row_group(group, use_threads=False)

    def _layout(self, files: Sequence[TableFile]) -> _Layout:
        """Raises Unlike."""
        texts: list[list[str]] = []
        sources: dict[str, str] = {}
        for file in files:
            with self._place.open(file.name) as opened:
                metadata = pq.read_metadata(opened).metadata
            texts.append(msgspec.json.decode(metadata[DEFINITIONS_KEY], type=list[str]))
            sources |= msgspec.json.decode(metadata[SOURCES_KEY], type=dict[str, str])
        definitions = sorted({text for each in texts for text in each})
        indices = [[definitions.index(text) for text in each] for each in texts]
        schema = _schema(files[0], definitions, texts)
        return _Layout(schema, definitions, indices, sources)


def _schema(
    file: TableFile, definitions: Sequence[str], texts: Sequence[Sequence[str]]
) -> pa.Schema:
    if file.dataset != "predictions":
        return OUTCOMES if file.dataset == "outcomes" else LOSSES
    joint = _columns(file, definitions)
    for each in texts:
        own = _columns(file, each)
        if any(joint.get(name) != column for name, column in own.items()):
            raise Unlike(f"{file.model}@{file.version} {file.day}: columns of other meanings")
    known = [read_definition_text(text.encode()) for text in definitions]
    return version_schemas(sorted(known, key=definition_text))[
        file.model, file.version, file.digest
    ].arrow


def _columns(file: TableFile, texts: Sequence[str]) -> dict[str, ValueColumn]:
    known = [read_definition_text(text.encode()) for text in texts]
    schema = version_schemas(known)[file.model, file.version, file.digest]
    return {column.name: column for column in schema.columns}


def _conformed(table: pa.Table, schema: pa.Schema, indices: Sequence[int]) -> pa.Table:
    """The rows under the columns of the new file; a column that the old one had not is null."""
    held = set(table.column_names)
    columns = []
    for field in schema:
        if field.name not in held:
            columns.append(pa.nulls(len(table), field.type))
        elif field.name == "definition":
            columns.append(pa.array(np.array(indices, np.int32)).take(table["definition"]))
        else:
            columns.append(table[field.name].cast(field.type))
    return pa.table(columns, schema=schema)


def _check(path: Path, before: _Sum, *, rows: int, name: str) -> None:
    """Reads the new file. A difference is a bug, and then the old ones stay. Raises ValueError."""
    after = _Sum()
    with pq.ParquetFile(path) as parquet:
        for group in range(parquet.num_row_groups):
            after = after.plus(parquet.read_row_group(group, columns=["sequence", "time"]))
    if after != before or after.rows != rows:
        raise ValueError(f"{name} would not hold what its parts do. This is a bug")


def _partition(file: TableFile) -> Partition:
    moment = datetime.strptime(file.day, "%Y-%m-%d").replace(tzinfo=UTC)
    day = round(moment.timestamp() * 1e9) // NS_PER_DAY
    return Partition(file.dataset, file.model, file.version, file.digest, day)


def _joint_name(files: Sequence[TableFile]) -> str:
    """The same for the same files; no batch has it, because those have hexadecimal names."""
    names = "\n".join(sorted(file.name for file in files))
    return f"j{hashlib.sha256(names.encode()).hexdigest()[:_NAME_DIGITS]}"
