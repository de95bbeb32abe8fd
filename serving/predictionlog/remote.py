"""The worker's end of its log process: appends go out, settlements come back, on the event loop.

If the process dies, what it had not settled fails with `LogUnavailable`, nothing is admitted, and a
new one is started until that succeeds: it recovers the directory and goes on. A record of a failed
append may still be found in the log; one that was settled without an error always is.
"""

import asyncio
import contextlib
import logging
import socket
import sys
from collections import deque
from collections.abc import Mapping
from typing import Final, cast

import msgspec

from serving.errors import LogUnavailable, ServingError
from serving.predictionlog.messages import (
    OPENED,
    SETTLED,
    Opened,
    Reply,
    ReplyReader,
    State,
    encode_append,
    encode_close,
    encode_definition,
    error_of,
)
from serving.predictionlog.plan import LogPlan
from serving.predictionlog.waiting import Settle, Waiter

_MODULE: Final = "serving.predictionlog.process"
_PAUSE_S: Final = 0.2
_END_S: Final = 5.0

_log = logging.getLogger(__name__)


class RemoteCommits(asyncio.Protocol):
    """Commits in a process of its own; see `waiting.Commits` for what the writer expects."""

    def __init__(self, plan: LogPlan, definitions: Mapping[int, bytes]) -> None:
        """definitions: all that were made; told to the process at each of its starts."""
        self.state = State()
        self._plan = plan
        self._definitions = definitions
        self._reader = ReplyReader()
        self._in_flight: deque[Waiter] = deque()
        self._transport: asyncio.Transport | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._opened: asyncio.Future[int] | None = None
        self._down: ServingError | None = None
        self._restart: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()
        self._closing = False

    async def start(self, settle: Settle) -> int:
        """Returns the highest sequence that the directory holds; raises why it cannot be opened."""
        self._settle = settle
        return await self._spawn()

    def define(self, number: int, text: bytes) -> None:
        if self._transport is not None:
            self._transport.write(encode_definition(number, text))

    def put(self, waiter: Waiter) -> None:
        """Sends an append; `settle` is called for it, in order."""
        if self._transport is None:
            # Not in flight: a process that comes up before this runs must not settle it again.
            asyncio.get_running_loop().call_soon(self._settle, [waiter], self.refusal or _gone())
            return
        self._in_flight.append(waiter)
        self._transport.write(encode_append(waiter.records, waiter.sequence, waiter.size_bytes))

    @property
    def refusal(self) -> ServingError | None:
        """Why nothing can be recorded now."""
        return self._down or error_of(self.state.code, self.state.text)

    @property
    def process_id(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def stop(self) -> None:
        """Returns when everything put before is committed, the segment sealed, the process gone."""
        self._closing = True
        if self._restart is not None:
            self._restart.cancel()
        if self._transport is not None:
            self._transport.write(encode_close())
            await self._closed.wait()
        if self._process is not None:
            await self._process.wait()

    # -- asyncio.Protocol ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports fit asyncio.Transport by shape, not by inheritance.
        self._transport = cast("asyncio.Transport", transport)
        for number, text in self._definitions.items():
            self.define(number, text)

    def data_received(self, data: bytes) -> None:
        for reply in self._reader.feed(data):
            self._take(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._reader = ReplyReader()
        self._closed.set()
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(_gone())
        elif not self._closing:
            _log.warning("prediction log: its process is gone; starting another")
            self._down = _gone()
            self._restart = asyncio.ensure_future(self._respawn())
        self._fail_all(_gone())

    # -- inside ----------------------------------------------------------------------------------

    def _take(self, reply: Reply) -> None:
        if reply.kind == SETTLED:
            waiters = [self._in_flight.popleft() for _ in range(reply.appends)]
            self._settle(waiters, reply.error)
        elif reply.kind == OPENED:
            self._open(reply)
        else:
            self.state = msgspec.json.decode(reply.text, type=State)

    def _open(self, reply: Reply) -> None:
        if self._opened is None or self._opened.done():
            return
        if reply.error is not None:
            self._opened.set_exception(reply.error)
        else:
            self._opened.set_result(msgspec.json.decode(reply.text, type=Opened).sequence)

    async def _spawn(self) -> int:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        opened = self._opened = loop.create_future()
        plan = msgspec.json.encode(self._plan, enc_hook=LogPlan.encode_part).decode()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                _MODULE,
                plan,
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
            )
        await loop.create_unix_connection(lambda: self, sock=ours)
        try:
            sequence = await opened
        finally:
            if self._transport is not None and opened.done() and opened.exception() is not None:
                self._transport.abort()
                await self._process.wait()
        self._down = None
        return int(sequence)

    async def _respawn(self) -> None:
        while True:
            if self._process is not None:
                await self._process.wait()
            with contextlib.suppress(ServingError, OSError):
                await self._spawn()
                _log.warning("prediction log: recording again")
                return
            await asyncio.sleep(_PAUSE_S)

    def _fail_all(self, error: ServingError) -> None:
        """Settles what no process will."""
        waiters, self._in_flight = list(self._in_flight), deque()
        if waiters:
            self._settle(waiters, error)


def _gone() -> LogUnavailable:
    return LogUnavailable("the prediction log is being reopened; retry later")
