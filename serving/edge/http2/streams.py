"""One request of an HTTP/2 connection and its answer: what the application sees of it.

An answer leaves in the order in which it is given, and no faster than the client's windows permit:
what they do not permit waits here, bounded by whoever sends (`pending_bytes`, `Receiver.writable`).
An answer that is whole (`send_all`) is one piece when the windows have room for it, which is nearly
always. Nothing that is sent after the stream has ended does any harm.
"""

from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from serving.core.batches import Buffer
from serving.edge.connections import RATE_GRACE_S
from serving.edge.http2.fields import RequestHead
from serving.edge.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEAD,
    HEADERS,
    MAX_FRAME_BYTES,
    MAX_WINDOW,
    ConnectionFault,
    ErrorCode,
    StreamFault,
    header_frames,
    reset_frame,
    window_update_frame,
)

if TYPE_CHECKING:
    from serving.edge.http2.connection import Http2Connection

LEAST_TAKEN_BYTES: Final = 4096
"""So much of an answer has to be taken within `write_timeout_s`: windows can be opened by a byte."""
_ENDS: Final = END_STREAM | END_HEADERS
_pack: Final = FRAME_HEAD.pack


class Receiver(Protocol):
    """What the application makes of a request; called for it in this order."""

    def received(self, data: Buffer) -> None:
        """A piece of the body. `Stream.consumed` gives the client credit for more."""

    def finished(self) -> None:
        """The client has sent all of it."""

    def gone(self) -> None:
        """The client does not want the answer any more, or cannot get it. The last call."""

    def writable(self) -> None:
        """What was pending has left."""

    def late(self) -> None:
        """The body was not complete in time; see `Stream.hasten`. Once, and nothing is called after."""


class _Nobody:
    """Receives for a stream that is over."""

    def received(self, data: Buffer) -> None: ...
    def finished(self) -> None: ...
    def gone(self) -> None: ...
    def writable(self) -> None: ...
    def late(self) -> None: ...


NOBODY: Final = _Nobody()


class Application(Protocol):
    """What is behind a server."""

    @property
    def oversized(self) -> bytes:
        """The block that answers a request with too many fields; read once for each."""

    def __call__(self, stream: "Stream", /) -> Receiver:
        """Takes a request whose head is complete. May answer it at once."""


class Stream:
    """See the module docstring. Made by its connection."""

    __slots__ = (
        "_connection",
        "_consumed",
        "_is_hasty",
        "_owed",
        "_taken",
        "_trailers",
        "_unsent",
        "ended",
        "finished",
        "head",
        "id",
        "pending",
        "receive_window",
        "received_bytes",
        "receiver",
        "since",
        "window",
    )

    receiver: Receiver

    def __init__(
        self, connection: "Http2Connection", number: int, head: RequestHead, *, finished: bool
    ) -> None:
        """finished: the client has sent all of its side."""
        self.id = number
        self.head = head
        self.finished = finished
        self.ended = False
        """Whether our side is over, or nobody is there to see it."""
        self.received_bytes = 0
        self.receive_window = connection.limits.window_bytes
        self.window = connection.first_window
        self.pending = 0
        self.since = connection.tick
        """When the client began its side, or, while something is pending, when some of that left."""
        self._connection = connection
        self._consumed = 0
        self._owed = 0
        self._taken = 0
        self._is_hasty = False
        self._unsent: deque[memoryview] | None = None
        self._trailers: bytes | None = None

    # -- for the application -----------------------------------------------------------------------

    @property
    def pending_bytes(self) -> int:
        """What was given to be sent and has not been taken by the kernel, roughly."""
        return self.pending + self._connection.unwritten_bytes

    @property
    def certificate(self) -> bytes | None:
        """The client's, DER."""
        return self._connection.certificate

    def peer(self) -> object:
        """The socket's name of the other end; empty for a Unix socket."""
        return self._connection.peer()

    def hasten(self) -> None:
        """From here on the client's side has to end in time, and to come at the least rate."""
        self._is_hasty = True

    def send_head(self, block: bytes) -> None:
        """The head of an answer, as an HPACK block without references to a dynamic table."""
        if not self.ended:
            self._connection.write(header_frames(block, self.id, ends=False))
            self._connection.patience.sent()

    def send_data(self, data: bytes) -> None:
        """A piece of the body."""
        if self.ended or not data:
            return
        self._queue(data)
        self.pump()

    def send_end(self, trailers: bytes) -> None:
        """Trailers, as a block, after everything that was sent before."""
        if self.ended:
            return
        self._trailers = trailers
        self.pump()

    def send_only(self, trailers: bytes) -> None:
        """An answer that is a single block."""
        if not self.ended:
            self._connection.write(header_frames(trailers, self.id, ends=True))
            self._end()

    def send_all(self, head: bytes, data: bytes, trailers: bytes) -> None:
        """A whole answer: two blocks, and at least a byte between them."""
        connection, size, number = self._connection, len(data), self.id
        if self.ended:
            return
        fits = size <= min(self.window, connection.window, MAX_FRAME_BYTES)
        if self.pending or not fits or len(trailers) > MAX_FRAME_BYTES:
            self.send_head(head)
            self.send_data(data)
            self.send_end(trailers)
            return
        connection.window -= size
        self.window -= size
        connection.write_all(
            (
                _pack(len(head) >> 8, len(head) & 0xFF, HEADERS, END_HEADERS, number),
                head,
                _pack(size >> 8, size & 0xFF, DATA, 0, number),
                data,
                _pack(len(trailers) >> 8, len(trailers) & 0xFF, HEADERS, _ENDS, number),
                trailers,
            )
        )
        self._end()

    def reset(self, code: ErrorCode) -> None:
        """Ends the stream without an answer, or in the middle of it."""
        if not self.ended:
            self._connection.write(reset_frame(self.id, code))
            self.ended = True
            self._connection.forget(self)

    def consumed(self, count: int) -> None:
        """So much of what was received makes room for more."""
        if self.ended:
            return
        connection = self._connection
        self._owed -= count
        self._consumed += count
        connection.consumed(count)
        is_open = not self.finished and not self.ended
        if is_open and self._consumed * 2 >= connection.limits.window_bytes:
            connection.write(window_update_frame(self.id, self._consumed))
            self.receive_window += self._consumed
            self._consumed = 0

    # -- for the connection ------------------------------------------------------------------------

    def take(self, data: Buffer, *, size: int) -> None:
        """A DATA frame. size: with its padding. Raises StreamFault."""
        self._owed += size
        self.receive_window -= size
        if self.receive_window < 0:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "more than the window permits")
        self.received_bytes += len(data)
        said = self.head.content_length
        if said is not None and self.received_bytes > said:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "more than content-length says")
        padding = size - len(data)
        if padding:
            self.consumed(padding)
        if data:
            self.receiver.received(data)

    def finish(self) -> None:
        """The client has sent all of its side. Raises StreamFault."""
        self.finished = True
        self.check_length()
        if not self.ended:
            self.receiver.finished()

    def check_length(self) -> None:
        """Raises StreamFault for a body that is shorter than it was said to be."""
        if self.head.content_length not in (None, self.received_bytes):
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "less than content-length says")

    def open_window(self, increment: int) -> None:
        """Raises StreamFault."""
        self.window += increment
        if self.window > MAX_WINDOW:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")
        self.resume()

    def shift_window(self, change: int) -> None:
        """The first window of streams has another size now. Raises ConnectionFault."""
        self.window += change
        if self.window > MAX_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window that is too large")

    def resume(self) -> None:
        """Windows have grown."""
        was_pending = self.pending
        self.pump()
        if was_pending and not self.pending and not self.ended:
            self.receiver.writable()

    def pump(self) -> None:
        """Sends what the windows permit of what waits; trailers when nothing is left."""
        if self._unsent:
            self._pump_data(self._unsent)
        if not self.pending and self._trailers is not None and not self.ended:
            self._connection.write(header_frames(self._trailers, self.id, ends=True))
            self._end()

    def leave(self) -> None:
        """The client is gone."""
        if not self.ended:
            self.ended = True
            self.receiver.gone()

    def sweep(self, waited_s: float) -> None:
        """Applies the deadlines: of an answer that is not taken, of a body that has to hurry.

        waited_s: from `since`.
        """
        if self.pending:
            if waited_s > self._connection.limits.write_timeout_s:
                self.receiver.gone()
                self.reset(ErrorCode.CANCEL)
        elif self._is_hasty and not self.finished and self._is_late(waited_s):
            self._is_hasty = False
            self.receiver.late()

    def give_back(self) -> None:
        """Credit of the connection that the application has kept; nobody reads this stream any more."""
        owed, self._owed = self._owed, 0
        if owed:
            self._connection.consumed(owed)

    # -- inside ------------------------------------------------------------------------------------

    def _is_late(self, waited_s: float) -> bool:
        limits, counted_s = self._connection.limits, waited_s - RATE_GRACE_S
        return waited_s > limits.body_timeout_s or (
            counted_s > 0 and self.received_bytes < limits.min_body_bytes_per_s * counted_s
        )

    def _queue(self, data: bytes) -> None:
        if self._unsent is None:
            self._unsent = deque()
        if not self.pending:
            self.since = self._connection.tick
            self._taken = 0
        self._unsent.append(memoryview(data))
        self.pending += len(data)
        self._connection.pending += len(data)

    def _pump_data(self, unsent: deque[memoryview]) -> None:
        connection = self._connection
        while unsent:
            first = unsent[0]
            size = min(len(first), self.window, connection.window, MAX_FRAME_BYTES)
            if size <= 0:
                if self.window > 0:
                    connection.wait_for_window(self)
                return
            self.window -= size
            connection.window -= size
            self.pending -= size
            connection.pending -= size
            self._count(size)
            head = _pack(size >> 8, size & 0xFF, DATA, 0, self.id)
            connection.write_all((head, bytes(first[:size])))
            connection.patience.sent()
            if size == len(first):
                unsent.popleft()
            else:
                unsent[0] = first[size:]

    def _count(self, size: int) -> None:
        """So much of what was pending left."""
        self._taken += size
        if self._taken >= LEAST_TAKEN_BYTES:
            self._taken = 0
            self.since = self._connection.tick

    def _end(self) -> None:
        """Our side is over; a client that still sends is told that nobody reads it."""
        self.ended = True
        if not self.finished:
            self._connection.write(reset_frame(self.id, ErrorCode.NO_ERROR))
        self._connection.served(self)
