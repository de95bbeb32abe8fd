"""A gRPC call that lasts: a coroutine reads and writes, and its end is the end of the call.

The client sends no faster than the coroutine reads: credit for what came is given back once no
message waits to be read. It is sent to no faster than it takes: `write` waits while more than
`MAX_PENDING_BYTES` are on their way. A client that leaves, or whose deadline passes, cancels the
coroutine.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from serving.core.batches import Buffer
from serving.edge.grpc.calls import HEADS, OK, GrpcCall, unexpected
from serving.edge.grpc.framing import MessageReader, framed
from serving.edge.grpc.problems import Failure, trailer_block
from serving.errors import DeadlineExceeded, MessageInvalid, ServingError

MAX_PENDING_BYTES: Final = 256 * 1024
"""Of answers of one call that have not left; more are not written before."""


class Context(GrpcCall):
    """One call, as its coroutine sees it: `read`, `write`, and what `GrpcCall` knows."""

    __slots__ = (
        "_answered", "_changed", "_finished", "_messages", "_owed_bytes", "_reader", "_task", "_timer",
        "_waiting_bytes",
    )  # fmt: skip

    def begin(self, serve: "ServeLasting") -> None:
        """First of all, once: `serve` runs from here on."""
        head = self.head
        self._reader = MessageReader(head.encoding, max_bytes=self._calls.max_message_bytes)
        self._messages: deque[Buffer] = deque()
        self._waiting_bytes = 0
        self._owed_bytes = 0
        self._finished = False
        self._answered = False
        self._changed = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._timer = None
        if head.timeout_s is not None:
            self._timer = loop.call_later(head.timeout_s, self._expire)
        self._task = loop.create_task(self._run(serve))

    # -- what the coroutine does -------------------------------------------------------------------

    async def read(self) -> Buffer | None:
        """The next message; None when the client has sent its last. One reader at a time."""
        while not self._messages:
            if self._finished:
                return None
            self._changed.clear()
            await self._changed.wait()
        message = self._messages.popleft()
        self._waiting_bytes -= len(message)
        self._keep(self._reader.held_bytes + self._waiting_bytes)
        if not self._messages:
            self._give_credit()
        return message

    async def write(self, message: bytes) -> None:
        """Sends a message; waits while too much is on its way."""
        encoding = self.head.answer_encoding
        if not self._answered:
            self._answered = True
            self.stream.send_head(HEADS[encoding])
        self.stream.send_data(framed(message, encoding))
        while self.stream.pending_bytes > MAX_PENDING_BYTES:
            self._changed.clear()
            await self._changed.wait()

    # -- Receiver ----------------------------------------------------------------------------------

    def received(self, data: Buffer) -> None:
        self._owed_bytes += len(data)
        try:
            for message in self._reader.feed(data):
                self._messages.append(message)
                self._waiting_bytes += len(message)
                self._keep(self._waiting_bytes)
            self._keep(self._reader.held_bytes + self._waiting_bytes)
        except ServingError as error:
            self.refuse(error)
        if not self._messages:
            self._give_credit()
        self._changed.set()

    def finished(self) -> None:
        self._finished = True
        self._changed.set()
        if self._reader.held_bytes:
            self.refuse(MessageInvalid("the last message ends too early"))

    def gone(self) -> None:
        if self._end():
            self._task.cancel()

    def writable(self) -> None:
        self._changed.set()

    # -- ending ------------------------------------------------------------------------------------

    def fail(self, ended: Failure) -> None:
        answered = self._answered
        if not self._end():
            return
        if answered:
            self.stream.send_end(trailer_block(ended))
        else:
            self.stream.send_only(HEADS[None] + trailer_block(ended))
        self._task.cancel()

    async def _run(self, serve: "ServeLasting") -> None:
        try:
            await serve(self)
        except ServingError as error:
            self.refuse(error)
        except asyncio.CancelledError:
            self.gone()
            raise
        except Exception as error:  # noqa: BLE001 - outermost: the worker must survive a call
            self.refuse(unexpected(error))
        else:
            self._succeed()

    def _succeed(self) -> None:
        answered = self._answered
        if not self._end():
            return
        if answered:
            self.stream.send_end(OK)
        else:
            self.stream.send_only(HEADS[None] + OK)

    def _expire(self) -> None:
        self.refuse(DeadlineExceeded("the deadline passed before the call ended"))

    def _give_credit(self) -> None:
        owed_bytes, self._owed_bytes = self._owed_bytes, 0
        if owed_bytes:
            self.stream.consumed(owed_bytes)

    def _end(self) -> bool:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return super()._end()


ServeLasting = Callable[[Context], Awaitable[None]]
"""Serves one call. Raises ServingError to refuse it."""
