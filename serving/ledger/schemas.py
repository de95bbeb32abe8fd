"""The columns of the ledger's tables: one schema for each version of a model.

`predictions` has one row for each ROW of a prediction, not one for each record, because that is what
is asked of cold data: a distribution of a feature, a join with outcomes (which name a prediction and
a row), a training set. What the rows of a record share repeats, and costs next to nothing: it is
dictionary- and run-length-encoded (a 64-row record: under 2 bytes a row for all of it). Rejected:
nested lists for each record, which no statistics describe and every query has to take apart first. A
record without rows is one row whose `row` is null.

    prediction_id, row     identify a row; rows: how many the record has
    log_id, sequence       the two halves of the prediction id; a file's range of them is in statistics
    time                   arrival, nanoseconds, UTC without a zone; tables are sorted by it
    fate, reason, principal, request_id, model, version, digest, policy_epoch, queue_us, run_us,
    total_us, batch_id, batch_size, batch_position, trace_id, shadow_of, chosen, part_of, cached
                           as `serving log query --json` calls them; null where that is empty
    subject                keyed hash of the data subject, where the request named one
    payload                `kept`; `sealed`: encrypted; `truncated`: too large, hashes stand for it
    sealed_payload         unless it was kept: the payload as it stands in the log (`payloads`), in
                           the record's first row; what is encrypted there stays so here
    payload_flags,         the flags of its frame, the key's id in hexadecimal, and the number of its
    payload_key,           definition, which the encryption is bound to
    definition_number
    definition             index into the file's `definitions`: datatypes and shapes as they were
    input_…, output_…      the values

VALUES. A tensor with one element a row is one column. One whose elements the model's specification
names (`features`) is a column for each name. Any other is a column of lists, nested as deep as a row's
rank, so that versions with varying shapes have one schema. FP16 and BF16 become FP32, which holds
them exactly; BYTES are binary. A tensor that is recorded as a keyed hash of each row is a binary column
`…_hash`; one that is dropped or encrypted has none. Column names are those of features and tensors with what is no letter,
digit or `_` replaced by `_`; where two would be the same, the tensor's name stands before them.

`outcomes` has one row for each report of a truth, `losses` one for each declared loss.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import pyarrow as pa

from serving.predictionlog.format import Definition, TensorShape

TIME: Final = pa.timestamp("ns")
_TEXT: Final = pa.dictionary(pa.int32(), pa.string())
_FACTS: Final = (
    ("prediction_id", pa.string()), ("row", pa.int32()), ("rows", pa.uint32()), ("log_id", _TEXT),
    ("sequence", pa.uint64()), ("time", TIME), ("fate", _TEXT), ("reason", _TEXT),
    ("principal", _TEXT), ("request_id", pa.string()), ("model", _TEXT), ("version", _TEXT),
    ("digest", _TEXT), ("policy_epoch", pa.uint64()), ("queue_us", pa.uint32()),
    ("run_us", pa.uint32()), ("total_us", pa.uint32()), ("batch_id", pa.uint64()),
    ("batch_size", pa.uint32()), ("batch_position", pa.uint32()), ("trace_id", pa.string()),
    ("shadow_of", pa.string()), ("chosen", pa.bool_()), ("part_of", pa.string()),
    ("cached", pa.bool_()), ("subject", _TEXT), ("payload", _TEXT),
    ("sealed_payload", pa.binary()), ("payload_flags", pa.uint16()), ("payload_key", pa.string()),
    ("definition_number", pa.uint64()), ("definition", pa.int32()),
)  # fmt: skip
FACTS: Final = pa.schema([pa.field(name, kind) for name, kind in _FACTS])
"""What all models' predictions have."""

OUTCOMES: Final = pa.schema(
    [
        pa.field("prediction_id", pa.string()),
        pa.field("row", pa.uint32()),
        pa.field("name", _TEXT),
        pa.field("value", pa.string()),
        pa.field("number", pa.float64()),
        pa.field("observed", TIME),
        pa.field("time", TIME),
        pa.field("revision", pa.uint32()),
        pa.field("model", _TEXT),
        pa.field("principal", _TEXT),
        pa.field("log_id", _TEXT),
        pa.field("sequence", pa.uint64()),
    ]
)
"""value: the truth as JSON. number: the same where it is one, true being 1. time: when it was
reported. log_id, sequence: of the report's own frame."""

LOSSES: Final = pa.schema(
    [
        pa.field("model", _TEXT),
        pa.field("version", _TEXT),
        pa.field("count", pa.uint64()),
        pa.field("since", TIME),
        pa.field("until", TIME),
        pa.field("reason", _TEXT),
        pa.field("time", TIME),
        pa.field("lost_of", _TEXT),
        pa.field("log_id", _TEXT),
        pa.field("sequence", pa.uint64()),
    ]
)
"""time: when the loss was declared. lost_of: log id of the writer that lost them."""

_DELTA: Final = "DELTA_BINARY_PACKED"
ENCODINGS: Final = {
    "prediction_id": "DELTA_BYTE_ARRAY", "request_id": "DELTA_BYTE_ARRAY", "sequence": _DELTA,
    "time": _DELTA, "row": _DELTA, "batch_id": _DELTA,
}  # fmt: skip
"""Of columns that grow along a file; all others are dictionaries, or plain where those grow large."""

ARROW: Final = {
    "BOOL": pa.bool_(), "UINT8": pa.uint8(), "UINT16": pa.uint16(), "UINT32": pa.uint32(),
    "UINT64": pa.uint64(), "INT8": pa.int8(), "INT16": pa.int16(), "INT32": pa.int32(),
    "INT64": pa.int64(), "FP16": pa.float32(), "FP32": pa.float32(), "FP64": pa.float64(),
    "BF16": pa.float32(), "BYTES": pa.binary(),
}  # fmt: skip

Direction = Literal["input", "output"]
HIDDEN: Final = frozenset({"drop", "encrypt"})
"""Treatments of tensors that have no column."""


@dataclass(frozen=True, slots=True)
class ValueColumn:
    """One column of values. element: which of a row's elements, None for the whole row."""

    name: str
    direction: Direction
    tensor: str
    kind: pa.DataType
    element: int | None = None


@dataclass(frozen=True, slots=True)
class VersionSchema:
    """The table of one version. `columns` are its values, in the order of the specification."""

    model: str
    version: str
    digest: str
    columns: tuple[ValueColumn, ...]

    @property
    def arrow(self) -> pa.Schema:
        values = [pa.field(column.name, column.kind) for column in self.columns]
        return pa.schema([*FACTS, *values])

    def of_tensor(self, direction: Direction, tensor: TensorShape) -> list[ValueColumn]:
        """The columns of a tensor; several of one name are kept apart by what they hold."""
        wanted = _kind(tensor)
        return [
            column
            for column in self.columns
            if (column.direction, column.tensor) == (direction, tensor.name)
            and column.kind == wanted
        ]


def version_schemas(definitions: Iterable[Definition]) -> dict[tuple[str, str, str], VersionSchema]:
    """By (model, version, digest); the same for the same set of definitions, in any order."""
    found: dict[tuple[str, str, str], dict[tuple[Direction, str, str], TensorShape]] = {}
    for definition in definitions:
        key = (definition.model, definition.version, definition.digest)
        tensors = found.setdefault(key, {})
        for direction, tensor in directed(definition):
            if tensor.treatment not in HIDDEN:
                tensors.setdefault((direction, tensor.name, str(_kind(tensor))), tensor)
    return {
        key: VersionSchema(*key, _columns([(place[0], t) for place, t in tensors.items()]))
        for key, tensors in found.items()
    }


def directed(definition: Definition) -> list[tuple[Direction, TensorShape]]:
    """Inputs and then outputs, in their order."""
    inputs: list[tuple[Direction, TensorShape]] = [("input", each) for each in definition.inputs]
    return inputs + [("output", each) for each in definition.outputs]


def _kind(tensor: TensorShape) -> pa.DataType:
    """Of one value of the tensor's columns."""
    if tensor.treatment == "hash":
        return pa.binary()
    kind = ARROW[tensor.datatype]
    if tensor.features:
        return kind
    for _ in tensor.shape:
        kind = pa.list_(kind)
    return kind


def _columns(tensors: Sequence[tuple[Direction, TensorShape]]) -> tuple[ValueColumn, ...]:
    short = [_short(direction, tensor) for direction, tensor in tensors]
    taken = Counter(name.lower() for names in short for name in names)
    columns: list[ValueColumn] = []
    used: set[str] = set()
    for (direction, tensor), names in zip(tensors, short, strict=True):
        clash = any(taken[name.lower()] > 1 for name in names)
        for element, name in enumerate(_long(direction, tensor) if clash else names):
            index = element if _is_spread(tensor) else None
            unique = _unused(name, used)
            columns.append(ValueColumn(unique, direction, tensor.name, _kind(tensor), index))
    return tuple(columns)


def _is_spread(tensor: TensorShape) -> bool:
    return bool(tensor.features) and tensor.treatment == "keep"


def _short(direction: Direction, tensor: TensorShape) -> list[str]:
    if _is_spread(tensor):
        return [f"{direction}_{_identifier(name)}" for name in tensor.features]
    return _long(direction, tensor)


def _long(direction: Direction, tensor: TensorShape) -> list[str]:
    head = f"{direction}_{_identifier(tensor.name)}"
    if _is_spread(tensor):
        return [f"{head}_{_identifier(name)}" for name in tensor.features]
    return [f"{head}_hash" if tensor.treatment == "hash" else head]


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _unused(name: str, used: set[str]) -> str:
    unique, count = name, 1
    while unique.lower() in used:
        count += 1
        unique = f"{name}_{count}"
    used.add(unique.lower())
    return unique
