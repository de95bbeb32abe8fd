"""The floors: what answering costs when there is nothing to answer.

    python -m loadtests.fixed_answer bare     a uvloop protocol that parses nothing
    python -m loadtests.fixed_answer edge     the product's HTTP server, all its limits on
    python -m loadtests.fixed_answer grpc     `grpc.aio` with one call

All send the same 200 bytes or so to every request, whatever it says, on one event loop. Prints
`listening PORT`, runs until SIGTERM.
"""

import argparse
import asyncio
import gc
import signal
import sys
from contextlib import AsyncExitStack
from typing import Final, cast

import grpc  # type: ignore[import-untyped]  # it ships no types
import uvloop

from serving.edge.grpc import inference_pb2
from serving.edge.http1.connection import Responder
from serving.edge.http1.heads import Head
from serving.edge.http1.server import HttpServer
from serving.port_settings import HttpSettings

LOOPBACK: Final = "127.0.0.1"
_BODY: Final = (
    b'{"model_name":"fixed","outputs":[{"name":"output","datatype":"FP32","shape":[1,8],'
    b'"data":[0,1,2,3,4,5,6,7]}]}'
)
ANSWER: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    % (len(_BODY), _BODY)
)


class BareProtocol(asyncio.Protocol):
    """One answer per head seen; the load generator sends a request in one segment."""

    _transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports fit asyncio.Transport by shape, not by inheritance.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(ANSWER * data.count(b"\r\n\r\n"))


def answer(_head: Head, _body: bytes | memoryview, responder: Responder) -> None:
    """The application of `edge`."""
    responder.send(ANSWER)


async def _listen(kind: str) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    async with AsyncExitStack() as stack:
        if kind == "edge":
            port = await HttpServer(answer, limits=HttpSettings()).listen(host=LOOPBACK, port=0)
        elif kind == "grpc":
            port = await _listen_grpc(stack)
        else:
            server = await loop.create_server(BareProtocol, LOOPBACK, 0)
            port = server.sockets[0].getsockname()[1]
        await _serve(port, stopping)


async def _listen_grpc(stack: AsyncExitStack) -> int:
    """Taken and given as bytes, as the product does."""
    answer = inference_pb2.ModelInferResponse(model_name="fixed", raw_output_contents=[bytes(32)])
    answer.outputs.add(name="output", datatype="FP32", shape=[1, 8])
    payload: bytes = answer.SerializeToString()

    async def infer(_message: bytes, _context: object) -> bytes:
        return payload

    server = grpc.aio.server()
    methods = {"ModelInfer": grpc.unary_unary_rpc_method_handler(infer)}
    service = "inference.GRPCInferenceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    port: int = server.add_insecure_port(f"{LOOPBACK}:0")
    await server.start()
    stack.push_async_callback(server.stop, None)
    return port


async def _serve(port: int, stopping: asyncio.Event) -> None:
    gc.collect()
    gc.freeze()
    sys.stdout.write(f"listening {port}\n")
    sys.stdout.flush()
    await stopping.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=("bare", "edge", "grpc"))
    uvloop.run(_listen(parser.parse_args().kind))


if __name__ == "__main__":
    main()
