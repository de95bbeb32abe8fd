"""Server reflection: what can be called here, for tools that ask. Both names of the service.

What is answered is the business of the protocol's own package; here its calls meet our contexts.
"""

from collections.abc import AsyncIterator
from typing import Any, Final

from google.protobuf.descriptor_pool import DescriptorPool  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]  # it ships no types
from grpc_reflection.v1alpha import reflection, reflection_pb2  # type: ignore[import-untyped]

from serving.edge.grpc import inference_pb2
from serving.edge.grpc.context import Context
from serving.edge.grpc.gate import Method, streaming
from serving.edge.grpc.messages import parse

_NAMES: Final = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
"""The two differ in their names only."""


def reflection_methods(services: tuple[str, ...]) -> dict[str, Method]:
    """services: those that are told of."""
    pool = DescriptorPool()
    for module in (inference_pb2, health_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    servicer = reflection.aio.ReflectionServicer(services, pool)

    async def serve(context: Context) -> None:
        async for answer in servicer.ServerReflectionInfo(_requests(context), None):
            await context.write(answer.SerializeToString())

    return {f"/{name}.ServerReflection/ServerReflectionInfo": streaming(serve) for name in _NAMES}


async def _requests(context: Context) -> AsyncIterator[Any]:
    while (message := await context.read()) is not None:
        yield parse(message, reflection_pb2.ServerReflectionRequest)
