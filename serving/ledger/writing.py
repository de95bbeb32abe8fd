"""Writing table files: Parquet, zstd, one partition each.

Rows stand in the order of `time` within each chunk of the log; a chunk is one or more row groups, and
two neighbouring chunks overlap by what was in flight between them. So the statistics of `time` tell
readers which row groups to look at, and no file has to be sorted as a whole, which would take its size
in memory. A row group holds whole records, and the last one of a file is small, because most who ask
for the newest records ask for few.

Floating-point values are stored byte by byte (BYTE_STREAM_SPLIT) before they are compressed: incompressible ones
take 260 instead of 335 bytes for 72 of them, and half the time (100,000 records, zstd 1, which no
higher level improved on). Everything else is a dictionary where that is small.
"""

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from serving.ledger.schemas import ENCODINGS

COMPRESSION: Final = "zstd"
LEVEL: Final = 1
TAIL_ROWS: Final = 1024
SOURCES_KEY: Final = b"serving.sources"
DEFINITIONS_KEY: Final = b"serving.definitions"
_SPLIT: Final = "BYTE_STREAM_SPLIT"


class TableWriter:
    """One file on its way. Close it with `close`.

    facts: goes into the file's metadata, as JSON by key.
    """

    def __init__(
        self, path: Path, schema: pa.Schema, *, facts: dict[bytes, object], group_rows: int
    ) -> None:
        metadata = {key: msgspec.json.encode(value) for key, value in facts.items()}
        self.path = path
        self.rows = 0
        self.earliest_ns = 0
        self.latest_ns = 0
        self._schema = schema.with_metadata(metadata)
        self._group_rows = group_rows
        encodings, dictionaries = _encodings(schema)
        self._writer = pq.ParquetWriter(
            path,
            self._schema,
            compression=COMPRESSION,
            compression_level=LEVEL,
            use_dictionary=dictionaries,
            column_encoding=encodings,
            write_statistics=True,
            write_page_checksum=True,
            sorting_columns=[pq.SortingColumn(schema.get_field_index("time"))],
        )

    def write(self, table: pa.Table, *, last: bool = False) -> None:
        """table: sorted by time, of whole records. last: it is the last one of the file."""
        times = table["time"].cast(pa.int64())
        earliest_ns, latest_ns = times[0].as_py(), times[-1].as_py()
        first = self.rows == 0
        self.earliest_ns = earliest_ns if first else min(self.earliest_ns, earliest_ns)
        self.latest_ns = latest_ns if first else max(self.latest_ns, latest_ns)
        self.rows += len(table)
        table = table.replace_schema_metadata(self._schema.metadata)
        for start, end in pairwise(self._edges(table, last=last)):
            self._writer.write_table(table.slice(start, end - start), row_group_size=end - start)

    def _edges(self, table: pa.Table, *, last: bool) -> list[int]:
        """Where row groups begin and end: every so many rows, never within a record."""
        wanted = np.arange(0, len(table), self._group_rows)
        if last:
            wanted = np.append(wanted, max(len(table) - TAIL_ROWS, 0))
        begins = _begins(table)
        edges = begins[np.searchsorted(begins, wanted, side="right") - 1]
        return [*np.unique(edges).tolist(), len(table)]

    def close(self) -> None:
        self._writer.close()


def _begins(table: pa.Table) -> NDArray[np.int64]:
    """Rows that a record begins with."""
    if "rows" not in table.column_names:
        return np.arange(len(table))
    return np.flatnonzero(table["row"].fill_null(0).to_numpy() == 0)


def _encodings(schema: pa.Schema) -> tuple[dict[str, str], list[str]]:
    """How each leaf is encoded, and which leaves are dictionaries."""
    encodings: dict[str, str] = {}
    dictionaries: list[str] = []
    for field in schema:
        leaf, kind = _leaf(field.name, field.type)
        if field.name in ENCODINGS:
            encodings[leaf] = ENCODINGS[field.name]
        elif pa.types.is_floating(kind):
            encodings[leaf] = _SPLIT
        elif not pa.types.is_boolean(kind):
            dictionaries.append(leaf)
    return encodings, dictionaries


def _leaf(name: str, kind: pa.DataType) -> tuple[str, pa.DataType]:
    while pa.types.is_list(kind):
        name, kind = f"{name}.list.element", kind.value_type
    return name, kind


def sorted_by_time(tables: Sequence[pa.Table]) -> pa.Table:
    """One table of all rows; those that arrived together in the order in which they came."""
    table = pa.concat_tables(tables).combine_chunks()
    order = pc.sort_indices(table, sort_keys=[("time", "ascending")])
    return table.take(order)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
