"""The labelled set of a model in a file: JSON lines, CSV or Parquet."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from serving.ledger.export import cells, neutral
from serving.ledger.joining import Join
from serving.ledger.sql import view_name


def write_labelled(found: Join, model: str, *, output: Path, unlabelled: bool) -> int:
    """How many rows; the file appears whole. `output` ends in one of FORMATS."""
    reader = found.labelled(model, predictions=view_name(model), unlabelled=unlabelled)
    temporary = output.with_name(f".{output.name}.part")
    try:
        rows = _WRITERS[output.suffix](temporary, reader)
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    return rows


def _write_parquet(path: Path, reader: pa.RecordBatchReader) -> int:
    rows = 0
    with pq.ParquetWriter(path, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def _write_csv(path: Path, reader: pa.RecordBatchReader) -> int:
    rows = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([neutral(name) for name in reader.schema.names])
        for batch in reader:
            writer.writerows(zip(*map(cells, batch.columns), strict=True))
            rows += batch.num_rows
    return rows


def _write_lines(path: Path, reader: pa.RecordBatchReader) -> int:
    rows = 0
    with path.open("wb") as file:
        for batch in reader:
            for row in _objects(batch):
                file.write(msgspec.json.encode(row) + b"\n")
            rows += batch.num_rows
    return rows


def _objects(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Bytes become base64 in JSON; times are texts."""
    columns = [
        cells(column) if pa.types.is_timestamp(column.type) else column.to_pylist()
        for column in batch.columns
    ]
    for values in zip(*columns, strict=True):
        yield dict(zip(batch.schema.names, values, strict=True))


_WRITERS: Final[dict[str, Callable[[Path, pa.RecordBatchReader], int]]] = {
    ".csv": _write_csv,
    ".jsonl": _write_lines,
    ".parquet": _write_parquet,
}
FORMATS: Final = tuple(_WRITERS)
