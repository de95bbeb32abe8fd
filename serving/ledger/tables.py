"""From extracted records to Arrow tables: a row for each row of a prediction."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from serving.core.predictions import Fate
from serving.core.tensors import Array, numbers
from serving.ledger.extraction import Predictions
from serving.ledger.schemas import ValueColumn, VersionSchema, directed
from serving.predictionlog.format import KINDS, Flag

_NO_TRACE = bytes(16)
_FATES = {fate.value: fate.name.lower() for fate in Fate}


def predictions_table(group: Predictions, schema: VersionSchema, *, definition: int) -> pa.Table:
    """One group as a table of `schema`, in the order of the group.

    definition: the index of the group's definition in the file that the table goes to.
    """
    rows = group.fixed["rows"].astype(np.int64)
    places = np.maximum(rows, 1)
    record = np.repeat(np.arange(len(rows)), places)
    row = np.arange(int(places.sum())) - np.repeat(np.cumsum(places) - places, places)
    without = rows[record] == 0
    facts = _facts(group, definition)
    columns = {name: _spread(column, record, rows) for name, column in facts.items()}
    columns["row"] = pa.array(row, pa.int32(), mask=without if without.any() else None)
    columns |= _sealed(group, record, row)
    columns |= _values(group, schema, without)
    missing = pa.nulls(len(row))
    arrow = schema.arrow
    return pa.table([columns.get(f.name, missing).cast(f.type) for f in arrow], schema=arrow)


def _spread(column: pa.Array, record: NDArray[np.int64], rows: NDArray[np.int64]) -> pa.Array:
    """A record's fact for each of its rows."""
    return column if (rows <= 1).all() else column.take(pa.array(record))


def _facts(group: Predictions, definition: int) -> dict[str, pa.Array]:
    fixed, count = group.fixed, len(group.fixed)
    described = group.definition
    sequences = fixed["sequence"].tolist()
    parts = (fixed["flags"] & Flag.PART) != 0
    columns = {
        name: pa.array(np.ascontiguousarray(fixed[name]))
        for name in (
            "rows",
            "sequence",
            "policy_epoch",
            "queue_us",
            "run_us",
            "total_us",
            "batch_id",
            "batch_size",
            "batch_position",
        )
    }
    columns |= {
        name: _same(value, count)
        for name, value in (
            ("log_id", group.log_id),
            ("model", described.model),
            ("version", described.version),
            ("digest", described.digest),
        )
    }
    return columns | {
        "prediction_id": pa.array([f"{group.log_id}-{each:x}" for each in sequences], pa.string()),
        "time": pa.array(np.ascontiguousarray(fixed["time_ns"])).cast(pa.timestamp("ns")),
        "fate": _fates(fixed["fate"]),
        "reason": _texts(group.reasons).dictionary_encode(),
        "principal": _texts(group.principals).dictionary_encode(),
        "request_id": _texts(group.request_ids),
        "trace_id": _traces(fixed["trace_id"]),
        "shadow_of": _others(np.where(parts, 0, fixed["shadow_of"]), group.log_id),
        "chosen": pa.array((fixed["flags"] & Flag.CHOSEN) != 0),
        "part_of": _others(np.where(parts, fixed["shadow_of"], 0), group.log_id),
        "cached": pa.array((fixed["flags"] & Flag.CACHED) != 0),
        "definition": pa.array(np.full(count, definition, np.int32)),
    }


def _same(value: str, count: int) -> pa.Array:
    """`value` in every place; empty is null."""
    if not value:
        return pa.nulls(count, pa.dictionary(pa.int32(), pa.string()))
    return pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), pa.array([value]))


def _fates(fates: NDArray[np.uint8]) -> pa.Array:
    names = pa.array([_FATES.get(number, f"fate_{number}") for number in range(256)])
    return names.take(pa.array(fates.astype(np.int64))).dictionary_encode()


def _texts(texts: Sequence[bytes]) -> pa.Array:
    """As UTF-8; what is none is escaped, what is empty is null."""
    if not any(texts):
        return pa.nulls(len(texts), pa.string())
    try:
        found = pa.array(texts, pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        found = pa.array([text.decode("utf-8", "backslashreplace") for text in texts], pa.string())
    if all(texts):
        return found
    return pa.array([text or None for text in found.to_pylist()], pa.string())


def _traces(traces: NDArray[np.void]) -> pa.Array:
    raw = np.ascontiguousarray(traces).tobytes()
    if raw.count(0) == len(raw):
        return pa.nulls(len(traces), pa.string())
    each = [raw[at : at + 16] for at in range(0, len(raw), 16)]
    return pa.array([None if one == _NO_TRACE else one.hex() for one in each], pa.string())


def _others(sequences: NDArray[np.uint64], log_id: str) -> pa.Array:
    """Ids of other predictions that records refer to."""
    if not sequences.any():
        return pa.nulls(len(sequences), pa.string())
    each = [f"{log_id}-{one:x}" if one else None for one in sequences.tolist()]
    return pa.array(each, pa.string())


def _sealed(
    group: Predictions, record: NDArray[np.int64], row: NDArray[np.int64]
) -> dict[str, pa.Array]:
    if not group.sealed:
        return {"payload": _same("kept", len(record))}
    flags = group.fixed["flags"] & ~np.uint16(KINDS)
    each = [group.sealed[index] for index in record.tolist()]
    truncated = ((flags & Flag.DIGESTED) != 0)[record]
    names = pa.array(["sealed", "truncated"]).take(pa.array(truncated.astype(np.int64)))
    payloads = [one.payload if not at else None for one, at in zip(each, row.tolist(), strict=True)]
    return {
        "payload": names.dictionary_encode(),
        "sealed_payload": pa.array(payloads, pa.binary()),
        "payload_flags": pa.array(np.ascontiguousarray(flags)).take(pa.array(record)),
        "payload_key": pa.array([one.key or None for one in each], pa.string()),
        "subject": pa.array([one.subject or None for one in each], pa.string()).dictionary_encode(),
        "definition_number": pa.array(np.ascontiguousarray(group.fixed["definition"])).take(
            pa.array(record)
        ),
    }


def _values(
    group: Predictions, schema: VersionSchema, without: NDArray[np.bool_]
) -> dict[str, pa.Array]:
    found: dict[str, pa.Array] = {}
    for (direction, tensor), array in zip(directed(group.definition), group.values, strict=True):
        if array is not None:
            columns = schema.of_tensor(direction, tensor)
            found |= {column.name: _value_column(column, array) for column in columns}
    if not without.any():
        return found
    place = np.cumsum(~without) - 1
    index = pa.array(place, mask=without)
    return {name: column.take(index) for name, column in found.items()}


def _value_column(column: ValueColumn, array: Array) -> pa.Array:
    array = numbers(array)
    if column.element is not None:
        flat: Any = array.reshape(len(array), -1)[:, column.element]
        return _flat(flat, column.kind)
    return _nested(array, column.kind)


def _flat(values: Array, kind: pa.DataType) -> pa.Array:
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    return pa.array(np.ascontiguousarray(values), kind)


def _nested(array: Array, kind: pa.DataType) -> pa.Array:
    """Lists as deep as the rank of a row."""
    if array.ndim <= 1:
        return _flat(array.reshape(-1), kind)
    inner = _nested(array.reshape(-1, *array.shape[2:]), kind.value_type)
    offsets = np.arange(array.shape[0] + 1, dtype=np.int32) * array.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), inner)
