"""Taking records out: Parquet and CSV by model version, JSON lines and CloudEvents as one stream.

Tables come from hot and cold data alike (`hot`), row group by row group, without the columns that only
readers of the ledger need. A CSV cell of text that a spreadsheet would take for a formula is preceded
by an apostrophe: callers choose some of what is in it. Lists are JSON, bytes base64.
"""

import csv
import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from serving.ledger.cold import TableReader, matching
from serving.ledger.hot import AllTables, Located
from serving.ledger.sql import INTERNAL
from serving.ledger.writing import COMPRESSION, LEVEL
from serving.predictionlog.reading.query import Query

TableFormat = Literal["parquet", "csv"]
Version = tuple[str, str, str]

_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(slots=True)
class ExportReport:
    """What was written. missing: what was deleted before it was read."""

    files: list[str]
    rows: int
    missing: list[str]


def export_tables(
    tables: AllTables, query: Query, folder: Path, *, form: TableFormat
) -> ExportReport:
    """One file for each model version with rows that match, `MODEL@VERSION-DIGEST.form`.

    Raises LedgerUnavailable, OSError.
    """
    report = ExportReport([], 0, [])
    versions: dict[Version, list[Located]] = {}
    for each in tables.of("predictions"):
        file = each.file
        if query.model in ("", file.model) and query.version in ("", file.version):
            versions.setdefault((file.model, file.version, file.digest), []).append(each)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for (model, version, digest), located in sorted(versions.items()):
        name = f"{_file_name(model)}@{_file_name(version)}-{digest[:12]}.{form}"
        parts = _parts(sorted(located, key=lambda each: each.file.earliest_ns), query, report)
        schema = _schema(located, report)
        rows = _WRITERS[form](folder / name, parts, schema) if schema is not None else 0
        report.rows += rows
        if rows:
            report.files.append(name)
        else:
            (folder / name).unlink(missing_ok=True)
    return report


def _parts(located: Sequence[Located], query: Query, report: ExportReport) -> Iterator[pa.Table]:
    for each in located:
        try:
            reader = TableReader(each.place, each.file)
        except FileNotFoundError:
            _miss(each, report)
            continue
        try:
            for group, _, _ in reader.groups(query):
                yield matching(reader.read(group), query).drop_columns(list(INTERNAL))
        finally:
            reader.close()


def _schema(located: Sequence[Located], report: ExportReport) -> pa.Schema | None:
    """Of all files of a version together: those of failures alone have no outputs."""
    found = []
    for each in located:
        try:
            with each.place.open(each.file.name) as file:
                found.append(pq.read_schema(file).remove_metadata())
        except FileNotFoundError:
            _miss(each, report)
    if not found:
        return None
    schema = pa.unify_schemas(found)
    return pa.schema([field for field in schema if field.name not in INTERNAL])


def _miss(located: Located, report: ExportReport) -> None:
    file = located.file
    name = f"{file.model}@{file.version} {file.day}"
    if name not in report.missing:
        report.missing.append(name)


def _fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    nothing = pa.nulls(len(table))
    columns = [
        table[field.name] if field.name in table.column_names else nothing.cast(field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _write_parquet(path: Path, parts: Iterator[pa.Table], schema: pa.Schema) -> int:
    rows = 0
    with pq.ParquetWriter(path, schema, compression=COMPRESSION, compression_level=LEVEL) as writer:
        for part in parts:
            if len(part):
                writer.write_table(_fitted(part, schema))
                rows += len(part)
    return rows


def _write_csv(path: Path, parts: Iterator[pa.Table], schema: pa.Schema) -> int:
    rows = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([neutral(name) for name in schema.names])
        for part in parts:
            columns = [cells(column) for column in _fitted(part, schema).columns]
            writer.writerows(zip(*columns, strict=True))
            rows += len(part)
    return rows


_WRITERS: Final = {"parquet": _write_parquet, "csv": _write_csv}


def cells(column: pa.ChunkedArray) -> list[Any]:
    """As CSV has them: times in ISO 8601, lists as JSON, bytes in base64, no formulas."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        texts = column.cast(pa.timestamp("us"), safe=False).cast(pa.string()).to_pylist()
        return [text and f"{text.replace(' ', 'T')}Z" for text in texts]
    values = column.to_pylist()
    if pa.types.is_list(kind):
        return [
            None if value is None else json.dumps(value, default=_in_base64) for value in values
        ]
    if pa.types.is_binary(kind):
        return [None if value is None else neutral(_in_base64(value)) for value in values]
    return [neutral(value) if isinstance(value, str) else value for value in values]


def neutral(text: str) -> str:
    """`text` as a spreadsheet will not run it (OWASP, CSV injection)."""
    return f"'{text}" if text.startswith(_FORMULAS) else text


def _in_base64(value: bytes) -> str:
    return b64encode(value).decode()


def _file_name(text: str) -> str:
    return "".join(each if each.isalnum() or each in "-_." else "_" for each in text)
