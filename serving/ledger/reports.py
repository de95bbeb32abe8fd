"""Outcomes in files: CSV, JSON lines and Parquet, one report a row, as the outcomes route takes them.

Columns, or members: `prediction_id`, `name`, `value`, and where they are known `row`, `revision` and
`observed_at`. In CSV an empty value is null, `true` and `false` are booleans, what reads as a number
is one, and everything else is a text; a number that is meant as a text needs JSON lines or Parquet.
"""

import csv
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from serving.errors import OutcomeInvalid

MEMBERS: Final = ("prediction_id", "row", "name", "value", "observed_at", "revision")
_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_WHOLE: Final = re.compile(r"[+-]?\d{1,18}")
_WORDS: Final[Mapping[str, bool | None]] = {"": None, "true": True, "false": False}

Report = dict[str, Any]


def reports_in(path: Path) -> Iterator[Report]:
    """The reports of a file, in order, read as they are asked for. Raises OutcomeInvalid, OSError."""
    read = _READERS.get(path.suffix)
    if read is None:
        raise OutcomeInvalid(f"{path} is none of {', '.join(_READERS)}")
    return read(path)


def _of_csv(path: Path) -> Iterator[Report]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        _check(path, rows.fieldnames or ())
        for row in rows:
            yield _of_texts(row, f"{path} line {rows.line_num}")


def _of_texts(row: Mapping[str, str | None], place: str) -> Report:
    report: Report = {key: text for key, text in row.items() if text and key != "value"}
    report |= {key: _whole(place, report[key]) for key in ("row", "revision") if key in report}
    return report | {"value": _value(row.get("value") or "")}


def _of_lines(path: Path) -> Iterator[Report]:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                report = decode(line)
            except msgspec.MsgspecError as error:
                raise OutcomeInvalid(f"{path} line {number} is no JSON object: {error}") from error
            yield report


def _of_parquet(path: Path) -> Iterator[Report]:
    try:
        with pq.ParquetFile(path) as file:
            _check(path, file.schema_arrow.names)
            columns = [name for name in file.schema_arrow.names if name in MEMBERS]
            for batch in file.iter_batches(batch_size=4096, columns=columns):
                yield from map(_of_values, batch.to_pylist())
    except pa.ArrowException as error:
        raise OutcomeInvalid(f"{path} is no Parquet file: {error}") from error


def _of_values(row: Report) -> Report:
    report = {key: value for key, value in row.items() if value is not None or key == "value"}
    observed = report.get("observed_at")
    if isinstance(observed, datetime):
        zoned = observed if observed.tzinfo is not None else observed.replace(tzinfo=UTC)
        report["observed_at"] = zoned.isoformat()
    return report


_READERS: Final[dict[str, Callable[[Path], Iterator[Report]]]] = {
    ".csv": _of_csv,
    ".jsonl": _of_lines,
    ".parquet": _of_parquet,
}


def _check(path: Path, names: Collection[str]) -> None:
    missing = [each for each in ("prediction_id", "name", "value") if each not in names]
    if missing:
        raise OutcomeInvalid(f"{path} has no column {', '.join(missing)}; permitted: {MEMBERS}")


def _value(text: str) -> str | int | float | bool | None:
    if text in _WORDS:
        return _WORDS[text]
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else text


def _whole(place: str, text: str) -> int:
    if not _WHOLE.fullmatch(text):
        raise OutcomeInvalid(f"{place}: {text[:64]!r} is no whole number")
    return int(text)
