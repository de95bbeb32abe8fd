"""ModelStreamInfer: many inferences on one call, each one's fate its own.

Requests are read while others are answered, and answers leave in the order in which they are ready;
a client tells them apart by their ids. A request that fails is answered with its error, and the
stream goes on. What a single call has as trailers, an answer here has as parameters. A draining server
reads no more and ends the stream after the answers to what it has read.
"""

import asyncio
from functools import partial
from typing import Final

from serving.core.batches import Buffer
from serving.edge.grpc.calls import unexpected
from serving.edge.grpc.context import Context
from serving.edge.grpc.facts import SERVICE
from serving.edge.grpc.gate import Method, streaming
from serving.edge.grpc.infer import GrpcExchange, Reception
from serving.edge.grpc.messages import stream_answer, stream_error
from serving.edge.grpc.problems import Failure, failure
from serving.errors import ServingError

WINDOW: Final = 64
"""Requests of one stream whose answers have not left; more are not read before."""


class StreamCalls:
    """The streaming inference call of the service."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception
        self._readers: set[asyncio.Task[None]] = set()

    def methods(self) -> dict[str, Method]:
        return {f"/{SERVICE}/ModelStreamInfer": streaming(self._serve)}

    def drain(self) -> None:
        """Open streams end with the answers to what they have read."""
        for reader in self._readers:
            reader.cancel()

    async def _serve(self, context: Context) -> None:
        stream = _Stream(self._reception, context)
        reader = asyncio.create_task(stream.read())
        self._readers.add(reader)
        try:
            await stream.write()
        finally:
            self._readers.discard(reader)
            reader.cancel()
            stream.abandon()


class _Stream:
    """One call. `read` and `write` run beside each other; `write` ends last."""

    def __init__(self, reception: Reception, context: Context) -> None:
        self._reception = reception
        self._context = context
        self._room = asyncio.Semaphore(WINDOW)
        self._running: dict[int, GrpcExchange] = {}
        self._answers: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._read = 0
        self._all_read = False

    async def read(self) -> None:
        """Takes requests in until the client has no more, or the server drains."""
        try:
            while True:
                await self._room.acquire()
                message = await self._context.read()
                if message is None:
                    return
                self._take(message)
        finally:
            self._all_read = True
            self._end_if_done()

    async def write(self) -> None:
        """Until every request that was read has its answer."""
        while (answer := await self._answers.get()) is not None:
            await self._context.write(answer)
            self._room.release()

    def abandon(self) -> None:
        """The client waits no longer."""
        for exchange in list(self._running.values()):
            exchange.abandon()

    def _take(self, message: Buffer) -> None:
        self._read = number = self._read + 1
        request_id = ""
        try:
            exchange = self._reception.exchange(
                message, self._context, partial(self._finish, number)
            )
            request_id = exchange.request_id
            self._running[number] = exchange
            self._reception.pipeline.infer(exchange)
        except ServingError as error:
            self._refuse(number, error, request_id)
        except Exception as error:  # noqa: BLE001 - outermost: the worker must survive a request
            self._refuse(number, unexpected(error), request_id)

    def _refuse(self, number: int, error: ServingError, request_id: str) -> None:
        self._reception.refused(error)
        self._running.pop(number, None)
        self._answer(_described(failure(error), request_id))

    def _finish(self, number: int, exchange: GrpcExchange, end: bytes | Failure) -> None:
        self._running.pop(number, None)
        if isinstance(end, Failure):
            self._answer(_described(end, exchange.request_id))
        else:
            self._answer(stream_answer(end, exchange.trailers))

    def _answer(self, answer: bytes) -> None:
        self._answers.put_nowait(answer)
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._all_read and not self._running:
            self._answers.put_nowait(None)


def _described(ended: Failure, request_id: str) -> bytes:
    parameters = (("code", ended.reason), ("request_id", ended.request_id))
    return stream_error(ended.message, request_id=request_id, parameters=parameters)
