"""What is the same from one raw request to the next, remembered by its bytes.

Clients send the same message around their data again and again: in the encoding of protocol buffers the
raw tensors, its last field, stand behind everything else. Once such a beginning was read, and tensors of
the same sizes follow it, a request is its parts cut out. Two messages in a row are their union, so
beginning and tensors mean what they mean apart: a beginning counts only if it is a message by itself.

As in `serving.edge.layouts`, a request with an id, a priority or a subject of its own is not remembered,
nor one whose elements have to be looked at.
"""

import dataclasses
from collections.abc import Sequence
from typing import Final

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types

from serving.core.batches import Buffer
from serving.edge.grpc import inference_pb2
from serving.gateway.calls import InferenceRequest

RAW_INPUT: Final = b"\x3a"
"""Field 7 of a request, with its length in front."""

_MAX_LAYOUTS: Final = 1024
_MAX_LAYOUT_BYTES: Final = 1024
_MAX_BYTES: Final = 64 * 1024
"""Of messages that are looked up: a larger one gains nothing from it."""

Span = tuple[int, int]


class MessageLayout:
    """A beginning, and where the raw tensors of a message of one size lie behind it."""

    __slots__ = ("between", "model", "names", "spans", "version")

    def __init__(self, message: inference_pb2.ModelInferRequest, whole: bytes) -> None:
        """whole: the bytes of `message`, which end with its raw tensors as they are usually written."""
        self.model = message.model_name
        self.version = message.model_version or None
        self.names = [tensor.name for tensor in message.inputs]
        end = len(whole)
        spans: list[Span] = []
        for raw in reversed(message.raw_input_contents):
            spans.append((end - len(raw), end))
            end -= len(raw) + len(RAW_INPUT) + len(varint(len(raw)))
        self.spans = spans[::-1]
        self.between = [
            (before[1], after[0], whole[before[1] : after[0]])
            for before, after in zip(self.spans, self.spans[1:], strict=False)
        ]

    def fits(self, message: Buffer) -> bool:
        """Whether what stands between the tensors is the same; there is something if there are two."""
        return all(message[start:end] == text for start, end, text in self.between)


class RequestLayout:
    """What one version makes of a message with a layout."""

    __slots__ = ("_request", "_spans")

    def __init__(self, request: InferenceRequest, spans: Sequence[Span]) -> None:
        """spans: of the tensors, in the order of the version's inputs."""
        # Without the buffers: a layout must not keep a caller's message alive.
        self._request = dataclasses.replace(request, inputs=())
        self._spans = tuple(spans)

    def cut(self, message: Buffer) -> InferenceRequest:
        known = self._request
        return InferenceRequest(
            known.request_id,
            known.rows,
            tuple([message[start:end] for start, end in self._spans]),
            known.shapes,
            known.size_bytes,
            known.vetted,
            known.timeout_s,
            known.wanted,
        )


class MessageLayouts:
    """The layouts of one server; bounded."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, Buffer], MessageLayout] = {}
        # From the size of a message to where its first tensor began the last time.
        self._begins: dict[int, int] = {}

    def find(self, message: Buffer) -> MessageLayout | None:
        size = len(message)
        begin = self._begins.get(size)
        if begin is None:
            return None
        layout = self._known.get((size, bytes(message[:begin])))
        if layout is None or (layout.between and not layout.fits(message)):
            return None
        return layout

    def learn(
        self, message: Buffer, parsed: inference_pb2.ModelInferRequest
    ) -> MessageLayout | None:
        """The layout of a message that was read for the first time; None where it has none."""
        size = len(message)
        if size > _MAX_BYTES or parsed.id or not parsed.raw_input_contents:
            return None
        whole = bytes(message)
        tail = b"".join([_field(raw) for raw in parsed.raw_input_contents])
        if not whole.endswith(tail) or not _is_beginning(whole[: size - len(tail)]):
            return None
        layout = MessageLayout(parsed, whole)
        begin = layout.spans[0][0]
        if begin > _MAX_LAYOUT_BYTES:
            return None
        if len(self._known) >= _MAX_LAYOUTS:
            self._known.clear()
            self._begins.clear()
        self._begins[size] = begin
        # Another beginning of this size may have been the last one: what is known stays the same.
        return self._known.setdefault((size, whole[:begin]), layout)


def varint(number: int) -> bytes:
    """A length in the encoding of protocol buffers: seven bits a byte, lowest first."""
    encoded = bytearray()
    while number >> 7:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _field(raw: bytes) -> bytes:
    return b"%b%b%b" % (RAW_INPUT, varint(len(raw)), raw)


def _is_beginning(content: bytes) -> bool:
    """Whether it is a message without raw tensors."""
    parsed = inference_pb2.ModelInferRequest()
    try:
        parsed.ParseFromString(content)
    except DecodeError:
        return False
    return not parsed.raw_input_contents
