"""What is the same from one request to the next, remembered by its bytes.

Clients send the same JSON around their data again and again. Once such a text was read and found to
hold nothing but what was understood, only the data of the next request with that text are decoded.

Two kinds of text are known: a JSON part whose tensors all lie behind it in binary, and a JSON body
with one input of numbers, by what stands around them.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import msgspec

from serving.edge.inputs import NumberInput
from serving.edge.messages import InputMessage
from serving.errors import RequestInvalid
from serving.gateway.calls import InferenceRequest

_MAX_LAYOUTS: Final = 1024
_MAX_LAYOUT_BYTES: Final = 1024
MAX_BODY_BYTES: Final = 64 * 1024
"""Of JSON bodies that are looked up: a larger one gains nothing from it."""

_ID: Final = re.compile(rb'"id":\s*"([ !#-\[\]-~]{1,256})"')
"""An id of printable ASCII, written without escapes."""

_SPACE: Final = b" \t\r\n"
_DATA: Final = b'"data":'


class BinaryLayout:
    """What a JSON part says whose tensors all lie behind it: the same for every body after it."""

    __slots__ = ("_request", "_spans", "size_bytes")

    def __init__(self, request: InferenceRequest, order: Sequence[int]) -> None:
        """order: which input of the version each tensor of the message is."""
        # Without the buffers: a layout must not keep a caller's body alive.
        self._request = dataclasses.replace(request, inputs=())
        self._spans = [(0, 0)] * len(order)
        self.size_bytes = 0
        for index in order:
            start, self.size_bytes = self.size_bytes, self.size_bytes + len(request.inputs[index])
            self._spans[index] = (start, self.size_bytes)

    def cut(self, body: memoryview, offset: int) -> InferenceRequest:
        """The request whose tensors lie in `body` from `offset` on."""
        known = self._request
        return InferenceRequest(
            known.request_id,
            known.rows,
            tuple([body[offset + start : offset + end] for start, end in self._spans]),
            known.shapes,
            known.size_bytes,
            known.vetted,
            known.timeout_s,
            known.wanted,
        )


class JsonLayout:
    """What a JSON body with one input says around its numbers."""

    __slots__ = ("_count", "_decode", "_pack", "_request")

    def __init__(self, request: InferenceRequest, known: NumberInput, tensor: InputMessage) -> None:
        self._request = dataclasses.replace(request, inputs=())
        self._count = math.prod(tensor.shape)
        nested = bytes(tensor.data).translate(None, _SPACE).startswith(b"[[")
        self._decode = partial(known.decode_nested, tensor.shape) if nested else known.decode_flat
        self._pack = known.pack

    def fill(self, numbers: bytes, request_id: bytes) -> InferenceRequest | None:
        """The request with these numbers; None when something is wrong with them.

        Raises ValueOutOfRange.
        """
        try:
            values = self._decode(numbers)
        except (msgspec.DecodeError, RequestInvalid):
            return None
        if len(values) != self._count:
            return None
        known = self._request
        return InferenceRequest(
            request_id,
            known.rows,
            (self._pack(values),),
            known.shapes,
            known.size_bytes,
            known.vetted,
            known.timeout_s,
            known.wanted,
        )


class Layouts:
    """The layouts of one model version; bounded."""

    def __init__(self) -> None:
        self._binary: dict[bytes, BinaryLayout] = {}
        self._json: dict[bytes, JsonLayout] = {}
        self.binary = self._binary.get
        """The layout of a JSON part, or None."""

    def remember_binary(self, part: bytes, request: InferenceRequest, order: Sequence[int]) -> None:
        """The caller has checked that all tensors lie behind `part` and need no look inside."""
        if _has_room(self._binary, part):
            self._binary[part] = BinaryLayout(request, order)

    def fill(self, text: bytes) -> InferenceRequest | None:
        """The request that a JSON body is, when what stands around its numbers is known."""
        start = text.find(_DATA) + len(_DATA)
        end = text.find(b"}", start)
        key, request_id = text[:start] + text[end:], b""
        layout = self._json.get(key)
        if layout is None:
            key, request_id = _without_id(key)
            layout = self._json.get(key)
        return None if layout is None else layout.fill(text[start:end], request_id)

    def remember_json(
        self, text: bytes, request: InferenceRequest, known: NumberInput, tensor: InputMessage
    ) -> None:
        """The caller has checked that `text` holds `tensor` and no member that was not read."""
        start = text.find(_DATA) + len(_DATA)
        end = text.find(b"}", start)
        # Only where the data are the last member of their object, as most clients write it.
        if text[start:end].strip() != bytes(tensor.data):
            return
        key, request_id = _without_id(text[:start] + text[end:])
        if request_id == request.request_id and _has_room(self._json, key):
            self._json[key] = JsonLayout(request, known, tensor)


def _without_id(key: bytes) -> tuple[bytes, bytes]:
    """A text without its id, so that it is the same for the next request, and the id.

    As it is where there is no id, or where it could be mistaken for another member's value.
    """
    found = _ID.search(key)
    if found is None or key.count(b'"id"') > 1:
        return key, b""
    start, end = found.span(1)
    return key[:start] + key[end:], found[1]


def _has_room(known: dict[bytes, Any], key: bytes) -> bool:
    """Whether `key` may be remembered. Callers choose the keys, so there is an end of them."""
    if len(known) >= _MAX_LAYOUTS:
        known.clear()
    return len(key) <= _MAX_LAYOUT_BYTES
