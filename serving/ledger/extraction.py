"""From verified frames to arrays, many records at a time.

The fixed parts of all predictions of a chunk, and the tensors of those that share a definition, are
taken out of the bytes by numpy: an array of overlapping views, one for each offset at which a frame
could begin, indexed with the offsets at which frames do. That copies each value once and costs no
Python for a record except finding it and its texts (measured by `loadtests/ledger.py`).

Records whose payload is compressed or encrypted, and those with BYTES, whose elements have no fixed
length, are decoded one by one and joined afterwards.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.core.predictions import PredictionRecord
from serving.core.tensors import DTYPES, Array
from serving.predictionlog.format import CRC, HEAD, KINDS, Definition, Flag, FrameType, TensorShape
from serving.predictionlog.payloads import BodyInvalid
from serving.predictionlog.records import (
    FIXED,
    decode_definition,
    decode_fixed,
    decode_prediction,
    sealed_payload,
)

Offsets = NDArray[np.int64]
Payload = Sequence[Array]

FRAME: Final = np.dtype(
    [
        ("length", "<u4"), ("type", "u1"), ("fate", "u1"), ("flags", "<u2"), ("sequence", "<u8"),
        ("time_ns", "<i8"), ("definition", "<u8"), ("shadow_of", "<u8"), ("rows", "<u4"),
        ("queue_us", "<u4"), ("total_us", "<u4"), ("batch_position", "<u4"),
        ("request_id_bytes", "<u4"), ("principal_bytes", "<u2"), ("reason_bytes", "<u2"),
        ("batch_id", "<u8"), ("policy_epoch", "<u8"), ("run_us", "<u4"), ("batch_size", "<u4"),
        ("trace_id", "V16"),
    ]
)  # fmt: skip
"""`records.FIXED` as numpy sees it."""


@dataclass(frozen=True, slots=True)
class Walk:
    """Where the frames of a chunk begin, by type."""

    predictions: Offsets
    outcomes: list[int]
    losses: list[int]


@dataclass(frozen=True, slots=True)
class Sealed:
    """The payload of a record as it stands in its frame. subject, key: hexadecimal, or empty."""

    payload: bytes
    subject: str
    key: str


@dataclass(frozen=True, slots=True)
class Predictions:
    """Those of one chunk that share a definition and what can be seen of them, in file order.

    fixed: shape (records,), of FRAME. values: for each input and then each output what has columns,
    shape (sum of rows, …), or None where there is nothing to see. sealed: one for each record, or
    none at all where payloads were kept.
    """

    definition: Definition
    log_id: str
    fixed: NDArray[np.void]
    principals: list[bytes]
    request_ids: list[bytes]
    reasons: list[bytes]
    values: Sequence[Array | None]
    sealed: Sequence[Sealed] = ()


def walk(frames: bytes, definitions: dict[int, Definition]) -> Walk:
    """Finds the frames of whole verified runs; definitions on the way are added to `definitions`."""
    predictions: list[int] = []
    outcomes: list[int] = []
    losses: list[int] = []
    places = {
        int(FrameType.PREDICTION): predictions,
        int(FrameType.OUTCOME): outcomes,
        int(FrameType.LOSS): losses,
    }
    at, end, unpack = 0, len(frames), HEAD.unpack_from
    while at < end:
        length, kind, _, _, _ = unpack(frames, at)
        if kind in places:
            places[kind].append(at)
        elif kind == FrameType.DEFINITION:
            number, _, definition = decode_definition(frames, at)
            definitions[number] = definition
        at += length
    return Walk(np.array(predictions, np.int64), outcomes, losses)


def extract(
    frames: bytes, offsets: Offsets, *, definitions: Mapping[int, Definition], log_id: str
) -> Iterator[Predictions]:
    """All predictions at `offsets`, in groups. Raises BodyInvalid: this is a bug in their writer."""
    if not len(offsets):
        return
    fixed = _taken(frames, offsets, FRAME)
    for number in np.unique(fixed["definition"]):
        chosen = fixed["definition"] == number
        definition = definitions.get(int(number))
        if definition is None:
            raise BodyInvalid(f"definition {number:x} is missing")
        yield from _of_definition(
            frames, offsets[chosen], fixed[chosen], definition=definition, log_id=log_id
        )


def _of_definition(
    frames: bytes,
    offsets: Offsets,
    fixed: NDArray[np.void],
    *,
    definition: Definition,
    log_id: str,
) -> Iterator[Predictions]:
    tensors = (*definition.inputs, *definition.outputs)
    regular = not definition.treated and all(_is_fixed(tensor) for tensor in tensors)
    hidden = (fixed["flags"] & (Flag.ENCRYPTED | Flag.DIGESTED)) != 0
    plain = ((fixed["flags"] & ~np.uint16(KINDS)) == 0) & regular
    for chosen, read in ((plain, _plain), (hidden, _hidden), (~plain & ~hidden, _one_by_one)):
        if chosen.any():
            yield from read(Group(frames, offsets[chosen], fixed[chosen], definition, log_id))


class Group(NamedTuple):
    """Frames that are read in the same way."""

    frames: bytes
    offsets: Offsets
    fixed: NDArray[np.void]
    definition: Definition
    log_id: str

    def predictions(
        self, values: Sequence[Array | None], sealed: Sequence[Sealed] = ()
    ) -> Predictions:
        texts, _ = _texts(self.frames, self.offsets, self.fixed)
        return Predictions(self.definition, self.log_id, self.fixed, *texts, values, sealed)

    def records(self) -> list[PredictionRecord]:
        """Decoded one by one, without any key."""
        return [
            decode_prediction(self.frames, int(at), definition=self.definition, log_id=self.log_id)
            for at in self.offsets
        ]


def _plain(group: Group) -> Iterator[Predictions]:
    _, starts = _texts(group.frames, group.offsets, group.fixed)
    rows = group.fixed["rows"].astype(np.int64)
    values, ends = _tensors(group.frames, starts, rows, group.definition)
    if not np.array_equal(ends, group.offsets + group.fixed["length"] - CRC.size):
        raise BodyInvalid(f"tensors of {group.definition.model} end at the wrong place")
    yield group.predictions(values)


def _one_by_one(group: Group) -> Iterator[Predictions]:
    yield group.predictions(_columns(group.records()))


def _hidden(group: Group) -> Iterator[Predictions]:
    """Payloads that are encrypted or too large; tensors beside encrypted ones can be seen."""
    tensors = (*group.definition.inputs, *group.definition.outputs)
    sealed = [_seal_of(group.frames, int(at)) for at in group.offsets]
    partly = np.array([bool(each.key) and not each.subject for each in sealed])
    partly &= (group.fixed["flags"] & Flag.DIGESTED) == 0
    for chosen, shows in ((~partly, False), (partly, True)):
        if chosen.any():
            part = group._replace(offsets=group.offsets[chosen], fixed=group.fixed[chosen])
            boxes = [sealed[index] for index in np.flatnonzero(chosen)]
            values = _columns(part.records()) if shows else [None] * len(tensors)
            yield part.predictions(values, boxes)


def _seal_of(frames: bytes, offset: int) -> Sealed:
    fixed = decode_fixed(frames, offset)
    texts = fixed.principal_bytes + fixed.request_id_bytes + fixed.reason_bytes
    payload = frames[offset + FIXED.size + texts : offset + fixed.length - CRC.size]
    box = sealed_payload(frames, offset, fixed)
    return (
        Sealed(payload, box.subject, box.key_id.hex())
        if box is not None
        else Sealed(payload, "", "")
    )


def _columns(records: Sequence[PredictionRecord]) -> list[Array | None]:
    """The tensors of all records, one behind the other; None for those that nothing shows of."""
    found: list[Array | None] = []
    for tensors in zip(*((*each.inputs, *each.outputs) for each in records), strict=True):
        shown = all(tensor.keeping in ("kept", "hashed") for tensor in tensors)
        found.append(np.concatenate([tensor.array for tensor in tensors]) if shown else None)
    return found


def _is_fixed(tensor: TensorShape) -> bool:
    dtype = DTYPES.get(tensor.datatype)
    if dtype is None:
        raise BodyInvalid(f"tensor {tensor.name} has datatype {tensor.datatype}, unknown here")
    return not dtype.hasobject


def _taken(frames: bytes, offsets: Offsets, dtype: np.dtype[np.void]) -> NDArray[np.void]:
    """What stands at `offsets`, copied; all of it lies within `frames`."""
    count = max(len(frames) - dtype.itemsize + 1, 0)
    if len(offsets) and int(offsets.max()) >= count:
        raise BodyInvalid("a record is longer than its frame")
    views: NDArray[np.void] = np.ndarray(count, dtype, frames, strides=(1,))
    return views[offsets]


def _texts(
    frames: bytes, offsets: Offsets, fixed: NDArray[np.void]
) -> tuple[tuple[list[bytes], list[bytes], list[bytes]], Offsets]:
    """Principals, request ids and reasons; and where the tensors begin."""
    at = offsets + FIXED.size
    found: list[list[bytes]] = []
    for name in ("principal_bytes", "request_id_bytes", "reason_bytes"):
        ends = at + fixed[name]
        spans = zip(at.tolist(), ends.tolist(), strict=True)
        found.append(
            [frames[start:end] for start, end in spans] if (ends > at).any() else [b""] * len(at)
        )
        at = ends
    return (found[0], found[1], found[2]), at


def _tensors(
    frames: bytes, starts: Offsets, rows: Offsets, definition: Definition
) -> tuple[Payload, Offsets]:
    """The tensors of records whose payloads begin at `starts`, rows first; and where they end."""
    total = int(rows.sum())
    record = np.repeat(np.arange(len(rows)), rows)
    row = np.arange(total) - np.repeat(np.cumsum(rows) - rows, rows)
    values: list[Array] = []
    at = starts
    for tensor in (*definition.inputs, *definition.outputs):
        dtype = DTYPES[tensor.datatype]
        row_bytes = math.prod(tensor.shape) * dtype.itemsize
        shape = (total, *tensor.shape)
        if row_bytes:
            raw = _taken(frames, at[record] + row * row_bytes, np.dtype(f"V{row_bytes}"))
            values.append(raw.view(dtype).reshape(shape))
        else:
            values.append(np.zeros(shape, dtype))
        at = at + rows * row_bytes
    return values, at
