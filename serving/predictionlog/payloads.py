"""The payload of a prediction frame: what is done to tensors before they are recorded, and back.

PAYLOAD, from where the reason ends to the frame's checksum: a box if flag 2 is set, then the tensors
that are not in it, inputs before outputs, in the order of the definition. What a tensor takes there
is said by its treatment in the definition:

    keep, encrypt  its raw bytes (`format`); encrypt: in a box, always
    hash           for each row 16 bytes: HMAC-SHA-256 of model, tensor and row, cut off
    drop           nothing

BOX, integers little-endian; under scope 1 it holds all tensors, under scope 2 those to be encrypted:

      0   4  length of the box
      4   1  1, its format; 1 scope: 1 the key of a data subject, 2 of the model; 2 zeros
      8  16  tag of the subject (`subjects`), zeros under scope 2
     24  16  key id, 12 nonce
     52   .  AES-256-GCM of the tensors, bound to the frame's sequence, time and definition number

Flag 1: what stands behind the box is compressed: one zstd frame that says its own size.
Flag 4: the tensors were too large to be recorded (`log.max_payload_bytes`). In their place stand, for
each that is not dropped, 8 bytes its size and the SHA-256 of its raw bytes.
"""

import hashlib
import math
import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import zstandard

from serving.core.batches import Buffer, TensorBlock
from serving.core.elements import ElementsInvalid, element_ends, row_ends
from serving.core.predictions import Keeping, NamedTensor
from serving.core.tensors import DTYPES, Array
from serving.predictionlog.format import KINDS, Definition, Flag, TensorShape
from serving.predictionlog.privacy.subjects import NOBODY, PayloadKeys, Unreadable
from serving.trust.boxes import BoxInvalid, BoxKey, keyed_hash

BOX: Final = struct.Struct("<IBBH16s16s12s")
PLACE: Final = struct.Struct("<QqQ")
DIGEST: Final = struct.Struct("<Q32s")
HASH_BYTES: Final = 16
BOX_FORMAT: Final = 1
SUBJECT: Final = 1
MODEL: Final = 2
KNOWN_FLAGS: Final = int(Flag.COMPRESSED | Flag.ENCRYPTED | Flag.DIGESTED) | KINDS
MAX_UNPACKED_BYTES: Final = 1024 * 1024 * 1024


class BodyInvalid(Exception):
    """A verified frame says something its definition does not allow. This is a bug in its writer."""


class Payload(NamedTuple):
    """The end of a prediction frame, ready to be written."""

    flags: int
    pieces: Sequence[Buffer]


class SealedPayload(NamedTuple):
    """A box as it stands in a frame; `PayloadKeys.open` takes the last four. subject: hexadecimal."""

    subject: str
    scope: int
    key_id: bytes
    nonce: bytes
    box: bytes
    place: bytes


class PayloadLimits(NamedTuple):
    """When a payload is not written as it is. compress_bytes: from this size on; None: never."""

    max_bytes: int = 64 * 1024 * 1024
    compress_bytes: int | None = None

    def fit(self, buffers: Sequence[Buffer]) -> Payload:
        """Tensors that nothing else is done to."""
        size_bytes = sum(map(len, buffers))
        if size_bytes > self.max_bytes:
            return Payload(Flag.DIGESTED, digests(buffers))
        if self.compress_bytes is None or size_bytes < self.compress_bytes:
            return Payload(0, buffers)
        packed = zstandard.ZstdCompressor(level=1).compress(b"".join(buffers))
        return (
            Payload(Flag.COMPRESSED, (packed,)) if len(packed) < size_bytes else Payload(0, buffers)
        )


NO_LIMITS: Final = PayloadLimits()


def digests(buffers: Sequence[Buffer]) -> list[bytes]:
    return [DIGEST.pack(len(each), hashlib.sha256(each).digest()) for each in buffers]


def hashed(buffer: Buffer, tensor: TensorShape, *, rows: int, key: bytes, model: str) -> bytes:
    """The keyed hash of each row; equal rows of one tensor of one model have equal hashes."""
    place = f"{model}\0{tensor.name}\0".encode()
    return b"".join(
        keyed_hash(key, place + bytes(buffer[start:end]))
        for start, end in pairwise(_edges(buffer, tensor, rows))
    )


def _edges(buffer: Buffer, tensor: TensorShape, rows: int) -> list[int]:
    elements = math.prod(tensor.shape)
    if tensor.datatype == "BYTES":
        return [0, *row_ends(buffer, rows, elements)]
    size = elements * DTYPES[tensor.datatype].itemsize
    return [row * size for row in range(rows + 1)]


def sealed(
    pieces: Sequence[Buffer], key: BoxKey, *, tag: bytes, nonce: bytes, place: bytes
) -> bytes:
    """The box with these tensors in it. place: see `place_of`."""
    secret = key.seal(nonce, b"".join(pieces), place)
    scope = MODEL if tag == NOBODY else SUBJECT
    return BOX.pack(BOX.size + len(secret), BOX_FORMAT, scope, 0, tag, key.id, nonce) + secret


def place_of(*, sequence: int, time_ns: int, definition: int) -> bytes:
    """What a box is bound to, so that it cannot be moved to another record."""
    return PLACE.pack(sequence, time_ns, definition)


class PayloadView(NamedTuple):
    """Where a payload lies: in `frames` from `start` to `end`."""

    frames: bytes
    start: int
    end: int
    flags: int
    place: bytes

    def box(self) -> SealedPayload | None:
        """Raises BodyInvalid for a box that this program cannot read."""
        if not self.flags & Flag.ENCRYPTED:
            return None
        if self.start + BOX.size > self.end:
            raise BodyInvalid("a box is longer than its frame")
        length, version, scope, _, tag, key_id, nonce = BOX.unpack_from(self.frames, self.start)
        end = self.start + length
        if version != BOX_FORMAT or scope not in (SUBJECT, MODEL) or end > self.end:
            raise BodyInvalid("a box is not one of this format")
        subject = "" if tag == NOBODY else tag.hex()
        content = self.frames[self.start + BOX.size : end]
        return SealedPayload(subject, scope, key_id, nonce, content, self.place)


class Tensors(NamedTuple):
    """What a payload shows. subject: tag in hexadecimal, empty for none."""

    inputs: tuple[NamedTensor, ...]
    outputs: tuple[NamedTensor, ...]
    subject: str


def read_payload(
    view: PayloadView, definition: Definition, *, rows: int, keys: PayloadKeys | None
) -> Tensors:
    """The tensors, each as far as it was recorded and can be opened. Raises BodyInvalid."""
    if view.flags & ~KNOWN_FLAGS:
        raise BodyInvalid(f"flags {view.flags:x} are not all known here")
    box = view.box()
    start = view.start if box is None else view.start + BOX.size + len(box.box)
    clear = _Reading(_unpacked(view, start), rows=rows, digested=bool(view.flags & Flag.DIGESTED))
    hidden: _Reading | Keeping = "sealed"
    if box is not None:
        hidden = _opened(box, keys, clear)
    shapes = [*definition.inputs, *definition.outputs]
    everything = box is not None and (box.scope == SUBJECT or clear.digested)
    shown = []
    for tensor in shapes:
        source = hidden if everything or tensor.treatment == "encrypt" else clear
        shown.append(
            source.tensor(tensor) if isinstance(source, _Reading) else _none(tensor, source)
        )
    clear.finish()
    if isinstance(hidden, _Reading):
        hidden.finish()
    count = len(definition.inputs)
    return Tensors(tuple(shown[:count]), tuple(shown[count:]), box.subject if box else "")


def _unpacked(view: PayloadView, start: int) -> bytes:
    content = view.frames[start : view.end]
    if not view.flags & Flag.COMPRESSED:
        return content
    try:
        return zstandard.ZstdDecompressor().decompress(content, max_output_size=MAX_UNPACKED_BYTES)
    except zstandard.ZstdError as error:
        raise BodyInvalid("a compressed payload cannot be unpacked") from error


def _opened(
    box: SealedPayload, keys: PayloadKeys | None, clear: "_Reading"
) -> "_Reading | Keeping":
    if keys is None:
        return "sealed"
    try:
        content = keys.open(box.key_id, box.nonce, box.box, box.place)
    except BoxInvalid as error:
        raise BodyInvalid("a box does not open with its own key") from error
    if isinstance(content, Unreadable):
        return "erased" if content.erased else "sealed"
    return _Reading(content, rows=clear.rows, digested=clear.digested)


def _none(tensor: TensorShape, keeping: Keeping) -> NamedTensor:
    """Stands for a tensor of which nothing can be shown."""
    dropped = tensor.treatment == "drop"
    return NamedTensor(tensor.name, "BYTES", _elements([]), "dropped" if dropped else keeping)


def _elements(values: Sequence[bytes]) -> Array:
    array = np.empty(len(values), object)
    array[:] = values
    return array


class _Reading:
    """Takes one tensor after the other from the front of `content`."""

    def __init__(self, content: bytes, *, rows: int, digested: bool) -> None:
        self.rows = rows
        self.digested = digested
        self._content = content
        self._at = 0

    def tensor(self, tensor: TensorShape) -> NamedTensor:
        if tensor.treatment == "drop":
            return _none(tensor, "dropped")
        if self.digested:
            (digest,) = self._cut(DIGEST.size, 1)
            return NamedTensor(tensor.name, "BYTES", _elements([digest[8:]]), "truncated")
        if tensor.treatment == "hash":
            hashes = _elements(list(self._cut(HASH_BYTES, self.rows)))
            return NamedTensor(tensor.name, "BYTES", hashes, "hashed")
        found, self._at = read_tensor(self._content, self._at, tensor=tensor, rows=self.rows)
        return found

    def finish(self) -> None:
        if self._at != len(self._content):
            raise BodyInvalid("tensors end at the wrong place")

    def _cut(self, size: int, count: int) -> Iterator[bytes]:
        start, self._at = self._at, self._at + size * count
        if self._at > len(self._content):
            raise BodyInvalid("a tensor is longer than its frame")
        return (self._content[at : at + size] for at in range(start, self._at, size))


def read_tensor(
    frames: bytes, at: int, *, tensor: TensorShape, rows: int
) -> tuple[NamedTensor, int]:
    """The raw tensor at `at`, a view of `frames`, and where it ends. Raises BodyInvalid."""
    end = _end_of(frames, at, tensor=tensor, count=rows * math.prod(tensor.shape))
    buffer = memoryview(frames)[at:end]
    array = TensorBlock(tensor.datatype, tensor.shape, (buffer,)).array(rows)
    return NamedTensor(tensor.name, tensor.datatype, array), end


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
