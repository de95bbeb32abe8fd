"""HTTP/2 as hostile callers speak it: frames made by hand, and a client that checks nothing it sends.

What comes back is held to the protocol: frames of known kinds on known streams, field blocks that
the hpack library decodes, nothing behind the end of a stream or beyond a window.
"""

import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Self

import hpack

from tests.hostile.http2_tls import Tunnel

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PATIENCE_S: Final = 10.0
HEAD_BYTES: Final = 9
WINDOW: Final = 65_535
"""Of a connection and of each stream, until somebody says otherwise."""
MAX_WINDOW: Final = 2**31 - 1
MAX_FRAME: Final = 16_384

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITIZED: Final = 0x20
WHOLE: Final = END_HEADERS | END_STREAM

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)

Fields = Iterable[tuple[bytes, bytes]]


class Kind(IntEnum):
    """Kinds of frames."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Code(IntEnum):
    """Why a stream or a connection ends."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11


class Setting(IntEnum):
    """What a SETTINGS frame may say."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


@dataclass(frozen=True, slots=True)
class Frame:
    """One as it came."""

    kind: int
    flags: int
    stream: int
    payload: bytes


# -- frames ------------------------------------------------------------------------------------------


def frame(
    kind: int, payload: bytes = b"", *, stream: int = 0, flags: int = 0, length: int | None = None
) -> bytes:
    """Any frame. length: what its head says, where that is a lie."""
    said = len(payload) if length is None else length
    return struct.pack("!I", said)[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def settings(values: Mapping[int, int] | None = None) -> bytes:
    pairs = (values or {}).items()
    return frame(Kind.SETTINGS, b"".join(struct.pack("!HI", *pair) for pair in pairs))


def headers(block: bytes, stream: int, flags: int = WHOLE) -> bytes:
    return frame(Kind.HEADERS, block, stream=stream, flags=flags)


def continuation(block: bytes, stream: int, flags: int = END_HEADERS) -> bytes:
    return frame(Kind.CONTINUATION, block, stream=stream, flags=flags)


def data(payload: bytes, stream: int, flags: int = END_STREAM) -> bytes:
    return frame(Kind.DATA, payload, stream=stream, flags=flags)


def reset(stream: int, code: int = Code.CANCEL) -> bytes:
    return frame(Kind.RST_STREAM, struct.pack("!I", code), stream=stream)


def window_update(increment: int, stream: int = 0) -> bytes:
    return frame(Kind.WINDOW_UPDATE, struct.pack("!I", increment), stream=stream)


def ping(payload: bytes = b"\0" * 8, flags: int = 0) -> bytes:
    return frame(Kind.PING, payload, flags=flags)


def goaway(last: int = 0, code: int = Code.NO_ERROR) -> bytes:
    return frame(Kind.GOAWAY, struct.pack("!II", last, code))


def priority(stream: int, *, depends_on: int = 0) -> bytes:
    return frame(Kind.PRIORITY, struct.pack("!IB", depends_on, 15), stream=stream)


def padded(payload: bytes, padding: int, *, kind: int, stream: int, flags: int) -> bytes:
    """A frame with so many bytes of padding."""
    body = bytes((padding,)) + payload + bytes(padding)
    return frame(kind, body, stream=stream, flags=flags | PADDED)


def integer(value: int, bits: int, first: int = 0) -> bytes:
    """A number of a field block behind the bits of `first`."""
    most = (1 << bits) - 1
    if value < most:
        return bytes((first | value,))
    found = bytearray((first | most,))
    value -= most
    while value >= 128:
        found.append(128 | value & 127)
        value >>= 7
    found.append(value)
    return bytes(found)


def literal(name: bytes, value: bytes, first: int = 0) -> bytes:
    """A field without any table. first: 0x40 puts it into the dynamic one, 0x10 forbids that."""
    return bytes((first,)) + b"".join(integer(len(each), 7) + each for each in (name, value))


def block(fields: Fields) -> bytes:
    """A field block that neither reads nor changes a table."""
    return b"".join(literal(name, value) for name, value in fields)


def frames_of(raw: bytes) -> list[Frame]:
    """All frames in `raw`, which must end with one."""
    found, rest = [], raw
    while rest:
        made = first_frame(rest)
        assert made is not None, rest
        found.append(made)
        rest = rest[HEAD_BYTES + len(made.payload) :]
    return found


def first_frame(raw: bytes | bytearray) -> Frame | None:
    """The first in `raw`; None while it is not complete."""
    end = HEAD_BYTES + int.from_bytes(raw[:3], "big")
    if len(raw) < max(end, HEAD_BYTES):
        return None
    kind, flags, stream = struct.unpack("!BBI", bytes(raw[3:HEAD_BYTES]))
    return Frame(kind, flags, stream, bytes(raw[HEAD_BYTES:end]))


# -- the client --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Reply:
    """What came on a stream. reset: why the server cut it, None when it did not."""

    head: dict[bytes, bytes] = field(default_factory=dict)
    trailers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    reset: Code | None = None
    complete: bool = False

    @property
    def is_over(self) -> bool:
        return self.complete or self.reset is not None

    @property
    def status(self) -> int:
        return int(self.head[b":status"])

    @property
    def last(self) -> dict[bytes, bytes]:
        """The trailers, or the head where it is all there is."""
        return self.trailers or self.head

    @property
    def grpc_status(self) -> int | None:
        found = self.last.get(b"grpc-status")
        return None if found is None else int(found)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a connection ended. code: of its last GOAWAY, None without one. last: the stream in it."""

    code: Code | None
    last: int = 0
    reason: bytes = b""


class Http2Client:
    """One connection; it blocks, at most `PATIENCE_S`. Answers PING and SETTINGS while it reads.

    windows: what the server may send on each stream. polite: whether it answers at all.
    tls: None for plain text. told: gets each stream that is over.
    """

    def __init__(
        self,
        port: int,
        *,
        greets: bool = True,
        windows: int = MAX_WINDOW,
        connection_window: int = MAX_WINDOW,
        polite: bool = True,
        receive_buffer_bytes: int = 0,
        tls: ssl.SSLContext | None = None,
        told: Callable[[Reply], None] = lambda _reply: None,
    ) -> None:
        self.encoder = hpack.Encoder()
        self.replies: dict[int, Reply] = {}
        self.control: list[Frame] = []
        """Frames that belong to no stream, and WINDOW_UPDATE for one."""
        self.settings: dict[int, int] = {}
        self.goaways: list[Ending] = []
        self.next_stream = 1
        self.has_ended = False
        self._received = bytearray()
        self._unfinished = b""
        self._decoder = hpack.Decoder(max_header_list_size=1 << 20)
        self._polite, self._told = polite, told
        self._allowed = {0: connection_window}
        self._windows = windows
        self._socket = connected(port, receive_buffer_bytes, tls)
        if greets:
            self.send(greeting(windows, connection_window))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- sending -------------------------------------------------------------------------------------

    def send(self, *parts: bytes) -> Self:
        for part in parts:
            self._socket.sendall(part)
        return self

    def try_send(self, raw: bytes) -> bool:
        """Whether the server still takes bytes."""
        try:
            self._socket.sendall(raw)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def send_while_taken(self, raw: bytes, *, times: int, within_s: float = PATIENCE_S) -> bool:
        """Sends `raw` so many times without reading. False when the server stopped to take it."""
        self._socket.settimeout(within_s)
        try:
            return all(self.try_send(raw) for _ in range(times))
        except TimeoutError:
            return False
        finally:
            self._socket.settimeout(PATIENCE_S)

    @property
    def tunnel(self) -> Tunnel:
        """Its TLS, to send records that are not whole."""
        assert isinstance(self._socket, Tunnel)
        return self._socket

    def new_stream(self) -> int:
        """An id that was not used yet."""
        self.next_stream += 2
        return self.next_stream - 2

    def grant(self, increment: int, stream: int = 0) -> Self:
        """Lets the server send so much more."""
        self._allowed[stream] = self.allowed(stream) + increment
        self.try_send(window_update(increment, stream))
        return self

    def widen(self, windows: int) -> Self:
        """Lets the server send so much more on every stream there is or will be."""
        self._windows += windows
        for stream in self._allowed.keys() - {0}:
            self._allowed[stream] += windows
        return self.send(settings({Setting.INITIAL_WINDOW_SIZE: self._windows}))

    def allowed(self, stream: int) -> int:
        """How many bytes the server may still send."""
        return self._allowed.get(stream, self._windows)

    def close(self) -> None:
        self._socket.close()

    def shut(self) -> None:
        """Says that nothing more will come."""
        self._socket.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Ends the connection with a reset of TCP."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._socket.close()

    # -- reading -------------------------------------------------------------------------------------

    def reply(self, stream: int, *, within_s: float = PATIENCE_S) -> Reply:
        """What came on a stream until it was over, or until the connection ended."""
        found = self.replies.setdefault(stream, Reply())
        self.read_until(lambda: found.is_over, within_s=within_s)
        return found

    def reply_is_over(self, stream: int) -> bool:
        """Whether all of it has been read, or the connection has ended."""
        found = self.replies.get(stream)
        return self.has_ended or (found is not None and found.is_over)

    def ending(self, *, within_s: float = PATIENCE_S) -> Ending:
        """How the connection ended; fails when it does not."""
        self.read_until(lambda: False, within_s=within_s)
        return self.goaways[-1] if self.goaways else Ending(None)

    def pong(self, payload: bytes = b"are you?", *, within_s: float = PATIENCE_S) -> bool:
        """Whether the server answers a PING. All that it had to say before has been read then."""
        wanted = Frame(Kind.PING, ACK, 0, payload)
        self.try_send(ping(payload))
        self.read_until(lambda: wanted in self.control, within_s=within_s)
        answered = wanted in self.control
        if answered:
            self.control.remove(wanted)
        return answered

    def read_until(self, done: Callable[[], bool], *, within_s: float = PATIENCE_S) -> None:
        """Returns when `done` or at the end of the connection; fails when neither comes in time."""
        until = time.monotonic() + within_s
        while not done() and not self.has_ended:
            remaining_s = until - time.monotonic()
            assert remaining_s > 0, f"not within {within_s:g} s: {self.replies} {self.control}"
            self.read_for(remaining_s)

    def read_for(self, within_s: float) -> bool:
        """Takes in what comes next, and waits for it for so long. Whether something came."""
        if self.has_ended or not self._has_bytes(within_s):
            return False
        try:
            received = self._socket.recv(1 << 16)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            self.has_ended = True
            self._received.clear()
            return False
        self.has_ended = not received
        self._received += received
        while (made := first_frame(self._received)) is not None:
            del self._received[: HEAD_BYTES + len(made.payload)]
            self._take(made)
        assert not (self.has_ended and self._received), "it ended within a frame"
        return not self.has_ended

    def read_raw(self, count: int) -> bytes:
        """At most so many bytes, not understood; nothing when the connection is gone."""
        try:
            return self._socket.recv(count)
        except ConnectionResetError:
            return b""

    # -- inside --------------------------------------------------------------------------------------

    def _has_bytes(self, within_s: float) -> bool:
        if isinstance(self._socket, Tunnel) and self._socket.pending():
            return True
        return bool(select.select([self._socket], [], [], within_s)[0])

    def _take(self, made: Frame) -> None:
        assert len(made.payload) <= MAX_FRAME, "a frame larger than was allowed"
        assert not self._unfinished or made.kind == Kind.CONTINUATION, "a block was interrupted"
        if made.kind in (Kind.HEADERS, Kind.CONTINUATION):
            self._take_block(made)
        elif made.kind == Kind.DATA:
            self._take_data(made)
        elif made.kind == Kind.RST_STREAM:
            reply = self._reply(made)
            reply.reset = Code(int.from_bytes(made.payload, "big"))
            if not reply.complete:
                self._told(reply)
        else:
            self._take_control(made)

    def _reply(self, made: Frame) -> Reply:
        """That of the frame's stream, which must not be over."""
        assert made.stream % 2 == 1, made
        found = self.replies.setdefault(made.stream, Reply())
        may_follow = made.kind == Kind.RST_STREAM and found.reset is None
        assert not found.is_over or may_follow, f"after the end: {made}"
        return found

    def _take_block(self, made: Frame) -> None:
        reply = self._reply(made)
        self._unfinished += made.payload
        if not made.flags & END_HEADERS:
            return
        fields = dict(self._decoder.decode(self._unfinished, raw=True))
        self._unfinished = b""
        if reply.head:
            reply.trailers = fields
        else:
            reply.head = fields
        self._end_with(made, reply)

    def _take_data(self, made: Frame) -> None:
        reply, size = self._reply(made), len(made.payload)
        for place in (0, made.stream):
            self._allowed[place] = self.allowed(place) - size
            assert self._allowed[place] >= 0, f"beyond the window of {place}"
        reply.body += made.payload
        self._end_with(made, reply)

    def _end_with(self, made: Frame, reply: Reply) -> None:
        if made.flags & END_STREAM:
            reply.complete = True
            self._told(reply)

    def _take_control(self, made: Frame) -> None:
        self.control.append(made)
        if made.kind == Kind.GOAWAY:
            last, code = struct.unpack("!II", made.payload[:8])
            self.goaways.append(Ending(Code(code), last, made.payload[8:]))
        elif made.kind == Kind.SETTINGS and not made.flags & ACK:
            self.settings.update(struct.iter_unpack("!HI", made.payload))
            if self._polite:
                self.try_send(frame(Kind.SETTINGS, flags=ACK))
        elif made.kind == Kind.PING and not made.flags & ACK and self._polite:
            self.try_send(ping(made.payload, ACK))


def connected(
    port: int, receive_buffer_bytes: int = 0, tls: ssl.SSLContext | None = None
) -> socket.socket | Tunnel:
    """A connection that blocks, and its handshake."""
    made = socket.socket()
    made.settimeout(PATIENCE_S)
    if receive_buffer_bytes:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    try:
        made.connect(("127.0.0.1", port))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is None:
            return made
        tunnel = Tunnel(made, tls)
        tunnel.shake()
    except OSError:
        made.close()
        raise
    return tunnel


def greeting(windows: int = MAX_WINDOW, connection_window: int = MAX_WINDOW) -> bytes:
    """What a client says first, with the windows that it opens."""
    first = PREFACE + settings({Setting.INITIAL_WINDOW_SIZE: windows})
    more = connection_window - WINDOW
    return first + (window_update(more) if more > 0 else b"")
