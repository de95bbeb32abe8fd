"""The gRPC port of a product in this process: calls by hand, and what a refusal says."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc  # type: ignore[import-untyped]  # it ships no types
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # neither does it
from grpc_status import rpc_status  # type: ignore[import-untyped]

from serving.core.principals import Role
from serving.edge.grpc import inference_pb2
from tests.places import InProcess

SERVICE: Final = "/inference.GRPCInferenceService"
INFER: Final = f"{SERVICE}/ModelInfer"
STREAM: Final = f"{SERVICE}/ModelStreamInfer"

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a call failed: gRPC's code by name, and our code where the status has one."""

    status: str
    code: str = ""
    request_id: str = ""
    retry_s: float | None = None
    text: str = ""


def refusal_of(error: grpc.aio.AioRpcError) -> Refusal:
    """What a caller can read from a failed call; every detail that comes must be known here."""
    status = rpc_status.from_call(error)
    found: dict[str, Any] = {"text": error.details()}
    for detail in status.details if status is not None else ():
        name = detail.TypeName().rpartition(".")[2]
        read = getattr(error_details_pb2, name)()
        assert detail.Unpack(read)
        if name == "ErrorInfo":
            assert read.domain == "serving"
            found["code"] = read.reason
        elif name == "RequestInfo":
            found["request_id"] = read.request_id
        else:
            assert name == "RetryInfo"
            found["retry_s"] = read.retry_delay.ToMilliseconds() / 1000
    return Refusal(error.code().name, **found)


class Caller:
    """Calls on one channel, with one token."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        self.channel = channel
        self.metadata = metadata

    def call(self, path: str, message: bytes = b"", **options: Any) -> Any:
        """A running unary call."""
        return self.channel.unary_unary(path)(message, **{"metadata": self.metadata} | options)

    async def infer(self, message: Any, **options: Any) -> inference_pb2.ModelInferResponse:
        answer = await self.call(INFER, encoded(message), **options)
        return inference_pb2.ModelInferResponse.FromString(answer)  # type: ignore[no-any-return]

    async def refused(self, message: Any, path: str = INFER, **options: Any) -> Refusal:
        """The refusal of a call that must fail."""
        try:
            answer = await self.call(path, encoded(message), **options)
        except grpc.aio.AioRpcError as error:
            return refusal_of(error)
        raise AssertionError(f"it was answered: {answer!r}")

    async def stream(self, messages: Sequence[Any]) -> list[inference_pb2.ModelStreamInferResponse]:
        """All answers on a stream that is closed after these messages."""
        stream = self.channel.stream_stream(STREAM)(metadata=self.metadata)
        for message in messages:
            await stream.write(encoded(message))
        await stream.done_writing()
        return [inference_pb2.ModelStreamInferResponse.FromString(each) async for each in stream]


@asynccontextmanager
async def started(folder: Path, **groups: Any) -> AsyncIterator[InProcess]:
    """A product in this process with settings of its own."""
    place = InProcess(folder, **groups)
    try:
        await place.start()
        yield place
    finally:
        await place.aclose()


@asynccontextmanager
async def caller(
    place: InProcess, subject: str = "tester", role: Role = Role.CALLER, **options: Any
) -> AsyncIterator[Caller]:
    """A caller of the product's gRPC port with a good token. options: of the channel."""
    authorization = place.place.authorization(subject, role)["Authorization"]
    address = f"127.0.0.1:{place.settings.grpc.port}"
    async with grpc.aio.insecure_channel(address, **options) as channel:
        yield Caller(channel, (("authorization", authorization),))


async def rest_of(stream: Any) -> list[bytes]:
    """What still comes on a stream that is read message by message."""
    found = []
    while (message := await stream.read()) is not grpc.aio.EOF:
        found.append(message)
    return found


def encoded(message: Any) -> bytes:
    return message if isinstance(message, bytes) else bytes(message.SerializeToString())


def rows(
    *values: float, model: str = "doubler", request_id: str = "", **parameters: int
) -> inference_pb2.ModelInferRequest:
    """A request of typed rows of two numbers, the second 0. parameters: of the request."""
    message = inference_pb2.ModelInferRequest(model_name=model, id=request_id)
    tensor = message.inputs.add(name="x", datatype="FP32", shape=[len(values), 2])
    tensor.contents.fp32_contents.extend(number for value in values for number in (value, 0.0))
    for name, value in parameters.items():
        message.parameters[name].int64_param = value
    return message
