"""From the Open Inference Protocol's inference request to rows, checked against a model version.

Decoding goes from bytes to raw little-endian rows without an array in between; binary tensors are
views of the body. Names, datatypes, shapes, element counts and sizes are checked before memory is
taken, and nothing that a request says is passed over: a member that stands in it twice is refused.

A version without a row dimension (`TensorSpecification.batched`) gets one row, whose shape is the
whole shape. Otherwise a request has at least one row.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from serving.core.batches import Buffer
from serving.core.models import ModelVersion
from serving.edge.inputs import NumberInput, input_of
from serving.edge.layouts import MAX_BODY_BYTES, Layouts
from serving.edge.messages import (
    InputMessage,
    OutputMessage,
    Parameters,
    RequestMessage,
    check_members,
    is_plain,
    parse,
)
from serving.edge.selection import OutputSelection
from serving.edge.subjects import subject_of_parameters
from serving.errors import (
    DataShapeMismatch,
    DatatypeMismatch,
    DeadlineExceeded,
    ParameterInvalid,
    RequestInvalid,
    ShapeInvalid,
)
from serving.gateway.calls import InferenceRequest

MAX_ID_BYTES: Final = 256

_LONGEST_TIMEOUT_US: Final = 10**12
_UNREAD: Final = memoryview(b"")
"""Stands for the data of an input that was not met yet; known by identity."""

ShapeKey = tuple[tuple[int, ...], ...]


class WireTensor(NamedTuple):
    """A tensor by itself: its whole shape, and its elements in binary."""

    name: str
    datatype: str
    shape: Sequence[int]
    data: Buffer


class RequestDecoder:
    """Reads requests to one model version."""

    def __init__(self, version: ModelVersion) -> None:
        inputs = [input_of(tensor) for tensor in version.inputs]
        self._inputs = {each.declared.name: (i, each) for i, each in enumerate(inputs)}
        self._selection = OutputSelection(version)
        self._batched = all(tensor.batched for tensor in version.inputs)
        self._layouts = Layouts()
        self._binary_layout = self._layouts.binary
        self._binary_repeats = not any(each.looks_inside for each in inputs)
        self._json_repeats = len(inputs) == 1 and type(inputs[0]) is NumberInput

    def decode(self, body: memoryview, json_bytes: int | None) -> InferenceRequest:
        """Reads one request. json_bytes: length of the JSON part, None when that is all.

        Raises a RequestInvalid that names what to change.
        """
        if json_bytes is None:
            text = bytes(body)
            known = None
            if self._json_repeats and len(text) <= MAX_BODY_BYTES:
                known = self._layouts.fill(text)
            return known or self._decode(body, text, len(text))
        part = bytes(body[:json_bytes])
        layout = self._binary_layout(part)
        if layout is None:
            return self._decode(body, part, json_bytes)
        if len(body) != json_bytes + layout.size_bytes:
            raise DataShapeMismatch(f"the tensors want {layout.size_bytes} bytes behind the JSON")
        return layout.cut(body, json_bytes)

    def decode_tensors(
        self,
        tensors: Sequence[WireTensor],
        *,
        request_id: str = "",
        parameters: Parameters | None = None,
        outputs: Sequence[OutputMessage] | None = None,
    ) -> InferenceRequest:
        """A request whose tensors came apart from each other, all binary, as in gRPC.

        Outputs are wanted in binary unless the parameters say otherwise. Raises a RequestInvalid.
        """
        self._check_count(len(tensors))
        buffers: list[Buffer] = [_UNREAD] * len(tensors)
        shapes: list[tuple[int, ...]] = [()] * len(tensors)
        for tensor in tensors:
            index, known = self._find(tensor.name, tensor.datatype, buffers)
            shapes[index] = known.row_shape_of(tensor.shape)
            buffers[index] = known.read_binary(tensor.data, tensor.shape)
        request = InferenceRequest(
            _request_id(request_id),
            self._rows([tensor.shape for tensor in tensors]),
            tuple(buffers),
            tuple(shapes),
            sum(map(len, buffers)),
            vetted=False,
            timeout_s=_timeout_s(parameters),
            wanted=self._selection.choose(outputs, parameters, binary=True),
            priority=_priority(parameters),
        )
        request.name_subject(subject_of_parameters(parameters))
        return request

    def _decode(self, body: memoryview, part: bytes, offset: int) -> InferenceRequest:
        """Reads the JSON `part` and the binary tensors that lie in `body` from `offset` on."""
        message = parse(part)
        inputs = message.inputs
        self._check_count(len(inputs))
        buffers: list[Buffer] = [_UNREAD] * len(inputs)
        shapes: list[tuple[int, ...]] = [()] * len(inputs)
        binary = 0
        plain = message.parameters is None and message.outputs is None
        for tensor in inputs:
            index, known = self._find(tensor.name, tensor.datatype, buffers)
            shapes[index] = known.row_shape_of(tensor.shape)
            parameters = tensor.parameters
            plain = plain and parameters is None
            if parameters is not None and "binary_data_size" in parameters:
                end = _end_of(body, offset, tensor)
                buffers[index] = known.read_binary(body[offset:end], tensor.shape)
                offset = end
                binary += 1
            else:
                buffers[index] = known.read_json(tensor.data, tensor.shape)
        if offset != len(body):
            raise DataShapeMismatch("bytes are left over behind the last binary tensor")
        request = self._request(message, tuple(buffers), tuple(shapes), vetted=not binary)
        if (plain and is_plain(part, message)) or check_members(part, message):
            self._remember(part, request, inputs, binary=binary)
        return request

    def _request(
        self,
        message: RequestMessage,
        buffers: tuple[Buffer, ...],
        shapes: ShapeKey,
        *,
        vetted: bool,
    ) -> InferenceRequest:
        parameters, outputs = message.parameters, message.outputs
        timeout_s, priority, wanted, subject = None, 0, None, b""
        if parameters is not None or outputs is not None or not self._selection.has_plain:
            timeout_s, priority = _timeout_s(parameters), _priority(parameters)
            wanted = self._selection.choose(outputs, parameters)
            subject = subject_of_parameters(parameters)
        request = InferenceRequest(
            _request_id(message.id),
            self._rows([tensor.shape for tensor in message.inputs]),
            buffers,
            shapes,
            sum(map(len, buffers)),
            vetted,
            timeout_s,
            wanted,
            priority,
        )
        request.name_subject(subject)
        return request

    def _remember(
        self, part: bytes, request: InferenceRequest, inputs: Sequence[InputMessage], *, binary: int
    ) -> None:
        """Keeps what a text means for the next request with it."""
        if request.priority:
            return
        if binary == len(inputs) and self._binary_repeats and not request.request_id:
            order = [self._inputs[tensor.name][0] for tensor in inputs]
            self._layouts.remember_binary(part, request, order)
        elif not binary and self._json_repeats and len(part) <= MAX_BODY_BYTES:
            (tensor,) = inputs
            self._layouts.remember_json(part, request, self._inputs[tensor.name][1], tensor)

    def _check_count(self, count: int) -> None:
        if count != len(self._inputs):
            raise self._other_inputs()

    def _other_inputs(self) -> DataShapeMismatch:
        return DataShapeMismatch(f"exactly these inputs are needed: {', '.join(self._inputs)}")

    def _find(self, name: str, datatype: str, buffers: Sequence[Buffer]) -> tuple[int, NumberInput]:
        found = self._inputs.get(name)
        if found is None:
            raise self._other_inputs()
        if buffers[found[0]] is not _UNREAD:
            raise RequestInvalid(f"input {found[1].declared.name} may be given only once")
        declared = found[1].declared
        if datatype != declared.datatype:
            raise DatatypeMismatch(f"input {declared.name} must have datatype {declared.datatype}")
        return found

    def _rows(self, shapes: Sequence[Sequence[int]]) -> int:
        if not self._batched:
            return 1
        rows = shapes[0][0]
        if len(shapes) > 1 and any(shape[0] != rows for shape in shapes):
            raise ShapeInvalid("all inputs must have the same number of rows")
        return rows


def _end_of(body: memoryview, offset: int, tensor: InputMessage) -> int:
    """Where the binary data of a tensor end that begin at `offset`. Raises DataShapeMismatch."""
    size = (tensor.parameters or {})["binary_data_size"]
    if type(size) is not int or size < 0:
        raise DataShapeMismatch(f"input {tensor.name}: binary_data_size must be a number of bytes")
    if tensor.data:
        raise DataShapeMismatch(f"input {tensor.name}: data are in JSON or behind it, not both")
    if size > len(body) - offset:
        raise DataShapeMismatch(f"input {tensor.name}: the body ends before its data does")
    return offset + size


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


def _priority(parameters: Parameters | None) -> int:
    """The protocol's `priority` parameter: 1 is the highest, 0 leaves it to us."""
    priority = (parameters or {}).get("priority", 0)
    if type(priority) is not int or priority < 0:
        raise ParameterInvalid("parameter priority must be a whole number; 1 is the highest")
    return priority
