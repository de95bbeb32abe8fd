"""The HTTP/1.1 server: framing, limits and deadlines; every port of the product runs on it.

One connection carries one request at a time. Its states:

    state     waiting for              leaves by                                      deadline
    IDLE      a first byte             data -> HEAD                                   idle_timeout_s
    HEAD      the end of the head      head complete -> BODY, or RUNNING if no body   head_timeout_s
    BODY      the rest of the body     body complete -> RUNNING                       body_timeout_s,
                                                                            min_body_bytes_per_s
    RUNNING   the application          `send` -> IDLE, or CLOSED                      its own
    CLOSED    nothing                  -                                              -

A broken message, a limit or a deadline answers once and goes to CLOSED, so that bytes after it are
never read as a request. Bytes that arrive while RUNNING wait (the next request is judged alone, in
order) and reading stops when there are many. Writing is watched beside the states: a client that
does not take its answer is cut off after `write_timeout_s`.

No timer exists per connection: one sweep compares a tick. The head is found by its blank line and
parsed by llhttp once per distinct head (`serving.edge.heads`); a chunked body runs through llhttp.
What is guaranteed to the application: a complete, bounded body, exactly one call per request, and
`Responder.watch` when the client goes away first.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Final, Protocol, cast

from serving.edge.chunked import ChunkedBody
from serving.edge.heads import Head, HeadCache
from serving.edge.problems import problem
from serving.errors import (
    ConnectionsFull,
    HeadTooLarge,
    MessageInvalid,
    RequestTimeout,
    ServingError,
    TargetTooLong,
)
from serving.settings import HttpSettings

SWEEP_S: Final = 0.25
_MAX_WAITING_BYTES: Final = 256 * 1024
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Responder(Protocol):
    """Where the answer to one request goes."""

    def send(self, payload: bytes) -> None:
        """Sends a whole response, head and body. Ignored when the client has gone."""

    def watch(self, gone: Callable[[], None]) -> None:
        """Calls `gone` if the client goes away before `send`."""


Application = Callable[[Head, bytes | memoryview, Responder], None]


class State(IntEnum):
    """Where a connection stands; see the table in the module docstring."""

    IDLE = 0
    HEAD = 1
    BODY = 2
    RUNNING = 3
    CLOSED = 4


class Connection(asyncio.Protocol):
    """One client connection: the state table above."""

    __slots__ = (
        "_body",
        "_gone",
        "_head",
        "_known",
        "_received",
        "_server",
        "_since",
        "_state",
        "_transport",
        "_waiting",
        "_write_since",
    )

    _transport: asyncio.Transport

    def __init__(self, server: "HttpServer") -> None:
        self._server = server
        self._known = server.heads.known
        self._state = State.IDLE
        self._since = server.tick
        self._write_since: int | None = None
        self._waiting = b""
        self._head: Head | None = None
        self._body: bytearray | ChunkedBody | None = None
        self._received = 0
        self._gone: Callable[[], None] | None = None

    # -- asyncio.Protocol ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports fit asyncio.Transport by shape, not by inheritance.
        self._transport = cast("asyncio.Transport", transport)
        if not self._server.admit(self):
            self._refuse(ConnectionsFull("too many connections; retry later"))

    def data_received(self, data: bytes) -> None:
        if self._state == State.IDLE:
            end = data.find(b"\r\n\r\n") + 4
            head = self._known(data[:end])
            if head is not None and head.content_length == len(data) - end:
                # The common case: a known head and its whole body in one segment.
                self._head = head
                self._state = State.RUNNING
                self._server.application(head, memoryview(data)[end:], self)
                return
        self._receive(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._close_state()
        self._server.forget(self)
        gone, self._gone = self._gone, None
        if gone is not None:
            gone()

    def pause_writing(self) -> None:
        self._write_since = self._server.tick

    def resume_writing(self) -> None:
        self._write_since = None

    # -- Responder -------------------------------------------------------------------------------

    def send(self, payload: bytes) -> None:
        head = self._head
        if self._state != State.RUNNING or head is None:
            return
        self._gone = None
        if head.keep_alive and not self._server.draining:
            self._transport.write(payload)
            self._state = State.IDLE
            self._since = self._server.tick
            if self._waiting:
                self._server.loop.call_soon(self._resume)
        else:
            self._transport.write(payload.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            self.close()

    def watch(self, gone: Callable[[], None]) -> None:
        self._gone = gone

    # -- receiving -------------------------------------------------------------------------------

    def _receive(self, data: bytes) -> None:
        if self._state == State.CLOSED:
            return
        try:
            if self._state == State.BODY:
                self._receive_body(data)
            elif self._state == State.RUNNING:
                self._hold(data)
            else:
                self._receive_head(self._waiting + data if self._waiting else data)
        except ServingError as error:
            self._refuse(error)

    def _hold(self, data: bytes) -> None:
        self._waiting += data
        if len(self._waiting) > _MAX_WAITING_BYTES:
            self._transport.pause_reading()

    def _resume(self) -> None:
        """Judges what arrived while the previous request was running."""
        if self._state == State.IDLE and self._waiting:
            data, self._waiting = self._waiting, b""
            self._transport.resume_reading()
            self._receive(data)

    def _receive_head(self, data: bytes) -> None:
        if self._state == State.IDLE:
            self._state = State.HEAD
            self._since = self._server.tick
            data = data.removeprefix(b"\r\n")  # RFC 9112 2.2: ignore one empty line before.
        end = data.find(b"\r\n\r\n")
        limits = self._server.limits
        if (end if end >= 0 else len(data)) > limits.max_head_bytes:
            raise HeadTooLarge(f"a request head may have at most {limits.max_head_bytes} bytes")
        if end < 0:
            _check_unfinished(data, limits)
            self._waiting = data
            return
        self._waiting = b""
        head = self._head = self._server.heads.parse(data[: end + 4])
        self._begin_body(head, data[end + 4 :])

    def _begin_body(self, head: Head, rest: bytes) -> None:
        self._state = State.BODY
        self._since = self._server.tick
        self._received = 0
        if head.content_length is None:
            self._body = ChunkedBody(self._server.limits)
        else:
            self._body = bytearray(head.content_length)
        if head.expects_continue and not rest and head.content_length != 0:
            self._transport.write(_CONTINUE)
        self._receive_body(rest)

    def _receive_body(self, data: bytes) -> None:
        body = self._body
        if body is None:
            return
        if isinstance(body, ChunkedBody):
            self._account(len(data))
            if body.feed(data):
                self._run(body.content(), b"")
            return
        missing = len(body) - self._received
        body[self._received : self._received + min(len(data), missing)] = data[:missing]
        self._account(min(len(data), missing))
        if len(data) >= missing:
            self._run(body, data[missing:])

    def _account(self, count: int) -> None:
        self._received += count
        self._server.buffer(self, count)

    def _run(self, body: bytes | bytearray, rest: bytes) -> None:
        head = self._head
        self._server.unbuffer(self._received)
        self._body, self._received = None, 0
        self._state = State.RUNNING
        self._waiting = rest
        if head is not None:
            self._server.application(head, memoryview(body), self)

    # -- ending ----------------------------------------------------------------------------------

    def sweep(self, tick: int) -> None:
        """Applies the deadline of the present state. `tick` counts `SWEEP_S`."""
        limits = self._server.limits
        waited_s = (tick - self._since) * SWEEP_S
        if self._write_since is not None and (tick - self._write_since) * SWEEP_S > (
            limits.write_timeout_s
        ):
            self._transport.abort()
        elif self._state == State.IDLE:
            if waited_s > limits.idle_timeout_s or (self._server.draining and not self._waiting):
                self.close()
        elif self._state == State.HEAD and waited_s > limits.head_timeout_s:
            self._refuse(RequestTimeout("the request head was not complete in time"))
        elif self._state == State.BODY:
            slow = waited_s > 1 and self._received < limits.min_body_bytes_per_s * (waited_s - 1)
            if slow or waited_s > limits.body_timeout_s:
                self._refuse(RequestTimeout("the request body was not complete in time"))

    def close(self) -> None:
        """Closes once what was written has been sent."""
        self._close_state()
        self._transport.close()

    @property
    def busy(self) -> bool:
        """Whether a request has begun and its answer has not been handed over."""
        return self._state in (State.HEAD, State.BODY, State.RUNNING)

    def pause(self) -> None:
        self._transport.pause_reading()

    def unpause(self) -> None:
        if self._state != State.CLOSED:
            self._transport.resume_reading()

    def _refuse(self, error: ServingError) -> None:
        if self._state == State.CLOSED:
            return
        self._transport.write(problem(error).replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        self._server.refused(error)
        self.close()

    def _close_state(self) -> None:
        if self._received:
            self._server.unbuffer(self._received)
            self._received = 0
        self._state = State.CLOSED
        self._body, self._waiting = None, b""


def _check_unfinished(data: bytes, limits: HttpSettings) -> None:
    """Refuses at once what no further byte can mend: a long request line, a bare line feed."""
    if data.find(b"\r\n") < 0 and len(data) > limits.max_request_line_bytes:
        raise TargetTooLong(f"the request line may have {limits.max_request_line_bytes} bytes")
    if data.count(b"\n") != data.count(b"\r\n"):
        raise MessageInvalid("lines of the head must end with CR LF")


def _bind_unix(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    path.chmod(0o600)
    return listening


class HttpServer:
    """Listens, keeps count, sweeps deadlines. Started by `listen`, ended by `aclose`."""

    loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        application: Application,
        *,
        limits: HttpSettings,
        refused: Callable[[ServingError], None] | None = None,
    ) -> None:
        self.application = application
        self.limits = limits
        self.heads = HeadCache(limits)
        self.tick = 0
        self.draining = False
        self.refused: Callable[[ServingError], None] = refused or (lambda _error: None)
        self._connections: set[Connection] = set()
        self._paused: set[Connection] = set()
        self._buffered_bytes = 0
        self._servers: list[asyncio.Server] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._all_gone: asyncio.Event | None = None

    @property
    def connections(self) -> int:
        return len(self._connections)

    async def listen(self, *, host: str, port: int, reuse_port: bool = False) -> int:
        """Accepts TCP connections; port 0 lets the kernel choose. Returns the port."""
        self.loop = asyncio.get_running_loop()
        server = await self.loop.create_server(
            lambda: Connection(self),
            host,
            port,
            reuse_port=reuse_port or None,
            backlog=self.limits.backlog,
        )
        self._started(server)
        bound: socket.socket = server.sockets[0]
        return int(bound.getsockname()[1])

    async def listen_unix(self, path: Path) -> None:
        """Accepts connections on a Unix socket that only this user may open."""
        self.loop = asyncio.get_running_loop()
        listening = _bind_unix(path)
        server = await self.loop.create_unix_server(lambda: Connection(self), sock=listening)
        self._started(server)

    async def aclose(self, *, drain_s: float = 0.0) -> None:
        """Stops accepting, lets running requests finish for at most `drain_s`, then closes."""
        self.draining = True
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.sweep(self.tick)
        if any(connection.busy for connection in self._connections):
            self._all_gone = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(drain_s):
                    await self._all_gone.wait()
        for connection in list(self._connections):
            connection.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        await asyncio.sleep(0)

    # -- what connections tell ---------------------------------------------------------------------

    def admit(self, connection: Connection) -> bool:
        """Whether there is room for one more connection."""
        self._connections.add(connection)
        return len(self._connections) <= self.limits.max_connections and not self.draining

    def forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._paused.discard(connection)
        if self._all_gone is not None and not self._connections:
            self._all_gone.set()

    def buffer(self, connection: Connection, count: int) -> None:
        """Counts body bytes in memory; above the limit this connection is read no further."""
        self._buffered_bytes += count
        if self._buffered_bytes > self.limits.max_buffered_bytes:
            self._paused.add(connection)
            connection.pause()

    def unbuffer(self, count: int) -> None:
        self._buffered_bytes -= count
        if self._paused and self._buffered_bytes <= self.limits.max_buffered_bytes:
            paused, self._paused = self._paused, set()
            for connection in paused:
                connection.unpause()

    def _started(self, server: asyncio.Server) -> None:
        self._servers.append(server)
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self.tick += 1
        for connection in list(self._connections):
            connection.sweep(self.tick)
        self._sweeper = self.loop.call_later(SWEEP_S, self._sweep)
