"""Prediction and definition frames: written by the gateway per batch, read by queries.

`encode_predictions` is on the path of every answer: 0.8 us a record for 256 bytes of input and 32
of output, of which 0.2 us is the masked checksum (two busy cores, CPython 3.11). The fields that a
batch shares are packed once for the batch.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import msgspec
from google_crc32c import extend
from google_crc32c import value as checksum

from serving.core.batches import Buffer
from serving.core.predictions import Fate, NamedTensor, PredictionRecord
from serving.predictionlog.format import (
    CRC,
    HEAD,
    KINDS,
    LINK,
    MASK_DELTA,
    Definition,
    Flag,
    TensorShape,
    masked,
)
from serving.predictionlog.payloads import (
    NO_LIMITS,
    BodyInvalid,
    Payload,
    PayloadLimits,
    PayloadView,
    SealedPayload,
    Tensors,
    place_of,
    read_payload,
    read_tensor,
)
from serving.predictionlog.privacy.subjects import PayloadKeys

__all__ = ["BodyInvalid"]

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
    reason: the error's code, empty when OK. limits: for large payloads. kind: some of `KINDS`.
    """

    definition: int
    fate: Fate
    reason: bytes
    policy_epoch: int
    run_us: int
    batch_id: int
    batch_size: int
    limits: PayloadLimits = NO_LIMITS
    kind: int = 0


def encode_predictions(batch: BatchFacts, requests: Iterable[Loggable]) -> list[bytes]:
    """One frame for each request, in order, ready for `PredictionLogWriter.append`.

    A principal or reason holds at most 65 535 bytes; numbers are 32 or 64 bits as in the format;
    struct.error otherwise. Buffers are copied, not kept.
    """
    shared = SHARED.pack(batch.batch_id, batch.policy_epoch, batch.run_us, batch.batch_size)
    definition, fate, reason = batch.definition, batch.fate.value, batch.reason
    kind = batch.kind
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
            OWN.size + len(body) + 4, 2, fate, kind, request.sequence, request.time_ns, definition,
            request.shadow_of, request.rows, request.queue_us, request.total_us,
            request.batch_position, len(request_id), len(principal), reason_bytes,
        )  # fmt: skip
        if len(body) < large:
            frame = head + body
            crc = checksum(frame)
            append(frame + pack_crc(((crc >> 15 | crc << 17) + delta) & 0xFFFFFFFF))
        else:
            buffers = (*request.inputs, *request.outputs)
            append(encode_record(batch, request, batch.limits.fit(buffers)))
    return frames


def encode_record(batch: BatchFacts, request: Loggable, payload: Payload) -> bytes:
    """One frame with a payload that something was done to, or that is large."""
    body = b"".join(
        (
            SHARED.pack(batch.batch_id, batch.policy_epoch, batch.run_us, batch.batch_size),
            request.trace_id, request.principal, request.request_id, batch.reason,
            *payload.pieces,
        )
    )  # fmt: skip
    head = OWN.pack(
        OWN.size + len(body) + 4, 2, batch.fate.value, payload.flags | batch.kind,
        request.sequence, request.time_ns, batch.definition, request.shadow_of, request.rows, request.queue_us,
        request.total_us, request.batch_position, len(request.request_id), len(request.principal),
        len(batch.reason),
    )  # fmt: skip
    # One copy less than of a small frame, where copies cost milliseconds.
    return b"".join((head, body, masked(extend(checksum(head), body))))


class Fixed(NamedTuple):
    """The fixed part of a prediction frame, in file order; enough to filter by."""

    length: int
    type: int
    fate: int
    flags: int
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


def request_id_of(frames: bytes, offset: int, fixed: Fixed) -> bytes:
    start = offset + FIXED.size + fixed.principal_bytes
    return frames[start : start + fixed.request_id_bytes]


def subject_of(frames: bytes, offset: int, fixed: Fixed) -> str:
    """What stands for the data subject that the request named; empty for none."""
    box = sealed_payload(frames, offset, fixed)
    return "" if box is None else box.subject


def sealed_payload(frames: bytes, offset: int, fixed: Fixed) -> SealedPayload | None:
    """The box in the verified prediction frame at `offset`, for who keeps it sealed."""
    return _view(frames, offset, fixed).box()


def _view(frames: bytes, offset: int, fixed: Fixed) -> PayloadView:
    texts = fixed.principal_bytes + fixed.request_id_bytes + fixed.reason_bytes
    place = place_of(sequence=fixed.sequence, time_ns=fixed.time_ns, definition=fixed.definition)
    start, end = offset + FIXED.size + texts, offset + fixed.length - CRC.size
    return PayloadView(frames, start, end, fixed.flags, place)


def decode_prediction(
    frames: bytes,
    offset: int,
    *,
    definition: Definition,
    log_id: str,
    keys: PayloadKeys | None = None,
) -> PredictionRecord:
    """The record in the verified frame at `offset`; its arrays are views of `frames`.

    keys: open sealed payloads; None leaves them sealed. Raises BodyInvalid.
    """
    fixed = decode_fixed(frames, offset)
    if fixed.fate not in _FATES:
        raise BodyInvalid(f"fate {fixed.fate} of sequence {fixed.sequence} is not known")
    at = offset + FIXED.size
    texts = []
    for length in (fixed.principal_bytes, fixed.request_id_bytes, fixed.reason_bytes):
        texts.append(frames[at : at + length].decode("utf-8", "backslashreplace"))
        at += length
    other = f"{log_id}-{fixed.shadow_of:x}" if fixed.shadow_of else ""
    is_part = bool(fixed.flags & Flag.PART)
    tensors = _tensors(frames, offset, fixed=fixed, definition=definition, keys=keys)
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
        inputs=tensors.inputs,
        outputs=tensors.outputs,
        rows=fixed.rows,
        queue_us=fixed.queue_us,
        run_us=fixed.run_us,
        total_us=fixed.total_us,
        batch_id=fixed.batch_id,
        batch_size=fixed.batch_size,
        batch_position=fixed.batch_position,
        trace_id="" if fixed.trace_id == bytes(TRACE_BYTES) else fixed.trace_id.hex(),
        shadow_of="" if is_part else other,
        subject=tensors.subject,
        chosen=bool(fixed.flags & Flag.CHOSEN),
        part_of=other if is_part else "",
        cached=bool(fixed.flags & Flag.CACHED),
    )


def _tensors(
    frames: bytes, offset: int, *, fixed: Fixed, definition: Definition, keys: PayloadKeys | None
) -> Tensors:
    view = _view(frames, offset, fixed)
    if fixed.flags & ~KINDS or definition.treated:
        return read_payload(view, definition, rows=fixed.rows, keys=keys)
    at, found = view.start, list[NamedTensor]()
    for tensor in (*definition.inputs, *definition.outputs):
        each, at = read_tensor(frames, at, tensor=tensor, rows=fixed.rows)
        found.append(each)
    if at != view.end:
        raise BodyInvalid(f"tensors of sequence {fixed.sequence} end at the wrong place")
    count = len(definition.inputs)
    return Tensors(tuple(found[:count]), tuple(found[count:]), "")


def definition_text(definition: Definition) -> bytes:
    """The JSON object of a definition frame, byte for byte the same for equal definitions."""
    return _encode_json(
        {
            "model": definition.model,
            "version": definition.version,
            "digest": definition.digest,
            "inputs": [_tensor_text(tensor) for tensor in definition.inputs],
            "outputs": [_tensor_text(tensor) for tensor in definition.outputs],
        }
    )


def _tensor_text(tensor: TensorShape) -> list[object]:
    described: list[object] = [tensor.name, tensor.datatype, tensor.shape]
    if tensor.treatment != "keep":
        return [*described, tensor.features, tensor.treatment]
    return [*described, tensor.features] if tensor.features else described


class _TensorText(msgspec.Struct, array_like=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    features: tuple[str, ...] = ()
    treatment: str = "keep"

    def shaped(self) -> TensorShape:
        return TensorShape(self.name, self.datatype, self.shape, self.features, self.treatment)


class _DefinitionText(msgspec.Struct):
    model: str
    version: str
    digest: str
    inputs: tuple[_TensorText, ...]
    outputs: tuple[_TensorText, ...]


_encode_json = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder(_DefinitionText).decode


def decode_definition(frames: bytes, offset: int) -> tuple[int, int, Definition]:
    """(number, offset of the definition before it, definition) of the verified frame at `offset`."""
    length, _, _, _, number = HEAD.unpack_from(frames, offset)
    (before,) = LINK.unpack_from(frames, offset + HEAD.size)
    text = frames[offset + HEAD.size + LINK.size : offset + length - CRC.size]
    return number, before, read_definition_text(text)


def read_definition_text(content: bytes) -> Definition:
    """The inverse of `definition_text`. Raises BodyInvalid."""
    try:
        text = _decode_json(content)
    except msgspec.MsgspecError as error:
        raise BodyInvalid(f"a definition cannot be read: {error}") from error
    return Definition(
        text.model,
        text.version,
        text.digest,
        tuple(tensor.shaped() for tensor in text.inputs),
        tuple(tensor.shaped() for tensor in text.outputs),
    )
