"""Records for people and for programs.

A JSON number cannot be NaN or infinite, so those become the strings "NaN", "Infinity" and
"-Infinity". An element of BYTES is a string, or `{"base64": ...}` where it is not UTF-8. BF16 is shown
as the number it stands for. In text, characters that a terminal would obey are escaped: callers
choose some of it.
"""

from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np

from serving.core.predictions import NamedTensor, PredictionRecord
from serving.core.tensors import Array, numbers

MAX_ELEMENTS: Final = 1024
"""A longer tensor is cut in JSON unless asked for in full."""

COLUMNS: Final = (
    ("TIME (UTC)", 23),
    ("PREDICTION", 20),
    ("MODEL", 22),
    ("FATE", 14),
    ("PRINCIPAL", 16),
    ("ROWS", 4),
    ("MS", 8),
    ("BATCH", 5),
)


def time_text(time_ns: int) -> str:
    """ISO 8601, UTC, microseconds."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_ns // 1000)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def record_json(record: PredictionRecord, *, full: bool) -> dict[str, Any]:
    """One JSON object. full: long tensors whole, however large."""
    return {
        "prediction_id": record.prediction_id,
        "sequence": record.sequence,
        "time": time_text(record.time_ns),
        "time_ns": record.time_ns,
        "fate": record.fate.name.lower(),
        "reason": record.reason,
        "principal": record.principal,
        "request_id": record.request_id,
        "model": record.model,
        "version": record.version,
        "digest": record.digest,
        "policy_epoch": record.policy_epoch,
        "rows": record.rows,
        "inputs": [tensor_json(tensor, full=full) for tensor in record.inputs],
        "outputs": [tensor_json(tensor, full=full) for tensor in record.outputs],
        "queue_us": record.queue_us,
        "run_us": record.run_us,
        "total_us": record.total_us,
        "batch_id": record.batch_id,
        "batch_size": record.batch_size,
        "batch_position": record.batch_position,
        "trace_id": record.trace_id,
        "shadow_of": record.shadow_of,
        "subject": record.subject,
        "chosen": record.chosen,
        "part_of": record.part_of,
        "cached": record.cached,
    }


def tensor_json(tensor: NamedTensor, *, full: bool) -> dict[str, Any]:
    array = tensor.array
    described = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(array.shape)}
    if tensor.keeping != "kept":
        described["keeping"] = tensor.keeping
    if full or array.size <= MAX_ELEMENTS:
        return {**described, "data": _values(array)}
    return {**described, "data": _values(array.reshape(-1)[:MAX_ELEMENTS]), "truncated": True}


def _values(array: Array) -> Any:  # nested lists as deep as the tensor's rank
    array = numbers(array)
    values = array.tolist()
    if array.dtype.hasobject:
        return _in_text(values)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return _spelled(values)
    return values


def _in_text(values: Any) -> Any:
    if isinstance(values, list):
        return [_in_text(value) for value in values]
    try:
        return values.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(values).decode()}


def _spelled(values: Any) -> Any:
    if isinstance(values, list):
        return [_spelled(value) for value in values]
    if values != values:  # noqa: PLR0124 -- NaN is the number that differs from itself
        return "NaN"
    if values in (float("inf"), float("-inf")):
        return "Infinity" if values > 0 else "-Infinity"
    return values


def heading() -> str:
    return "  ".join(name.ljust(width) for name, width in COLUMNS).rstrip()


def record_line(record: PredictionRecord) -> str:
    """One line under `heading`."""
    fate = record.fate.name.lower() + _kind(record)
    cells = (
        time_text(record.time_ns)[:23].replace("T", " "),
        record.prediction_id,
        f"{record.model}@{record.version}",
        fate,
        record.principal,
        str(record.rows),
        f"{record.total_us / 1000:.2f}",
        str(record.batch_size),
    )
    return "  ".join(
        printable(cell).ljust(width) for cell, (_, width) in zip(cells, COLUMNS, strict=True)
    ).rstrip()


def _kind(record: PredictionRecord) -> str:
    """What sets it apart from a request that was routed and run."""
    if record.shadow_of or record.part_of:
        return " (shadow)" if record.shadow_of else " (part)"
    if record.cached:
        return " (cached)"
    return " (chosen)" if record.chosen else ""


def printable(text: str) -> str:
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
