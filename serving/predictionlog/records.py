"""Prediction and definition frames: written by the gateway per batch, read by queries.

`encode_predictions` is on the path of every answer: 0.8 us a record for 256 bytes of input and 32
of output, of which 0.2 us is the masked checksum (two busy cores, CPython 3.11). The fields that a
batch shares are packed once for the batch.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import msgspec
from google_crc32c import extend
from google_crc32c import value as checksum

from serving.core.batches import Buffer, TensorBlock
from serving.core.elements import ElementsInvalid, element_ends
from serving.core.predictions import Fate, NamedTensor, PredictionRecord
from serving.core.tensors import DTYPES
from serving.predictionlog.format import (
    CRC,
    HEAD,
    LINK,
    MASK_DELTA,
    Definition,
    TensorShape,
    masked,
)

OWN: Final = struct.Struct("<IBBHQqQQIIIIIHH")
SHARED: Final = struct.Struct("<QQII")
TRACE_BYTES: Final = 16
FIXED: Final = struct.Struct("<IBBHQqQQIIIIIHHQQII16s")
"""`OWN`, `SHARED` and the trace id in one, as readers take them apart."""
KEY: Final = struct.Struct("<qQ")
KEY_OFFSET: Final = HEAD.size
"""Arrival and definition number of a prediction frame: all the writer looks at."""

_LARGE_BYTES: Final = 64 * 1024
_FATES: Final = frozenset(fate.value for fate in Fate)


class Loggable(Protocol):
    """An admitted request whose fate is known; the gateway's calls fit by shape.

    sequence: from `PredictionLogWriter.next_sequence`. time_ns: wall clock at arrival. trace_id: 16
    bytes, zeros for none. shadow_of: the primary's sequence, 0 for none. inputs, outputs: raw
    little-endian buffers, C-contiguous, in the order of the definition.
    """

    @property
    def sequence(self) -> int: ...
    @property
    def time_ns(self) -> int: ...
    @property
    def principal(self) -> bytes: ...
    @property
    def request_id(self) -> bytes: ...
    @property
    def trace_id(self) -> bytes: ...
    @property
    def rows(self) -> int: ...
    @property
    def queue_us(self) -> int: ...
    @property
    def total_us(self) -> int: ...
    @property
    def batch_position(self) -> int: ...
    @property
    def shadow_of(self) -> int: ...
    @property
    def inputs(self) -> Sequence[Buffer]: ...
    @property
    def outputs(self) -> Sequence[Buffer]: ...


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """What the records of one call share.

    definition: from `PredictionLogWriter.define`; one without outputs unless `fate` is OK.
    reason: the error's code, empty when OK.
    """

    definition: int
    fate: Fate
    reason: bytes
    policy_epoch: int
    run_us: int
    batch_id: int
    batch_size: int


def encode_predictions(batch: BatchFacts, requests: Iterable[Loggable]) -> list[bytes]:
    """One frame for each request, in order, ready for `PredictionLogWriter.append`.

    A principal or reason holds at most 65 535 bytes; numbers are 32 or 64 bits as in the format;
    struct.error otherwise. Buffers are copied, not kept.
    """
    shared = SHARED.pack(batch.batch_id, batch.policy_epoch, batch.run_us, batch.batch_size)
    definition, fate, reason = batch.definition, batch.fate.value, batch.reason
    reason_bytes = len(reason)
    pack, join, pack_crc = OWN.pack, b"".join, CRC.pack
    large, delta = _LARGE_BYTES, MASK_DELTA
    frames: list[bytes] = []
    append = frames.append
    for request in requests:
        principal, request_id = request.principal, request.request_id
        body = join(
            (shared, request.trace_id, principal, request_id, reason,
             *request.inputs, *request.outputs)
        )  # fmt: skip
        head = pack(
            OWN.size + len(body) + 4, 2, fate, 0, request.sequence, request.time_ns, definition,
            request.shadow_of, request.rows, request.queue_us, request.total_us,
            request.batch_position, len(request_id), len(principal), reason_bytes,
        )  # fmt: skip
        if len(body) < large:
            frame = head + body
            crc = checksum(frame)
            append(frame + pack_crc(((crc >> 15 | crc << 17) + delta) & 0xFFFFFFFF))
        else:  # one copy less where copies cost milliseconds
            append(join((head, body, masked(extend(checksum(head), body)))))
    return frames


class Fixed(NamedTuple):
    """The fixed part of a prediction frame, in file order; enough to filter by."""

    length: int
    type: int
    fate: int
    zeros: int
    sequence: int
    time_ns: int
    definition: int
    shadow_of: int
    rows: int
    queue_us: int
    total_us: int
    batch_position: int
    request_id_bytes: int
    principal_bytes: int
    reason_bytes: int
    batch_id: int
    policy_epoch: int
    run_us: int
    batch_size: int
    trace_id: bytes


def decode_fixed(frames: bytes, offset: int) -> Fixed:
    """The fixed part of the verified prediction frame at `offset`."""
    return Fixed._make(FIXED.unpack_from(frames, offset))


def principal_of(frames: bytes, offset: int, fixed: Fixed) -> bytes:
    start = offset + FIXED.size
    return frames[start : start + fixed.principal_bytes]


class BodyInvalid(Exception):
    """A verified frame says something its definition does not allow. This is a bug in its writer."""


def decode_prediction(
    frames: bytes, offset: int, *, definition: Definition, log_id: str
) -> PredictionRecord:
    """The record in the verified frame at `offset`; its arrays are views of `frames`."""
    fixed = decode_fixed(frames, offset)
    if fixed.fate not in _FATES:
        raise BodyInvalid(f"fate {fixed.fate} of sequence {fixed.sequence} is not known")
    at = offset + FIXED.size
    texts = []
    for length in (fixed.principal_bytes, fixed.request_id_bytes, fixed.reason_bytes):
        texts.append(frames[at : at + length].decode("utf-8", "backslashreplace"))
        at += length
    inputs, at = _tensors(frames, at, shapes=definition.inputs, rows=fixed.rows)
    outputs, at = _tensors(frames, at, shapes=definition.outputs, rows=fixed.rows)
    if at != offset + fixed.length - CRC.size:
        raise BodyInvalid(f"tensors of sequence {fixed.sequence} end at the wrong place")
    return PredictionRecord(
        prediction_id=f"{log_id}-{fixed.sequence:x}",
        sequence=fixed.sequence,
        time_ns=fixed.time_ns,
        fate=Fate(fixed.fate),
        reason=texts[2],
        principal=texts[0],
        request_id=texts[1],
        model=definition.model,
        version=definition.version,
        digest=definition.digest,
        policy_epoch=fixed.policy_epoch,
        inputs=inputs,
        outputs=outputs,
        rows=fixed.rows,
        queue_us=fixed.queue_us,
        run_us=fixed.run_us,
        total_us=fixed.total_us,
        batch_id=fixed.batch_id,
        batch_size=fixed.batch_size,
        batch_position=fixed.batch_position,
        trace_id="" if fixed.trace_id == bytes(TRACE_BYTES) else fixed.trace_id.hex(),
        shadow_of=f"{log_id}-{fixed.shadow_of:x}" if fixed.shadow_of else "",
    )


def _tensors(
    frames: bytes, at: int, *, shapes: Sequence[TensorShape], rows: int
) -> tuple[tuple[NamedTensor, ...], int]:
    tensors = []
    for tensor in shapes:
        count = rows * math.prod(tensor.shape)
        end = _end_of(frames, at, tensor=tensor, count=count)
        buffer = memoryview(frames)[at:end]
        array = TensorBlock(tensor.datatype, tensor.shape, (buffer,)).array(rows)
        tensors.append(NamedTensor(tensor.name, tensor.datatype, array))
        at = end
    return tuple(tensors), at


def _end_of(frames: bytes, at: int, *, tensor: TensorShape, count: int) -> int:
    """Where the raw tensor that begins at `at` ends."""
    dtype = DTYPES.get(tensor.datatype)
    if dtype is None:
        raise BodyInvalid(f"tensor {tensor.name} has datatype {tensor.datatype}, unknown here")
    if tensor.datatype == "BYTES":
        try:
            return element_ends(frames, count, start=at)[-1] if count else at
        except ElementsInvalid as error:
            raise BodyInvalid(f"tensor {tensor.name} is longer than its frame") from error
    end = at + count * dtype.itemsize
    if end > len(frames):
        raise BodyInvalid(f"tensor {tensor.name} is longer than its frame")
    return end


def definition_text(definition: Definition) -> bytes:
    """The JSON object of a definition frame, byte for byte the same for equal definitions."""
    return _encode_json(
        {
            "model": definition.model,
            "version": definition.version,
            "digest": definition.digest,
            "inputs": [[t.name, t.datatype, t.shape] for t in definition.inputs],
            "outputs": [[t.name, t.datatype, t.shape] for t in definition.outputs],
        }
    )


class _DefinitionText(msgspec.Struct):
    model: str
    version: str
    digest: str
    inputs: tuple[tuple[str, str, tuple[int, ...]], ...]
    outputs: tuple[tuple[str, str, tuple[int, ...]], ...]


_encode_json = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder(_DefinitionText).decode


def decode_definition(frames: bytes, offset: int) -> tuple[int, int, Definition]:
    """(number, offset of the definition before it, definition) of the verified frame at `offset`."""
    length, _, _, _, number = HEAD.unpack_from(frames, offset)
    (before,) = LINK.unpack_from(frames, offset + HEAD.size)
    try:
        text = _decode_json(frames[offset + HEAD.size + LINK.size : offset + length - CRC.size])
    except msgspec.MsgspecError as error:
        raise BodyInvalid(f"definition {number:x} cannot be read: {error}") from error
    definition = Definition(
        text.model,
        text.version,
        text.digest,
        tuple(TensorShape(*tensor) for tensor in text.inputs),
        tuple(TensorShape(*tensor) for tensor in text.outputs),
    )
    return number, before, definition
