"""Records in table files, found by what the files' statistics say.

The catalog knows model, version, day and times of each file; a file knows the times of each row group.
So a query opens only files, and reads only row groups, that can hold what it asks for, newest first
where the newest are asked for: the newest hundred of a model are one row group, whatever else there
is. A file that was deleted before it was opened is named in `missing`, never passed over in silence.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serving.core.predictions import PredictionRecord
from serving.errors import LedgerUnavailable
from serving.ledger.catalog import Catalog, TableFile
from serving.ledger.merging import Late, merged
from serving.ledger.places import Place
from serving.ledger.rows import records_of
from serving.ledger.schemas import VersionSchema, version_schemas
from serving.ledger.writing import DEFINITIONS_KEY
from serving.predictionlog.format import Definition
from serving.predictionlog.privacy.subjects import PayloadKeys
from serving.predictionlog.reading.query import Query, sequence_of
from serving.predictionlog.records import read_definition_text

_TEXTS: Final = ("principal", "request_id")


class TableReader:
    """One file of predictions, open. Close it with `close`."""

    def __init__(self, place: Place, file: TableFile) -> None:
        """Raises FileNotFoundError, LedgerUnavailable."""
        self._opened = place.open(file.name)
        try:
            self._parquet = pq.ParquetFile(self._opened)
        except (pa.ArrowInvalid, OSError) as error:
            self._opened.close()
            raise LedgerUnavailable(f"{file.name} is no table: {error}") from error
        self._metadata = self._parquet.metadata
        self.definitions = _definitions(self._metadata.metadata)
        schemas = version_schemas(self.definitions)
        self.schema: VersionSchema = schemas[file.model, file.version, file.digest]
        self._time = self._parquet.schema_arrow.get_field_index("time")

    def close(self) -> None:
        self._parquet.close()
        self._opened.close()

    def groups(self, query: Query) -> list[tuple[int, int, int]]:
        """(index, earliest, latest arrival) of each row group that can hold what is asked for."""
        found = []
        for index in range(self._metadata.num_row_groups):
            statistics = self._metadata.row_group(index).column(self._time).statistics
            earliest_ns, latest_ns = statistics.min_raw, statistics.max_raw
            if _in_time(query, earliest_ns, latest_ns):
                found.append((index, earliest_ns, latest_ns))
        return found

    def read(self, group: int) -> pa.Table:
        return self._parquet.read_row_group(group, use_threads=False)


def _definitions(metadata: dict[bytes, bytes]) -> list[Definition]:
    texts = msgspec.json.decode(metadata[DEFINITIONS_KEY], type=list[str])
    return [read_definition_text(text.encode()) for text in texts]


class ColdRecords:
    """One run of a query over the table files of a catalog.

    missing: what was deleted before it was read; complete once `records` ended.
    """

    def __init__(
        self, place: Place, catalog: Catalog, query: Query, *, keys: PayloadKeys | None = None
    ) -> None:
        self._place = place
        self._query = query
        self._keys = keys
        self._log_id = query.prediction_id.partition("-")[0]
        self._files = [file for file in catalog.files if self._concerns(file)]
        self.missing: set[str] = set()

    def streams(self, *, newest_first: bool) -> list[Late[PredictionRecord]]:
        """One for each file, to be merged with others."""
        return [
            Late(
                file.latest_ns if newest_first else file.earliest_ns,
                partial(self._of_file, file, newest_first=newest_first),
            )
            for file in self._files
        ]

    def _concerns(self, file: TableFile) -> bool:
        query = self._query
        return (
            file.dataset == "predictions"
            and query.model in ("", file.model)
            and query.version in ("", file.version)
            and _in_time(query, file.earliest_ns, file.latest_ns)
            and (not self._log_id or any(key.startswith(self._log_id) for key in file.sources))
        )

    def _of_file(self, file: TableFile, *, newest_first: bool) -> Iterator[PredictionRecord]:
        try:
            reader = TableReader(self._place, file)
        except FileNotFoundError:
            self.missing.add(f"{file.model}@{file.version} {file.day}")
            return
        try:
            groups = [
                Late(
                    latest if newest_first else earliest,
                    partial(self._of_group, reader, index, newest_first=newest_first),
                )
                for index, earliest, latest in reader.groups(self._query)
            ]
            yield from merged(groups, newest_first=newest_first)
        finally:
            reader.close()

    def _of_group(
        self, reader: TableReader, group: int, *, newest_first: bool
    ) -> Iterator[PredictionRecord]:
        table = matching(reader.read(group), self._query)
        pieces = _pieces(table, newest_first=newest_first)
        for piece in pieces:
            records = records_of(piece, reader.schema, reader.definitions, keys=self._keys)
            yield from reversed(records) if newest_first else records


def _in_time(query: Query, earliest_ns: int, latest_ns: int) -> bool:
    """Whether anything between the two, both included, can be asked for."""
    after = query.since_ns is None or latest_ns >= query.since_ns
    return after and (query.until_ns is None or earliest_ns < query.until_ns)


def matching(table: pa.Table, query: Query) -> pa.Table:
    """The rows of records that `query` asks for."""
    log_id, _, sequence = query.prediction_id.partition("-")
    wanted: list[pc.Expression] = []
    time = pc.field("time").cast(pa.int64())
    if query.since_ns is not None:
        wanted.append(time >= query.since_ns)
    if query.until_ns is not None:
        wanted.append(time < query.until_ns)
    if query.fate is not None:
        wanted.append(pc.field("fate").cast(pa.string()) == query.fate.name.lower())
    wanted += [
        pc.field(name).cast(pa.string()) == value
        for name in _TEXTS
        if (value := getattr(query, name))
    ]
    if query.prediction_id:
        wanted.append(pc.field("sequence") == pa.scalar(sequence_of(sequence), pa.uint64()))
        wanted.append(pc.field("log_id").cast(pa.string()) == log_id)
    if query.without_subject:
        wanted.append(pc.field("subject").is_null())
    for condition in wanted:
        table = table.filter(condition)
    return table


_FIRST_PIECE_ROWS: Final = 128
_PIECE_GROWTH: Final = 8


def _pieces(table: pa.Table, *, newest_first: bool) -> Iterator[pa.Table]:
    """Parts of whole records, small ones first: most who ask for the newest ask for few."""
    rows = table["row"].fill_null(0).to_numpy()
    starts: Sequence[int] = (rows == 0).nonzero()[0].tolist()
    edges = [*starts, len(table)]
    size, done = _FIRST_PIECE_ROWS, 0
    while done < len(starts):
        count = min(size, len(starts) - done)
        if newest_first:
            first, last = len(starts) - done - count, len(starts) - done
        else:
            first, last = done, done + count
        yield table.slice(edges[first], edges[last] - edges[first])
        done, size = done + count, size * _PIECE_GROWTH
