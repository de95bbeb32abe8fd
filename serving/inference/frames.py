"""The frame format between a gateway worker and a replica, byte by byte. Shared by both ends.

Everything is little-endian. A message is a 16-byte prefix and a body of the length it names:

    offset  size  prefix
    0       4     magic "SVF1"
    4       1     format version, 1
    5       1     kind: 1 HELLO, 2 INFER, 3 ANSWER, 4 REFUSAL
    6       2     zero
    8       8     body length in bytes

HELLO, replica to gateway, once per connection: SHA-256 of the artifact that runs (32 bytes).

INFER, gateway to replica:

    0       8     frame id, chosen by the gateway, unique per connection
    8       8     first 8 bytes of the artifact's SHA-256: a frame for another model is refused
    16      4     microseconds within which an answer is worth anything, from sending, 0 = no limit
    20      4     rows
    24      2     tensors
    26      2     links
    28      4     when it was sent: the sender's monotonic clock in microseconds modulo 2^32; 0 unless
                  both ends share that clock, as processes of one machine do. A busy replica reads a
                  frame late, and would not know how long it lay in the socket.
    32      28*l  links: row u32, trace id 16, span id 8
            ...   tensor heads, then zeros up to a multiple of 16
            ...   tensor buffers, each followed by zeros up to a multiple of 16

ANSWER, replica to gateway:

    0       8     frame id
    8       4     rows
    12      2     tensors
    14      2     zero
    16      4     failures
    20      4     parts
    24      8     zero
    32      28*p  parts: rows u32, batch id u64, batch rows u32, position u32, queue us u32, run us u32
            8*f   failures: row u32, reason u32
            ...   tensor heads, padding and buffers as above

REFUSAL, replica to gateway: frame id u64, reason u32 (1 draining, 2 wrong model, 3 not understood).

Tensor head: datatype code u8, rank without rows u8, zero u16, then that many dimensions u32, then for
BYTES alone the length of its buffer u64. Codes: 1 BOOL, 2 UINT8, 3 UINT16, 4 UINT32, 5 UINT64,
6 INT8, 7 INT16, 8 INT32, 9 INT64, 10 FP16, 11 FP32, 12 FP64, 13 BF16, 14 BYTES. The buffer of a
tensor has rows * product(dimensions) * item size bytes, that of BYTES so many elements, each a length
u32 and that many bytes. It starts at a multiple of 16 from the start of the message, so that a
reader can use it where it lies.

A reader trusts nothing: lengths are bounded before memory is taken, every count must add up to the
body's length exactly, the elements of BYTES to that of their buffer, and what takes no bytes (empty
dimensions, rows of nothing) is bounded by itself, else `FrameInvalid`, and the connection is closed.
No pickle, no object per row. A change that old readers cannot take raises the format version; a new
code does not, because a reader that does not know it serves no model that has it.
"""

import math
from collections.abc import Iterator, Sequence
from enum import IntEnum
from struct import Struct
from typing import Any, Final

from serving.core.batches import (
    BatchAnswer,
    BatchPart,
    Buffer,
    RowBatch,
    RowFailure,
    SpanLink,
    TensorBlock,
)
from serving.core.elements import ElementsInvalid, whole_ends
from serving.core.models import Digest
from serving.core.tensors import DTYPES, MAX_ELEMENTS, MAX_RANK
from serving.errors import FrameInvalid

MAGIC: Final = b"SVF1"
FORMAT_VERSION: Final = 1
MOST_US: Final = 2**32 - 1
"""What a frame can say about a time; more only after the process was stopped for over an hour."""
_MAX_WAIT_US: Final = 120_000_000
"""No frame lay in a socket longer: a time of sending that says so is not of our clock."""
PREFIX: Final = Struct("<4sBBHQ")

_INFER: Final = Struct("<Q8sIIHHI")
_ANSWER: Final = Struct("<QIH2xII8x")
_REFUSAL: Final = Struct("<QI")
_LINK: Final = Struct("<I16s8s")
_PART: Final = Struct("<IQIIII")
_FAILURE: Final = Struct("<II")
_TENSOR: Final = Struct("<BBH")
_DIMENSION: Final = Struct("<I")
_LENGTH: Final = Struct("<Q")
_ALIGNMENT: Final = 16
_ZEROS: Final = bytes(_ALIGNMENT)
_DIGEST_BYTES: Final = 32

_CODES: Final = {name: code for code, name in enumerate(DTYPES, start=1)}
_NAMES: Final = {code: name for name, code in _CODES.items()}


class Kind(IntEnum):
    """What a message is."""

    HELLO = 1
    INFER = 2
    ANSWER = 3
    REFUSAL = 4


class Refusal(IntEnum):
    """Why a replica did not take a frame."""

    DRAINING = 1
    WRONG_MODEL = 2
    NOT_UNDERSTOOD = 3


def encode_hello(digest: Digest) -> bytes:
    return _message(Kind.HELLO, [bytes.fromhex(digest)])


def encode_batch(frame_id: int, batch: RowBatch) -> bytes:
    """One INFER message."""
    fixed = _INFER.pack(
        frame_id,
        bytes.fromhex(batch.digest[:16]),
        batch.budget_us,
        batch.rows,
        len(batch.tensors),
        len(batch.links),
        batch.sent_us,
    )
    links = [_LINK.pack(link.row, link.trace_id, link.span_id) for link in batch.links]
    return _message(Kind.INFER, [fixed, *links, *_tensor_parts(batch.tensors, links)])


def encode_answer(frame_id: int, answer: BatchAnswer) -> bytes:
    """One ANSWER message."""
    fixed = _ANSWER.pack(
        frame_id, answer.rows, len(answer.outputs), len(answer.failures), len(answer.parts)
    )
    rest = [
        _PART.pack(p.rows, p.batch_id, p.batch_rows, p.position, p.queue_us, p.run_us)
        for p in answer.parts
    ]
    rest += [_FAILURE.pack(row, reason) for row, reason in answer.failures.items()]
    return _message(Kind.ANSWER, [fixed, *rest, *_tensor_parts(answer.outputs, rest)])


def encode_refusal(frame_id: int, reason: Refusal) -> bytes:
    return _message(Kind.REFUSAL, [_REFUSAL.pack(frame_id, reason)])


def _message(kind: Kind, parts: Sequence[Buffer]) -> bytes:
    length = sum(map(len, parts))
    return b"".join((PREFIX.pack(MAGIC, FORMAT_VERSION, kind, 0, length), *parts))


def _tensor_parts(tensors: Sequence[TensorBlock], rest: Sequence[bytes]) -> Iterator[Buffer]:
    """Heads, padding and buffers. The fixed part before `rest` keeps the alignment by its size."""
    heads = b"".join(
        _TENSOR.pack(_CODES[tensor.datatype], len(tensor.row_shape), 0)
        + b"".join(map(_DIMENSION.pack, tensor.row_shape))
        + (_length(tensor) if tensor.datatype == "BYTES" else b"")
        for tensor in tensors
    )
    yield heads
    yield _ZEROS[: -(sum(map(len, rest)) + len(heads)) % _ALIGNMENT]
    for tensor in tensors:
        yield from tensor.buffers
        yield _ZEROS[: -sum(map(len, tensor.buffers)) % _ALIGNMENT]


def _length(tensor: TensorBlock) -> bytes:
    return _LENGTH.pack(sum(map(len, tensor.buffers)))


class _Cursor:
    """Reads one body from front to back; raises FrameInvalid past its end."""

    __slots__ = ("body", "offset")

    def __init__(self, body: memoryview) -> None:
        self.body = body
        self.offset = 0

    def unpack(self, form: Struct) -> tuple[Any, ...]:
        end = self.offset + form.size
        if end > len(self.body):
            raise FrameInvalid("a frame ends early")
        values = form.unpack_from(self.body, self.offset)
        self.offset = end
        return values

    def take(self, size: int) -> memoryview:
        end = self.offset + size
        if end > len(self.body):
            raise FrameInvalid("a tensor reaches beyond its frame")
        part = self.body[self.offset : end]
        self.offset = end
        return part

    def align(self) -> None:
        self.take(-self.offset % _ALIGNMENT)

    def finish(self) -> None:
        if self.offset != len(self.body):
            raise FrameInvalid("a frame is longer than its content")


def decode_prefix(prefix: Buffer, *, max_bytes: int) -> tuple[Kind, int]:
    """Kind and body length of the message that starts with these 16 bytes."""
    magic, version, kind, _, length = PREFIX.unpack_from(prefix)
    if magic != MAGIC or version != FORMAT_VERSION or kind not in Kind.__members__.values():
        raise FrameInvalid("these bytes start no frame of this format version")
    if length > max_bytes:
        raise FrameInvalid(f"a frame of {length} bytes is over the limit of {max_bytes}")
    return Kind(kind), length


def decode_hello(body: memoryview) -> Digest:
    """The digest of the artifact that the replica runs."""
    if len(body) != _DIGEST_BYTES:
        raise FrameInvalid("a greeting must hold one SHA-256")
    return Digest(body.hex())


def decode_batch(body: memoryview) -> tuple[int, RowBatch]:
    """Frame id and the rows. Buffers are views of `body`; the digest has its first 8 bytes only."""
    cursor = _Cursor(body)
    frame_id, digest, budget_us, rows, tensor_count, link_count, sent_us = cursor.unpack(_INFER)
    if rows > len(body):
        raise FrameInvalid("a frame names more rows than it has bytes")
    links = tuple(SpanLink(*cursor.unpack(_LINK)) for _ in range(link_count))
    tensors = _decode_tensors(cursor, tensor_count, rows)
    return frame_id, RowBatch(Digest(digest.hex()), rows, tensors, budget_us, links, sent_us)


def sent_ns_of(batch: RowBatch, now_ns: int) -> int:
    """When a frame that was read now was sent; now, where that is not known."""
    waited_us = (now_ns // 1000 - batch.sent_us) & MOST_US if batch.sent_us else 0
    return now_ns - waited_us * 1000 if waited_us < _MAX_WAIT_US else now_ns


def decode_answer(body: memoryview) -> tuple[int, BatchAnswer]:
    """Frame id and the answer. Buffers are views of `body`."""
    cursor = _Cursor(body)
    frame_id, rows, tensor_count, failure_count, part_count = cursor.unpack(_ANSWER)
    parts = tuple(BatchPart(*cursor.unpack(_PART)) for _ in range(part_count))
    if sum(part.rows for part in parts) != rows:
        raise FrameInvalid("the parts of an answer do not add up to its rows")
    failures = dict(_decode_failure(cursor, rows) for _ in range(failure_count))
    outputs = _decode_tensors(cursor, tensor_count, rows)
    return frame_id, BatchAnswer(rows=rows, outputs=outputs, parts=parts, failures=failures)


def decode_refusal(body: memoryview) -> tuple[int, Refusal]:
    cursor = _Cursor(body)
    frame_id, reason = cursor.unpack(_REFUSAL)
    cursor.finish()
    try:
        return frame_id, Refusal(reason)
    except ValueError as error:
        raise FrameInvalid("a refusal names no reason") from error


def _decode_failure(cursor: _Cursor, rows: int) -> tuple[int, RowFailure]:
    row, reason = cursor.unpack(_FAILURE)
    try:
        failure = RowFailure(reason)
    except ValueError as error:
        raise FrameInvalid("a failure names no reason") from error
    if row >= rows:
        raise FrameInvalid("a failure names a row beyond the frame")
    return row, failure


def _decode_tensors(cursor: _Cursor, count: int, rows: int) -> tuple[TensorBlock, ...]:
    heads = [_decode_tensor_head(cursor) for _ in range(count)]
    cursor.align()
    tensors = []
    for datatype, row_shape, length in heads:
        elements = rows * math.prod(row_shape)
        size = elements * DTYPES[datatype].itemsize if length is None else length
        if not elements and rows * math.prod(max(each, 1) for each in row_shape) > MAX_ELEMENTS:
            raise FrameInvalid("an empty tensor has dimensions out of all proportion")
        buffer = cursor.take(size)
        if length is not None:
            _check_elements(buffer, elements)
        tensors.append(TensorBlock(datatype, row_shape, (buffer,)))
        cursor.align()
    cursor.finish()
    return tuple(tensors)


def _decode_tensor_head(cursor: _Cursor) -> tuple[str, tuple[int, ...], int | None]:
    """Datatype, row shape, and for BYTES the length of the buffer."""
    code, rank, _ = cursor.unpack(_TENSOR)
    if code not in _NAMES or rank > MAX_RANK:
        raise FrameInvalid("a tensor has an unknown datatype or too many dimensions")
    datatype = _NAMES[code]
    row_shape = tuple(cursor.unpack(_DIMENSION)[0] for _ in range(rank))
    return datatype, row_shape, cursor.unpack(_LENGTH)[0] if datatype == "BYTES" else None


def _check_elements(buffer: memoryview, count: int) -> None:
    try:
        whole_ends(buffer, count)
    except ElementsInvalid as error:
        raise FrameInvalid("the elements of a tensor do not fill its buffer") from error


class MessageReader:
    """Cuts a byte stream into messages, whatever the pieces it arrives in."""

    __slots__ = ("_filled", "_max_bytes", "_message", "_prefix")

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._prefix = b""
        self._message: bytearray | None = None
        self._filled = 0

    def feed(self, data: bytes) -> list[tuple[Kind, memoryview]]:
        """The messages completed by `data`. Bodies are views and may be kept."""
        messages: list[tuple[Kind, memoryview]] = []
        view = memoryview(data)
        if self._message is not None:
            view = self._fill(view, messages)
        elif self._prefix:
            view = memoryview(self._prefix + data)
            self._prefix = b""
        while len(view) >= PREFIX.size:
            kind, length = decode_prefix(view, max_bytes=self._max_bytes)
            end = PREFIX.size + length
            if len(view) < end:
                self._message = bytearray(end)
                self._message[: len(view)] = view
                self._filled = len(view)
                return messages
            messages.append((kind, view[PREFIX.size : end]))
            view = view[end:]
        self._prefix = bytes(view)
        return messages

    def _fill(self, view: memoryview, messages: list[tuple[Kind, memoryview]]) -> memoryview:
        """Continues an unfinished message; returns what follows it."""
        message = self._message
        if message is None:
            return view
        count = min(len(view), len(message) - self._filled)
        message[self._filled : self._filled + count] = view[:count]
        self._filled += count
        if self._filled == len(message):
            kind, _ = decode_prefix(message, max_bytes=self._max_bytes)
            messages.append((kind, memoryview(message)[PREFIX.size :]))
            self._message = None
        # A copy, so that what follows starts at an address as round as the format promises.
        return memoryview(bytes(view[count:]))
