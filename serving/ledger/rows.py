"""Rows of the `predictions` table back into records, as the log has them."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from serving.core.predictions import Fate, NamedTensor, PredictionRecord
from serving.core.tensors import DTYPES, Array
from serving.ledger.schemas import HIDDEN, ValueColumn, VersionSchema, directed
from serving.predictionlog.format import Definition, TensorShape
from serving.predictionlog.payloads import PayloadView, place_of, read_payload
from serving.predictionlog.privacy.subjects import PayloadKeys

_TEXTS: Final = ("reason", "principal", "request_id", "trace_id", "shadow_of", "part_of", "subject")
_PLAIN: Final = (
    "prediction_id", "sequence", "model", "version", "digest", "policy_epoch", "rows", "queue_us",
    "run_us", "total_us", "batch_id", "batch_size", "batch_position",
)  # fmt: skip
_KINDS: Final = ("chosen", "cached")
_HELD: Final = (
    "payload", "sealed_payload", "payload_flags", "definition", "definition_number", "row",
)  # fmt: skip


def records_of(
    table: pa.Table,
    schema: VersionSchema,
    definitions: Sequence[Definition],
    *,
    keys: PayloadKeys | None,
) -> list[PredictionRecord]:
    """The records of whole records' rows, in their order. keys: open sealed payloads."""
    if not len(table):
        return []
    known = set(table.column_names)
    # A file that is older than a column has none of it.
    facts = {
        name: table[name].to_pylist() if name in known else [None] * len(table)
        for name in (*_PLAIN, *_TEXTS, *_KINDS, *_HELD)
    }
    facts["time_ns"] = table["time"].cast(pa.int64()).to_pylist()
    facts["fate"] = table["fate"].cast(pa.string()).to_pylist()
    starts = [at for at, row in enumerate(facts["row"]) if not row]
    ends = [*starts[1:], len(table)]
    seen = _Values(table, schema, definitions, facts)
    found = []
    for start, end in zip(starts, ends, strict=True):
        fact = {name: values[start] for name, values in facts.items()}
        inputs, outputs = seen.tensors(fact, start, end, keys)
        found.append(_record(fact, inputs, outputs))
    return found


def _record(
    fact: dict[str, Any], inputs: tuple[NamedTensor, ...], outputs: tuple[NamedTensor, ...]
) -> PredictionRecord:
    texts: dict[str, Any] = {name: fact[name] or "" for name in _TEXTS}
    return PredictionRecord(
        time_ns=fact["time_ns"],
        fate=Fate[fact["fate"].upper()],
        inputs=inputs,
        outputs=outputs,
        **{name: fact[name] for name in _PLAIN},
        **texts,
        chosen=bool(fact["chosen"]),
        cached=bool(fact["cached"]),
    )


class _Values:
    """The tensors of a table, built once for all records of a definition."""

    def __init__(
        self,
        table: pa.Table,
        schema: VersionSchema,
        definitions: Sequence[Definition],
        facts: dict[str, list[Any]],
    ) -> None:
        self._definitions = definitions
        self._arrays: dict[int, list[Array | None]] = {}
        self._places = np.zeros(len(table), np.int64)
        which = np.array(facts["definition"])
        seen = np.array([row is not None for row in facts["row"]])
        seen &= np.array([payload == "kept" for payload in facts["payload"]])
        for index in np.unique(which[seen]).tolist():
            chosen = seen & (which == index)
            self._places[chosen] = np.arange(int(chosen.sum()))
            part = table.filter(pa.array(chosen))
            self._arrays[index] = _arrays(part, schema, definitions[index])

    def tensors(
        self, fact: dict[str, Any], start: int, end: int, keys: PayloadKeys | None
    ) -> tuple[tuple[NamedTensor, ...], tuple[NamedTensor, ...]]:
        """Inputs and outputs of the record in rows `start` to `end`."""
        definition = self._definitions[fact["definition"]]
        if fact["payload"] != "kept":
            return _unsealed(fact, definition, keys)
        rows, first = fact["rows"], int(self._places[start])
        tensors = (*definition.inputs, *definition.outputs)
        arrays = self._arrays.get(fact["definition"], [None] * len(tensors))
        shown = []
        for tensor, array in zip(tensors, arrays, strict=True):
            part = None if array is None else array[first : first + rows]
            shown.append(_named(tensor, part, rows))
        count = len(definition.inputs)
        return tuple(shown[:count]), tuple(shown[count:])


def _unsealed(
    fact: dict[str, Any], definition: Definition, keys: PayloadKeys | None
) -> tuple[tuple[NamedTensor, ...], tuple[NamedTensor, ...]]:
    place = place_of(
        sequence=fact["sequence"], time_ns=fact["time_ns"], definition=fact["definition_number"]
    )
    raw = fact["sealed_payload"]
    view = PayloadView(raw, 0, len(raw), fact["payload_flags"], place)
    found = read_payload(view, definition, rows=fact["rows"], keys=keys)
    return found.inputs, found.outputs


def _named(tensor: TensorShape, array: Array | None, rows: int) -> NamedTensor:
    if tensor.treatment == "drop":
        return NamedTensor(tensor.name, "BYTES", np.empty(0, object), "dropped")
    if tensor.treatment == "hash":
        hashes = array if array is not None else np.empty(0, object)
        return NamedTensor(tensor.name, "BYTES", hashes, "hashed")
    if array is None:
        array = np.zeros((rows, *tensor.shape), DTYPES[tensor.datatype])
    return NamedTensor(tensor.name, tensor.datatype, array)


def _arrays(table: pa.Table, schema: VersionSchema, definition: Definition) -> list[Array | None]:
    found: list[Array | None] = []
    for direction, tensor in directed(definition):
        columns = schema.of_tensor(direction, tensor)
        hidden = tensor.treatment in HIDDEN
        found.append(None if hidden else _array(table, columns, tensor))
    return found


def _array(table: pa.Table, columns: Sequence[ValueColumn], tensor: TensorShape) -> Array:
    if tensor.treatment == "hash":
        return _numbers(table[columns[0].name], "BYTES")
    parts = [_numbers(table[column.name], tensor.datatype) for column in columns]
    flat = parts[0] if columns[0].element is None else np.stack(parts, axis=1)
    return flat.reshape(len(table), *tensor.shape)


def _numbers(column: pa.ChunkedArray, datatype: str) -> Array:
    """All elements of a column one behind the other, in the tensor's own type."""
    values = column.combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.nulls(0, values.type)
    while pa.types.is_list(values.type):
        values = values.flatten()
    if datatype == "BYTES":
        elements = np.empty(len(values), object)
        elements[:] = values.to_pylist()
        return elements
    array: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    if datatype == "BF16":
        return (array.view("<u4") >> 16).astype("<u2").view(DTYPES["BF16"])
    return array.astype(DTYPES[datatype], copy=False)
