"""Calls of a model over the wire, whole tensors in and out, in binary. One class per protocol."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from struct import pack, unpack_from
from typing import Any, Final, Protocol

import grpc.aio  # type: ignore[import-untyped]  # it ships no types
import httpx
import ml_dtypes
import numpy as np
from google.rpc.error_details_pb2 import ErrorInfo  # type: ignore[import-untyped]  # likewise
from grpc_status import rpc_status  # type: ignore[import-untyped]  # likewise

from serving.core.models import ModelVersion
from serving.core.tensors import TensorSpecification
from serving.edge.grpc.inference_pb2 import ModelInferRequest, ModelInferResponse
from tests.places import Place

DTYPES: Final[dict[str, Any]] = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "BF16": ml_dtypes.bfloat16,
}


@dataclass(frozen=True, slots=True)
class Refused:
    """An answer without outputs. code: the product's stable one."""

    code: str
    message: str


Answer = list[Any] | Refused
"""Arrays in the order of the version's outputs; strings as object arrays."""


class Call(Protocol):
    """One protocol."""

    name: str

    async def __call__(self, version: ModelVersion, inputs: Sequence[Any]) -> Answer: ...


class HttpCall:
    """Binary tensors over HTTP."""

    name = "HTTP"

    def __init__(self, place: Place, client: httpx.AsyncClient) -> None:
        self._client = client
        self._headers = place.authorization()

    async def __call__(self, version: ModelVersion, inputs: Sequence[Any]) -> Answer:
        raw = [to_raw(value) for value in inputs]
        tensors = [
            {
                "name": each.name,
                "shape": list(np.shape(value)),
                "datatype": each.datatype,
                "parameters": {"binary_data_size": len(content)},
            }
            for each, value, content in zip(version.inputs, inputs, raw, strict=True)
        ]
        head = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}}).encode()
        answer = await self._client.post(
            f"/v2/models/{version.model}/infer",
            content=head + b"".join(raw),
            headers=self._headers | {"Inference-Header-Content-Length": str(len(head))},
        )
        if answer.status_code != httpx.codes.OK:
            problem = answer.json()
            return Refused(problem["code"], problem["error"])
        return _read(answer, version)


class GrpcCall:
    """Raw contents over gRPC."""

    name = "gRPC"

    def __init__(self, place: Place, channel: grpc.aio.Channel) -> None:
        self._metadata = [(key.lower(), value) for key, value in place.authorization().items()]
        self._infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=ModelInferRequest.SerializeToString,
            response_deserializer=ModelInferResponse.FromString,
        )

    async def __call__(self, version: ModelVersion, inputs: Sequence[Any]) -> Answer:
        request = ModelInferRequest(
            model_name=version.model,
            inputs=[
                ModelInferRequest.InferInputTensor(
                    name=each.name, datatype=each.datatype, shape=np.shape(value)
                )
                for each, value in zip(version.inputs, inputs, strict=True)
            ],
            raw_input_contents=[to_raw(value) for value in inputs],
        )
        try:
            answer = await self._infer(request, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            return Refused(_code(error), error.details() or "")
        assert [each.name for each in answer.outputs] == [each.name for each in version.outputs]
        return [
            from_raw(content, declared, output.shape)
            for content, declared, output in zip(
                answer.raw_output_contents, version.outputs, answer.outputs, strict=True
            )
        ]


def _code(error: grpc.aio.AioRpcError) -> str:
    """The stable code in the details of a gRPC error."""
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        info = ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    return str(error.code().name)


def _read(answer: httpx.Response, version: ModelVersion) -> list[Any]:
    length = int(answer.headers["Inference-Header-Content-Length"])
    outputs = json.loads(answer.content[:length])["outputs"]
    values = []
    start = length
    for declared, output in zip(version.outputs, outputs, strict=True):
        assert (output["name"], output["datatype"]) == (declared.name, declared.datatype)
        end = start + output["parameters"]["binary_data_size"]
        values.append(from_raw(answer.content[start:end], declared, output["shape"]))
        start = end
    assert start == len(answer.content)
    return values


def to_raw(value: Any) -> bytes:
    """An array's elements as the protocol's raw contents."""
    array = np.asarray(value)
    if array.dtype.kind in "OUST":
        texts = [each if isinstance(each, bytes) else str(each).encode() for each in array.flat]
        return b"".join(pack("<I", len(text)) + text for text in texts)
    return array.tobytes()


def from_raw(content: bytes, declared: TensorSpecification, shape: Sequence[int]) -> Any:
    """The array of raw contents."""
    if declared.datatype != "BYTES":
        return np.frombuffer(content, DTYPES[declared.datatype]).reshape(shape)
    texts = np.empty(prod(shape), object)
    end = 0
    for index in range(len(texts)):
        start = end + 4
        end = start + unpack_from("<I", content, end)[0]
        texts[index] = content[start:end].decode()
    assert end == len(content)
    return texts.reshape(shape)
