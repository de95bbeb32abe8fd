"""One client connection of the HTTP server: one request at a time, every phase of it bounded.

    state     waiting for              leaves by                                      deadline
    IDLE      a first byte             data -> HEAD                                   idle_timeout_s
    HEAD      the end of the head      head complete -> BODY, or RUNNING if all came  head_timeout_s
    BODY      the rest of the body     body complete -> RUNNING                       body_timeout_s,
                                                                            min_body_bytes_per_s
    RUNNING   the application          `send` -> IDLE, or HEAD if more came, or
                                       WRITING if it piles up, or LINGER              its own
    WRITING   the client's reading     answer taken -> IDLE, or HEAD if more came     write_timeout_s
    LINGER    the client's closing     end of its bytes, or too many -> CLOSED        LINGER_S
    CLOSED    the last bytes to leave  -                                              write_timeout_s

A broken message, a limit or a deadline is answered once and leads to LINGER, as does an answer after
which the connection closes: our direction is shut, and what the client still sends is read and
thrown away, so that it is never taken for a request. Closing at once would be simpler and wrong:
bytes that nobody read make the kernel reset the connection, and the client loses the answer. TLS
knows no half of a connection to shut: there the client is only told that this was the last answer.

Bytes that arrive while RUNNING or WRITING wait (the next request is judged alone, in order) and
reading stops when there are many. So a client that does not read gets no further answers: at most
one is in memory beyond what the transport buffers by itself.

The end of the client's bytes counts as its going away, even if it could still read: that is how a
client that gave up looks, and its request should not keep its place in a batch.
"""

import asyncio
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol, cast

from serving.edge.connections import RATE_GRACE_S, SWEEP_S
from serving.edge.http1.bodies import LONG_BYTES, DirectReceiver, SizedBody
from serving.edge.http1.chunked import ChunkedBody
from serving.edge.http1.heads import Head, check_unfinished
from serving.edge.problems import problem
from serving.errors import RequestTimeout, ServingError

if TYPE_CHECKING:
    from serving.edge.http1.server import HttpServer


_MAX_LINGER_BYTES: Final = 256 * 1024 * 1024
_MAX_WAITING_BYTES: Final = 256 * 1024
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Responder(Protocol):
    """Where the answer to one request goes."""

    def send(self, payload: bytes) -> None:
        """Sends a whole response, head and body. Ignored when the client has gone."""

    def send_refusal(self, payload: bytes) -> None:
        """The same for a refused credential; it may wait (`serving.edge.guesses`)."""

    def watch(self, gone: Callable[[], object]) -> None:
        """Calls `gone` if the client goes away before `send`."""

    def peer(self) -> str:
        """The client's address; empty on a Unix socket."""


Application = Callable[[Head, bytes | memoryview, Responder], None]


class State(IntEnum):
    """Where a connection stands; see the table in the module docstring."""

    IDLE = 0
    HEAD = 1
    BODY = 2
    RUNNING = 3
    WRITING = 4
    LINGER = 5
    CLOSED = 6


# For the path of every request: a member read from its class costs about 0.09 us in Python 3.11.
_IDLE: Final = State.IDLE
_RUNNING: Final = State.RUNNING


class Connection(asyncio.Protocol):
    """One client connection: the state table above."""

    __slots__ = (
        "_body",
        "_choked",
        "_gone",
        "_head",
        "_heads",
        "_known",
        "_port",
        "_received",
        "_server",
        "_since",
        "_state",
        "_transport",
        "_waiting",
    )

    _transport: asyncio.Transport

    def __init__(self, server: "HttpServer") -> None:
        self._server = server
        self._port = server.port
        self._heads = server.heads
        self._known = server.heads.known
        self._state = State.IDLE
        self._since = server.port.tick
        self._choked = False
        self._waiting = b""
        self._head: Head | None = None
        self._body: SizedBody | ChunkedBody | None = None
        self._received = 0
        self._gone: Callable[[], object] | None = None

    # -- asyncio.Protocol ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports fit asyncio.Transport by shape, not by inheritance.
        self._transport = cast("asyncio.Transport", transport)
        encrypted = transport.get_extra_info("ssl_object")
        if encrypted is not None:
            # None for a client that showed no certificate; one that was refused never gets here.
            self._heads = self._server.heads_of(encrypted.getpeercert(binary_form=True))
            self._known = self._heads.known
        refusal = self._port.admit(self, transport)
        if refusal is not None:
            # Without lingering: one connection too many must not be held for the sake of manners.
            self._server.refused(refusal)
            self._transport.write(_last(problem(refusal)))
            self.close()

    def data_received(self, data: bytes) -> None:
        if self._state == _IDLE:
            end = data.find(b"\r\n\r\n") + 4
            head = self._known(data[:end])
            if head is not None and head.content_length == len(data) - end:
                # The common case: a known head and its whole body in one segment.
                self._head = head
                self._state = _RUNNING
                self._server.application(head, memoryview(data)[end:], self)
                return
        self._receive(data)

    def eof_received(self) -> None:
        self._leave()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self._port.forget(self)

    def pause_writing(self) -> None:
        self._choked = True

    def resume_writing(self) -> None:
        self._choked = False
        if self._state == State.WRITING:
            self._proceed()

    # -- Responder -------------------------------------------------------------------------------

    def send(self, payload: bytes) -> None:
        head = self._head
        if self._state != _RUNNING or head is None:
            return
        self._gone = None
        if not head.keep_alive or self._port.draining:
            self._answer_last(payload, bodiless=head.method == "HEAD")
            return
        self._transport.write(payload)
        if self._choked:
            self._enter(State.WRITING)
        elif self._waiting:
            self._proceed()
        else:
            self._state = _IDLE
            self._since = self._port.tick

    def send_refusal(self, payload: bytes) -> None:
        wait_s = self._server.wait_for_guess(self._transport.get_extra_info("peername"))
        if not wait_s:
            self.send(payload)
            return
        head = self._head
        self._gone = None
        asyncio.get_running_loop().call_later(
            wait_s, lambda: self.send(payload) if self._head is head else None
        )

    def watch(self, gone: Callable[[], object]) -> None:
        self._gone = gone

    def peer(self) -> str:
        name = self._transport.get_extra_info("peername")
        return str(name[0]) if isinstance(name, tuple) and name else ""

    # -- receiving -------------------------------------------------------------------------------

    def _receive(self, data: bytes) -> None:
        try:
            if self._state <= State.HEAD:
                self._receive_head(self._waiting + data)
            elif self._state == State.BODY:
                self._receive_body(data)
            elif self._state <= State.WRITING:
                self._hold(data)
            elif self._state == State.LINGER:
                self._discard(data)
        except ServingError as error:
            self._refuse(error)

    def _receive_head(self, data: bytes) -> None:
        data = data.lstrip(b"\r\n")  # RFC 9112 2.2: empty lines before a request mean nothing.
        if bool(data) == (self._state == State.IDLE):
            self._enter(State.HEAD if data else State.IDLE)
        self._waiting = b""
        end = data.find(b"\r\n\r\n") + 4
        if end >= 4:  # noqa: PLR2004 - the blank line was found
            head = self._heads.parse(data[:end])
            self._begin_body(head, data[end:])
        elif data:
            check_unfinished(data, self._server.limits)
            self._waiting = data

    def _begin_body(self, head: Head, rest: bytes) -> None:
        self._head = head
        length = head.content_length
        if length is not None and len(rest) >= length:
            self._run(head, rest[:length], rest[length:])
            return
        self._enter(State.BODY)
        self._body = ChunkedBody(self._server.limits) if length is None else SizedBody(length)
        if head.expects_continue and not rest:
            self._transport.write(_CONTINUE)
        self._receive_body(rest)

    def _receive_body(self, data: bytes) -> None:
        head, body = self._head, self._body
        if head is None or body is None:
            return
        rest = body.feed(data)
        if rest is not None:
            self._forget_body()
            self._run(head, body.content(), rest)
            return
        self._server.buffer(len(data))
        self._received += len(data)
        if isinstance(body, SizedBody) and body.is_long:
            self._read_with(DirectReceiver(self))

    # -- bodies.Directed -------------------------------------------------------------------------

    def place_for_body(self) -> memoryview:
        """Where the next bytes of a long body belong; nowhere once it was given up."""
        body = self._body
        return body.place() if isinstance(body, SizedBody) else memoryview(bytearray(LONG_BYTES))

    def body_placed(self, count: int) -> None:
        """`count` more bytes of a long body are in their place."""
        head, body = self._head, self._body
        if head is None or not isinstance(body, SizedBody):
            return
        try:
            if body.placed(count):
                self._read_with(self)
                self._forget_body()
                self._run(head, body.content(), b"")
            else:
                self._server.buffer(count)
                self._received += count
        except ServingError as error:
            self._refuse(error)

    def _read_with(self, protocol: asyncio.BaseProtocol) -> None:
        """uvloop chooses how it reads when reading starts."""
        self._transport.pause_reading()
        self._transport.set_protocol(protocol)
        self._transport.resume_reading()

    def _run(self, head: Head, body: bytes | bytearray | memoryview, rest: bytes) -> None:
        self._state = State.RUNNING
        self._waiting = rest
        self._server.application(head, memoryview(body), self)

    def _hold(self, data: bytes) -> None:
        self._waiting += data
        if len(self._waiting) > _MAX_WAITING_BYTES:
            self._transport.pause_reading()

    def _proceed(self) -> None:
        """To the next request: the one that came meanwhile, or whichever comes."""
        if self._waiting:
            # HEAD and not IDLE: what arrives before `_resume` belongs behind what waits.
            self._enter(State.HEAD)
            asyncio.get_running_loop().call_soon(self._resume)
        else:
            self._enter(State.IDLE)

    def _resume(self) -> None:
        """Judges what arrived while the previous request was running."""
        self._transport.resume_reading()
        if self._state == State.HEAD:
            self._receive(b"")

    def _discard(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > _MAX_LINGER_BYTES:
            self.close()

    # -- ending ----------------------------------------------------------------------------------

    def sweep(self, tick: int) -> None:
        """Applies the deadline of the present state. `tick` counts `SWEEP_S`."""
        waited_s = (tick - self._since) * SWEEP_S
        late = waited_s > self._server.deadlines_s[self._state]
        if self._state == State.BODY:
            late = late or self._is_slow(waited_s)
        if not late:
            return
        if self._state == State.HEAD:
            self._refuse(RequestTimeout("the request head was not complete in time"))
        elif self._state == State.BODY:
            self._refuse(RequestTimeout("the request body was not complete in time"))
        elif self._state in (State.IDLE, State.LINGER):
            self.close()
        else:
            self.abort()

    def drain(self) -> None:
        """Closes when idle, for which it has less time now; `send` does, after what is under way."""
        self.sweep(self._port.tick)

    def close(self) -> None:
        """Closes once what was written has been sent."""
        self._forget_body()
        self._enter(State.CLOSED)
        self._transport.close()

    def abort(self) -> None:
        """Closes now, whatever was written."""
        self._transport.abort()

    def _is_slow(self, waited_s: float) -> bool:
        counted_s = waited_s - RATE_GRACE_S
        return counted_s > 0 and (
            self._received < self._server.limits.min_body_bytes_per_s * counted_s
        )

    def _refuse(self, error: ServingError) -> None:
        self._server.refused(error)
        self._answer_last(problem(error), bodiless=False)

    def _answer_last(self, payload: bytes, *, bodiless: bool) -> None:
        """The last answer of this connection; see LINGER."""
        self._forget_body()
        self._waiting = b""
        self._enter(State.LINGER)
        if bodiless:
            payload = payload[: payload.find(b"\r\n\r\n") + 4]
        self._transport.write(_last(payload))
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._read_with(self)

    def _leave(self) -> None:
        """The client has gone."""
        self._forget_body()
        self._enter(State.CLOSED)
        gone, self._gone = self._gone, None
        if gone is not None:
            gone()

    def _enter(self, state: State) -> None:
        self._state = state
        self._since = self._port.tick

    def _forget_body(self) -> None:
        if self._state == State.BODY:
            self._server.unbuffer(self._received)
        self._received = 0
        self._body = None


def _last(payload: bytes) -> bytes:
    return payload.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
