"""The Open Inference Protocol's inference message, JSON and binary tensors, both ways.

Decoding goes from bytes to raw little-endian rows without an array in between: JSON numbers are
decoded by the tensor's datatype (so `true` is no number and 300 no UINT8) and packed; a binary
tensor is a view of the body. Everything is checked against the version's signature before memory is
taken: names, datatypes, shapes, element counts, sizes.

Encoding renders each output of a frame once, for all requests in it, and cuts the text by rows. A
NaN or an infinity in an output becomes `null` in JSON, which has no literal for them; binary
outputs keep every bit.
"""

import dataclasses
import itertools
import math
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import orjson

from serving.core.batches import Buffer, TensorBlock
from serving.core.models import ModelVersion
from serving.core.tensors import MAX_ELEMENTS, MAX_RANK, TensorSpecification
from serving.errors import (
    BodyTooLarge,
    DataShapeMismatch,
    DatatypeMismatch,
    DeadlineExceeded,
    JsonInvalid,
    JsonTooDeep,
    NonFiniteLiteral,
    NotFound,
    ParameterInvalid,
    RequestInvalid,
    ShapeInvalid,
    ShapeOverflow,
    ValueOutOfRange,
)
from serving.gateway.calls import Call, InferenceRequest

MAX_ID_BYTES: Final = 256
MAX_TENSOR_BYTES: Final = 64 * 1024 * 1024
"""Of one input, counted in its datatype: JSON digits can be shorter than what they stand for."""

_LONGEST_TIMEOUT_US: Final = 10**12
_IN_A_SHAPE: Final = re.compile(r"\$\.inputs\[\d+\]\.shape")
_NON_FINITE: Final = re.compile(rb"[\[,:]\s*-?(?:NaN|Infinity)\b")
_MAX_PACKERS: Final = 256
_MAX_LAYOUTS: Final = 1024
_MAX_LAYOUT_BYTES: Final = 1024
_PACK_ELEMENTS: Final = 4096
_FORMATS: Final = {
    "BOOL": "?", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q",
    "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q",
    "FP16": "e", "FP32": "f", "FP64": "d",
}  # fmt: skip

Parameters = dict[str, bool | int | float | str | None]


class _Input(msgspec.Struct, gc=False):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = msgspec.Raw()
    parameters: Parameters | None = None


class _Output(msgspec.Struct, gc=False):
    name: str
    parameters: Parameters | None = None


class _Message(msgspec.Struct, gc=False):
    inputs: list[_Input]
    id: str = ""
    parameters: Parameters | None = None
    outputs: list[_Output] | None = None


_decode_message = msgspec.json.Decoder(_Message).decode
_ELEMENTS: Final = {"?": bool, "e": float, "f": float, "d": float}


class _Tensor:
    """One input of a signature, with what decoding it needs."""

    def __init__(self, declared: TensorSpecification) -> None:
        self.declared = declared
        self.format = _FORMATS[declared.datatype]
        self.item_bytes = declared.dtype.itemsize
        self.row_shape = declared.row_shape
        row_elements = declared.row_elements
        self._row_dimensions = list(declared.row_shape)
        most = min(MAX_ELEMENTS, MAX_TENSOR_BYTES // self.item_bytes)
        # 0 when a row may vary: its shape is always looked at closely.
        self._max_rows = most // row_elements if row_elements else 0
        self._decode_flat = _list_decoder(self.format, 1)
        self._nested_decoders: dict[int, Callable[[Buffer], list[Any]]] = {}
        self._packers: dict[int, Callable[..., bytes]] = {}

    def row_shape_of(self, shape: list[int]) -> tuple[int, ...]:
        """The concrete row shape. Raises ShapeInvalid, ShapeOverflow or BodyTooLarge."""
        if shape and shape[1:] == self._row_dimensions and 0 < shape[0] <= self._max_rows:
            return self.row_shape
        declared = self.declared
        if not 0 < len(shape) <= MAX_RANK or min(shape) < 1:
            raise ShapeInvalid(
                f"input {declared.name}: a shape has 1 to {MAX_RANK} dimensions, each at least 1"
            )
        if math.prod(shape) > MAX_ELEMENTS:
            raise ShapeOverflow(f"input {declared.name}: at most {MAX_ELEMENTS} elements")
        if not declared.admits(tuple(shape)):
            wanted = list(declared.shape)
            raise ShapeInvalid(f"input {declared.name} must have shape {wanted}, -1 may vary")
        if math.prod(shape) * self.item_bytes > MAX_TENSOR_BYTES:
            raise BodyTooLarge(f"input {declared.name}: at most {MAX_TENSOR_BYTES} bytes")
        return tuple(shape[1:])

    def pack(self, raw: msgspec.Raw, shape: list[int]) -> bytes:
        """JSON data, flat or nested, as raw rows."""
        values = self._values(raw, shape)
        count = math.prod(shape)
        if len(values) != count:
            raise self._mismatch(count, len(values))
        try:
            if count > _PACK_ELEMENTS:
                return self._pack_many(values)
            return self._packer(count)(*values)
        except (struct.error, OverflowError) as error:
            name, datatype = self.declared.name, self.declared.datatype
            raise ValueOutOfRange(f"input {name}: a value does not fit {datatype}") from error

    def _values(self, raw: msgspec.Raw, shape: list[int]) -> list[Any]:
        """The elements, row-major; flat data first, because that is what clients send."""
        try:
            return self._decode_flat(raw)
        except msgspec.DecodeError as error:
            if len(shape) == 1 or "got `array`" not in str(error):
                raise self._unreadable(raw, error) from error
        return self._nested_values(raw, shape)

    def _nested_values(self, raw: msgspec.Raw, shape: list[int]) -> list[Any]:
        decode = self._nested_decoders.get(len(shape))
        if decode is None:
            decode = self._nested_decoders[len(shape)] = _list_decoder(self.format, len(shape))
        try:
            values = decode(raw)
        except msgspec.DecodeError as error:
            raise self._unreadable(raw, error) from error
        if len(values) != shape[0]:
            raise self._mismatch(shape[0], len(values))
        for size in shape[1:]:
            if any(len(inner) != size for inner in values):
                raise DataShapeMismatch(
                    f"input {self.declared.name}: nested data has another shape"
                )
            values = list(itertools.chain.from_iterable(values))
        return values

    def _unreadable(self, raw: msgspec.Raw, error: msgspec.DecodeError) -> RequestInvalid:
        """What is wrong with data that are no array of our datatype."""
        name, datatype = self.declared.name, self.declared.datatype
        if not len(raw):
            return DataShapeMismatch(f"input {name} has no data")
        reason = str(error)
        if "out of range" in reason or (datatype == "BOOL" and "got `int`" in reason):
            return ValueOutOfRange(f"input {name}: a value does not fit {datatype}")
        return DatatypeMismatch(f"input {name}: data must be an array of {datatype} values")

    def _packer(self, count: int) -> Callable[..., bytes]:
        packer = self._packers.get(count)
        if packer is None:
            packer = struct.Struct(f"<{count}{self.format}").pack
            if len(self._packers) < _MAX_PACKERS:
                self._packers[count] = packer
        return packer

    def _pack_many(self, values: list[Any]) -> bytes:
        array = np.array(values, np.float64 if self.format in "efd" else self.declared.dtype)
        with np.errstate(over="raise"):
            try:
                return array.astype(self.declared.dtype).tobytes()
            except FloatingPointError as error:
                raise OverflowError from error

    def _mismatch(self, wanted: int, got: int) -> DataShapeMismatch:
        name = self.declared.name
        return DataShapeMismatch(f"input {name}: the shape wants {wanted} elements, data has {got}")


def _list_decoder(form: str, depth: int) -> Callable[[Buffer], list[Any]]:
    element: Any = _ELEMENTS.get(form, int)
    for _ in range(depth):
        element = list[element]
    return msgspec.json.Decoder(element).decode


class _Layout:
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


class Signature:
    """A model version as the wire sees it; made once per version."""

    def __init__(self, version: ModelVersion) -> None:
        self.version = version
        self._tensors = {t.name: (i, _Tensor(t)) for i, t in enumerate(version.inputs)}
        self._outputs = {t.name: i for i, t in enumerate(version.outputs)}
        self._names = [orjson.dumps(t.name) for t in version.outputs]
        self._datatypes = [t.datatype.encode() for t in version.outputs]
        self._layouts: dict[bytes, _Layout] = {}
        self._has_bool = any(tensor.datatype == "BOOL" for tensor in version.inputs)
        self._begin = b'{"model_name":%b,"model_version":%b' % (
            orjson.dumps(version.model),
            orjson.dumps(version.version),
        )

    # -- decoding --------------------------------------------------------------------------------

    def decode(self, body: memoryview, json_bytes: int | None) -> InferenceRequest:
        """Reads one request. json_bytes: length of the JSON part, None when that is all.

        Raises a RequestInvalid that names what to change.
        """
        if json_bytes is None:
            return self._decode(body, body, len(body))
        part = bytes(body[:json_bytes])
        layout = self._layouts.get(part)
        if layout is None:
            request = self._decode(body, part, json_bytes)
            self._remember(part, request)
            return request
        if len(body) != json_bytes + layout.size_bytes:
            raise DataShapeMismatch(f"the tensors want {layout.size_bytes} bytes behind the JSON")
        return layout.cut(body, json_bytes)

    def _remember(self, part: bytes, request: InferenceRequest) -> None:
        """Keeps what a JSON part means when all its tensors are binary: then it is all of it.

        Not where there is a BOOL: whether its bytes are 0 or 1 is seen in each body anew.
        """
        if len(part) > _MAX_LAYOUT_BYTES or self._has_bool:
            return
        if all(isinstance(data, memoryview) for data in request.inputs):
            if len(self._layouts) >= _MAX_LAYOUTS:
                self._layouts.clear()
            order = [self._tensors[tensor.name][0] for tensor in _parse(part).inputs]
            self._layouts[part] = _Layout(request, order)

    def _decode(self, body: memoryview, part: bytes | memoryview, offset: int) -> InferenceRequest:
        """Reads the JSON `part` and the binary tensors that lie in `body` from `offset` on."""
        message = _parse(part)
        if len(message.inputs) != len(self._tensors):
            names = ", ".join(self._tensors)
            raise RequestInvalid(f"exactly these inputs are needed: {names}")
        buffers: list[Buffer] = [b""] * len(self._tensors)
        shapes: list[tuple[int, ...]] = [()] * len(self._tensors)
        vetted = True
        for tensor in message.inputs:
            index, known = self._find(tensor, buffers)
            shapes[index] = known.row_shape_of(tensor.shape)
            parameters = tensor.parameters
            if parameters is not None and "binary_data_size" in parameters:
                buffers[index] = _cut(body, offset, tensor, known)
                offset += len(buffers[index])
                vetted = False
            else:
                buffers[index] = known.pack(tensor.data, tensor.shape)
        if offset != len(body):
            raise DataShapeMismatch("bytes are left over behind the last binary tensor")
        return InferenceRequest(
            _request_id(message.id),
            _rows(message.inputs),
            tuple(buffers),
            tuple(shapes),
            sum(map(len, buffers)),
            vetted,
            _timeout_s(message.parameters),
            self._wanted(message),
        )

    def _find(self, tensor: _Input, buffers: Sequence[Buffer]) -> tuple[int, _Tensor]:
        found = self._tensors.get(tensor.name)
        if found is None or buffers[found[0]]:
            names = ", ".join(self._tensors)
            raise RequestInvalid(f"inputs are {names}, each once")
        if tensor.datatype != found[1].declared.datatype:
            datatype = found[1].declared.datatype
            raise DatatypeMismatch(f"input {found[1].declared.name} must have datatype {datatype}")
        return found

    def _wanted(self, message: _Message) -> Sequence[tuple[int, bool]] | None:
        binary_all = _flag(message.parameters, "binary_data_output", default=False)
        if not message.outputs:
            return [(i, True) for i in range(len(self._names))] if binary_all else None
        wanted: dict[int, bool] = {}
        for output in message.outputs:
            index = self._outputs.get(output.name)
            if index is None:
                raise NotFound(f"outputs are {', '.join(self._outputs)}")
            if index in wanted:
                raise RequestInvalid("an output may be requested only once")
            wanted[index] = _flag(output.parameters, "binary_data", default=binary_all)
        return list(wanted.items())

    # -- encoding --------------------------------------------------------------------------------

    def encode(self, call: Call) -> tuple[bytes, list[Buffer]]:
        """The JSON part of the answer and the binary tensors behind it."""
        wanted = call.request.wanted
        parts = [self._begin]
        if call.request_id:
            parts.append(b',"id":%b' % orjson.dumps(call.request_id.decode()))
        buffers: list[Buffer] = []
        if wanted is None:
            outputs = [self._json_output(call, index) for index in range(len(self._names))]
        else:
            outputs = [
                self._binary_output(call, index, buffers)
                if binary
                else self._json_output(call, index)
                for index, binary in wanted
            ]
        parts.append(b',"outputs":[%b]}' % b",".join(outputs))
        return b"".join(parts), buffers

    def _json_output(self, call: Call, index: int) -> bytes:
        frame = call.frame
        rendered = frame.rendered.get(index) if frame is not None else None
        if rendered is None:
            rendered = self._render(call, index)
        first, rows = call.first_row, call.rows
        texts, row_shape = rendered
        data = texts[first] if rows == 1 else b",".join(texts[first : first + rows])
        return b'{"name":%b,"datatype":"%b","shape":[%d%b],"data":[%b]}' % (
            self._names[index],
            self._datatypes[index],
            rows,
            row_shape,
            data,
        )

    def _render(self, call: Call, index: int) -> tuple[list[bytes], bytes]:
        """The text of every row of one output of the frame, and its row shape."""
        frame = call.frame
        if frame is None or frame.answer is None:
            raise ValueError("a call without an answer was encoded. This is a bug")
        block = frame.answer.outputs[index]
        row_shape = b"".join(b",%d" % size for size in block.row_shape)
        rendered = frame.rendered[index] = (_row_texts(block, frame.answer.rows), row_shape)
        return rendered

    def _binary_output(self, call: Call, index: int, buffers: list[Buffer]) -> bytes:
        frame = call.frame
        if frame is None or frame.answer is None:
            raise ValueError("a call without an answer was encoded. This is a bug")
        view = call.outputs[index]
        buffers.append(view)
        row_shape = b"".join(b",%d" % size for size in frame.answer.outputs[index].row_shape)
        return (
            b'{"name":%b,"datatype":"%b","shape":[%d%b],"parameters":{"binary_data_size":%d}}'
            % (self._names[index], self._datatypes[index], call.rows, row_shape, len(view))
        )


def _row_texts(block: TensorBlock, rows: int) -> list[bytes]:
    """JSON text of each row's elements; one encoder call for the whole frame."""
    if not block.row_bytes:
        return [b""] * rows
    text = orjson.dumps(block.array(rows).reshape(rows, -1), option=orjson.OPT_SERIALIZE_NUMPY)
    return text[2:-2].split(b"],[")


def _parse(part: bytes | memoryview) -> _Message:
    try:
        return _decode_message(part)
    except RecursionError as error:
        raise JsonTooDeep("the JSON is nested too deeply") from error
    except msgspec.ValidationError as error:
        if _IN_A_SHAPE.search(str(error)):
            raise ShapeInvalid(f"not a shape: {str(error)[:160]}") from error
        raise RequestInvalid(f"not an inference request: {str(error)[:160]}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if _NON_FINITE.search(part):
            raise NonFiniteLiteral("JSON has no NaN and no Infinity; send binary data") from error
        raise JsonInvalid("the body is not valid JSON") from error


def _cut(body: memoryview, offset: int, tensor: _Input, known: _Tensor) -> memoryview:
    """The binary data of one tensor. Raises DataShapeMismatch or ValueOutOfRange."""
    size = math.prod(tensor.shape) * known.item_bytes
    declared = (tensor.parameters or {})["binary_data_size"]
    if type(declared) is not int or declared != size or len(tensor.data):
        raise DataShapeMismatch(f"input {tensor.name}: shape and datatype want {size} bytes")
    if offset + size > len(body):
        raise DataShapeMismatch(f"input {tensor.name}: the body ends before its data does")
    part = body[offset : offset + size]
    if known.format == "?" and part.tobytes().translate(None, b"\x00\x01"):
        raise ValueOutOfRange(f"input {tensor.name}: bytes of BOOL are 0 or 1")
    return part


def _rows(inputs: Sequence[_Input]) -> int:
    rows = inputs[0].shape[0]
    if len(inputs) > 1 and any(tensor.shape[0] != rows for tensor in inputs):
        raise ShapeInvalid("all inputs must have the same number of rows")
    return rows


def _request_id(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > MAX_ID_BYTES or (text and not text.isprintable()):
        raise ParameterInvalid(f"id must have at most {MAX_ID_BYTES} printable bytes")
    return encoded


def _timeout_s(parameters: Parameters | None) -> float | None:
    """The protocol's `timeout` parameter, in seconds. Raises DeadlineExceeded when it is 0."""
    timeout = (parameters or {}).get("timeout")
    if timeout is None:
        return None
    if type(timeout) is not int or timeout < 0:
        raise ParameterInvalid("parameter timeout must be a whole number of microseconds")
    if not timeout:
        raise DeadlineExceeded("the request allows no time")
    return min(timeout, _LONGEST_TIMEOUT_US) / 1e6


def _flag(parameters: Parameters | None, name: str, *, default: bool) -> bool:
    value = (parameters or {}).get(name, default)
    if not isinstance(value, bool):
        raise ParameterInvalid(f"parameter {name} must be true or false")
    return value
