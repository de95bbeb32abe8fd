"""The inference messages of gRPC: from a request to its tensors, from tensors to an answer.

Tensors are raw or typed, a whole message in one way, and the answer comes in the way of its request;
FP16 and BF16 have no typed form, so that an answer with one of them is raw. Typed elements become
raw ones, which `serving.edge.decoding` checks like those of any other wire.

An answer is written as bytes: in the encoding of protocol buffers a message is its fields one after
the other, and two messages in a row are their union, so that the parts which repeat are made once and
a tensor is copied once.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types

from serving.core.batches import Buffer
from serving.core.elements import join_elements, split_elements
from serving.core.models import ModelVersion
from serving.core.tensors import DTYPES
from serving.core.traffic import Deprecation, Snapshot
from serving.edge.codec import Signature
from serving.edge.decoding import WireTensor
from serving.edge.deprecation import by_key, lines_of
from serving.edge.grpc import inference_pb2
from serving.edge.grpc.layouts import MessageLayout, MessageLayouts, RequestLayout, varint
from serving.edge.http2.fields import encode_fields
from serving.edge.inputs import input_of
from serving.edge.messages import OutputMessage, Parameters
from serving.errors import (
    DataShapeMismatch,
    DatatypeMismatch,
    MessageInvalid,
    RequestInvalid,
    ValueOutOfRange,
)
from serving.gateway.calls import Call, InferenceRequest

CONTENTS: Final = {
    "BOOL": "bool_contents",
    "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}  # fmt: skip
"""The member of `InferTensorContents` for each datatype that has a typed form."""

_MAX_KNOWN_OUTPUTS: Final = 1024
_MAX_TENSORS: Final = 64

_MAX_LAYOUTS: Final = 1024

_ID: Final = b"\x1a"
_RAW_OUTPUT: Final = b"\x32"
_STREAM_ANSWER: Final = b"\x12"
"""Fields that have their length in front: 3 and 6 of an answer, 2 of a message of a stream."""

Message = TypeVar("Message")


def parse(message: Buffer, kind: Callable[[], Message]) -> Message:
    """A message from its bytes. Raises MessageInvalid."""
    parsed: Any = kind()
    try:
        parsed.ParseFromString(message)
    except DecodeError as error:
        raise MessageInvalid(f"this is not a {parsed.DESCRIPTOR.name}") from error
    whole: Message = parsed
    return whole


class MessageVersion:
    """One model version as the messages see it; made once per version."""

    def __init__(self, version: ModelVersion, deprecation: Deprecation | None = None) -> None:
        self.version = version
        self.deprecate(deprecation)
        self._signature = Signature(version)
        self._begin: bytes = inference_pb2.ModelInferResponse(
            model_name=version.model, model_version=version.version
        ).SerializeToString()
        self._known_outputs: dict[tuple[str, str, tuple[int, ...]], bytes] = {}
        self._indices = {tensor.name: index for index, tensor in enumerate(version.inputs)}
        self._repeats = not any(input_of(tensor).looks_inside for tensor in version.inputs)
        self._layouts: dict[MessageLayout, RequestLayout] = {}

    def deprecate(self, deprecation: Deprecation | None) -> None:
        """From now on answers say that the version will go, or that it stays."""
        self.trailers = (
            ("serving-model-version", str(self.version.version)),
            ("serving-model-digest", str(self.version.digest)),
            *lines_of(deprecation),
        )
        pairs = [(name.encode(), value.encode()) for name, value in self.trailers]
        self.trailer_block = encode_fields(((b"grpc-status", b"0"), *pairs))

    def read(self, message: inference_pb2.ModelInferRequest) -> InferenceRequest:
        """The request that a message is. Raises a RequestInvalid."""
        return self._signature.decode_tensors(
            _tensors(message),
            request_id=message.id,
            parameters=_parameters(message.parameters),
            outputs=[
                OutputMessage(output.name, _parameters(output.parameters))
                for output in message.outputs
            ],
        )

    def cut(self, message: Buffer, layout: MessageLayout) -> InferenceRequest | None:
        """The request that a message with this layout is; None before such a one was read."""
        known = self._layouts.get(layout)
        return None if known is None else known.cut(message)

    def remember(self, layout: MessageLayout, request: InferenceRequest) -> None:
        """Keeps what messages with this layout mean, from one that was read."""
        if not self._repeats or request.priority:
            return
        if len(self._layouts) >= _MAX_LAYOUTS:
            self._layouts.clear()
        by_input = sorted(
            zip(layout.names, layout.spans, strict=True), key=lambda it: self._indices[it[0]]
        )
        self._layouts[layout] = RequestLayout(request, [span for _, span in by_input])

    def write(self, call: Call, *, raw: bool) -> bytes:
        """The answer to a call whose outputs are known."""
        tensors = self._signature.tensors(call)
        parts: list[Buffer] = [self._begin]
        if call.request_id:
            parts += (_ID, varint(len(call.request_id)), call.request_id)
        if raw or any(tensor.datatype not in CONTENTS for tensor in tensors):
            parts += [self._described(tensor) for tensor in tensors]
            for tensor in tensors:
                parts += (_RAW_OUTPUT, varint(len(tensor.data)), tensor.data)
        else:
            parts.append(_typed(tensors))
        return b"".join(parts)

    def _described(self, tensor: WireTensor) -> bytes:
        """The field of an output whose elements are elsewhere."""
        key = (tensor.name, tensor.datatype, tuple(tensor.shape))
        known = self._known_outputs.get(key)
        if known is None:
            if len(self._known_outputs) >= _MAX_KNOWN_OUTPUTS:
                self._known_outputs.clear()
            known = self._known_outputs[key] = _outputs([_output(tensor)])
        return known


class MessageVersions:
    """Versions by their key, made on first use, forgotten with the snapshot that drops them."""

    def __init__(self) -> None:
        self.layouts = MessageLayouts()
        self._known: dict[int, MessageVersion] = {}
        self._deprecations: dict[str, Deprecation] = {}

    def of(self, version: ModelVersion) -> MessageVersion:
        # By identity, which an entry keeps its version's own: a queue has one for its whole life.
        known = self._known.get(id(version))
        if known is None:
            known = MessageVersion(version, self._deprecations.get(version.key))
            self._known[id(version)] = known
        return known

    def apply(self, snapshot: Snapshot) -> None:
        """Learns which versions there are, and which of them will go."""
        self._deprecations = by_key(snapshot.deprecations)
        live = {version.key for version in snapshot.versions}
        self._known = {at: known for at, known in self._known.items() if known.version.key in live}
        for known in self._known.values():
            known.deprecate(self._deprecations.get(known.version.key))


# -- from a message ------------------------------------------------------------------------------


def _tensors(message: inference_pb2.ModelInferRequest) -> list[WireTensor]:
    inputs, raw = message.inputs, message.raw_input_contents
    if len(inputs) > _MAX_TENSORS:
        raise RequestInvalid(f"a request has at most {_MAX_TENSORS} inputs")
    if not raw:
        return [WireTensor(i.name, i.datatype, list(i.shape), _packed(i)) for i in inputs]
    if any(tensor.HasField("contents") for tensor in inputs):
        raise RequestInvalid("contents and raw_input_contents exclude each other")
    if len(raw) != len(inputs):
        raise DataShapeMismatch("raw_input_contents must have one entry for each input")
    return [
        WireTensor(tensor.name, tensor.datatype, list(tensor.shape), data)
        for tensor, data in zip(inputs, raw, strict=True)
    ]


def _packed(tensor: inference_pb2.ModelInferRequest.InferInputTensor) -> bytes:
    """Typed contents as raw elements. Raises DatatypeMismatch or ValueOutOfRange."""
    datatype = tensor.datatype
    member = CONTENTS.get(datatype)
    if member is None:
        raise DatatypeMismatch(f"send {datatype[:16]} in raw_input_contents; known typed: {_TYPED}")
    filled = tensor.contents.ListFields()
    if any(field.name != member for field, _ in filled):
        raise DatatypeMismatch(f"the elements of {datatype} belong into {member}")
    values = getattr(tensor.contents, member)
    if datatype == "BYTES":
        return join_elements(values)
    try:
        return np.fromiter(values, DTYPES[datatype], len(values)).tobytes()
    except OverflowError as error:
        raise ValueOutOfRange(f"a value does not fit {datatype}") from error


_TYPED: Final = ", ".join(CONTENTS)


def _parameters(members: Any) -> Parameters | None:
    if not members:
        return None
    # None for a parameter without a value, which is then of no type that anything wants.
    return {
        name: getattr(value, choice) if (choice := value.WhichOneof("parameter_choice")) else None
        for name, value in members.items()
    }


# -- to a message --------------------------------------------------------------------------------


def _output(tensor: WireTensor) -> inference_pb2.ModelInferResponse.InferOutputTensor:
    return inference_pb2.ModelInferResponse.InferOutputTensor(
        name=tensor.name, datatype=tensor.datatype, shape=tensor.shape
    )


def _outputs(outputs: list[inference_pb2.ModelInferResponse.InferOutputTensor]) -> bytes:
    encoded: bytes = inference_pb2.ModelInferResponse(outputs=outputs).SerializeToString()
    return encoded


def _typed(tensors: Sequence[WireTensor]) -> bytes:
    outputs = []
    for tensor in tensors:
        output = _output(tensor)
        # Also without an element: the output then says that it is typed.
        output.contents.SetInParent()
        getattr(output.contents, CONTENTS[tensor.datatype]).extend(_values(tensor))
        outputs.append(output)
    return _outputs(outputs)


def _values(tensor: WireTensor) -> list[Any]:
    if tensor.datatype == "BYTES":
        count = 1
        for size in tensor.shape:
            count *= size
        return split_elements(tensor.data, count)
    values: list[Any] = np.frombuffer(tensor.data, DTYPES[tensor.datatype]).tolist()
    return values


def stream_answer(answer: bytes, parameters: Sequence[tuple[str, str]]) -> bytes:
    """An answer as a message of a stream, with parameters added to it."""
    added = _added(parameters)
    size = len(answer) + len(added)
    return b"".join((_STREAM_ANSWER, varint(size), answer, added))


def stream_error(message: str, *, request_id: str, parameters: Sequence[tuple[str, str]]) -> bytes:
    """The failure of the request `request_id` as a message of a stream."""
    failed = inference_pb2.ModelStreamInferResponse(error_message=message)
    failed.infer_response.id = request_id
    encoded: bytes = failed.SerializeToString()
    return encoded + stream_answer(b"", parameters)


def _added(parameters: Sequence[tuple[str, str]]) -> bytes:
    encoded: bytes = inference_pb2.ModelInferResponse(
        parameters={
            name: inference_pb2.InferParameter(string_param=value) for name, value in parameters
        }
    ).SerializeToString()
    return encoded
