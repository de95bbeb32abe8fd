"""The HTTP/2 server on a connection in memory: frames by hand, an application that keeps what it sees."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

import hpack

from serving.core.batches import Buffer
from serving.edge.grpc.server import limits_of
from serving.edge.http2.connection import Http2Connection
from serving.edge.http2.fields import encode_fields
from serving.edge.http2.frames import ErrorCode
from serving.edge.http2.server import Http2Limits, Http2Server
from serving.edge.http2.streams import Stream
from serving.errors import ServingError
from serving.port_settings import GrpcSettings
from tests.edge.wire import MemoryTransport
from tests.gateway.stand import Turns
from tests.hostile.http2_wire import (
    END_HEADERS,
    END_STREAM,
    MAX_FRAME,
    PREFACE,
    WINDOW,
    Frame,
    Kind,
    Setting,
    block,
    data,
    frames_of,
    headers,
    settings,
)

REQUEST: Final = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/answer"),
    (b":authority", b"here"),
)
HEAD: Final = encode_fields([(b":status", b"200"), (b"content-type", b"text/plain")])
TRAILERS: Final = encode_fields([(b"grpc-status", b"0")])
OVERSIZED: Final = encode_fields([(b":status", b"431")])
HELLO: Final = PREFACE + settings()


def limits_with(**changed: Any) -> Http2Limits:
    """Those of the port as it is when nothing is set, with changes."""
    return replace(limits_of(GrpcSettings()), **changed)


def ask(stream: int, body: bytes = b"", *more: tuple[bytes, bytes]) -> bytes:
    """A whole request; `more` fields stand behind its own."""
    head = block((*REQUEST, *more))
    if not body:
        return headers(head, stream)
    pieces = [body[at : at + MAX_FRAME] for at in range(0, len(body), MAX_FRAME)]
    middle = b"".join(data(piece, stream, 0) for piece in pieces[:-1])
    return headers(head, stream, END_HEADERS) + middle + data(pieces[-1], stream)


@dataclass(slots=True)
class Seen:
    """A receiver that keeps what it is told, gives credit at once, and answers through `answer`."""

    stream: Stream
    answer: Callable[["Seen"], None]
    consumes: bool = True
    body: bytes = b""
    calls: list[str] = field(default_factory=list)

    def received(self, data: Buffer) -> None:
        self.calls.append("received")
        self.body += bytes(data)
        if self.consumes:
            self.stream.consumed(len(data))

    def finished(self) -> None:
        self.calls.append("finished")
        self.answer(self)

    def gone(self) -> None:
        self.calls.append("gone")

    def writable(self) -> None:
        self.calls.append("writable")

    def late(self) -> None:
        self.calls.append("late")
        self.stream.send_only(TRAILERS)


def echo(seen: Seen) -> None:
    """The path and the body, as a whole answer."""
    seen.stream.send_all(HEAD, seen.stream.head.path + b" " + seen.body, TRAILERS)


def nothing(_seen: Seen) -> None:
    """No answer."""


class Recorder:
    """An application. requests: what it saw, in order."""

    oversized = OVERSIZED

    def __init__(self, answer: Callable[[Seen], None] = echo, *, consumes: bool = True) -> None:
        self.requests: list[Seen] = []
        self._answer = answer
        self._consumes = consumes

    def __call__(self, stream: Stream) -> Seen:
        seen = Seen(stream, self._answer, self._consumes)
        self.requests.append(seen)
        return seen


class Pipe(MemoryTransport):
    """A transport in memory that says how much the client has not read, and counts writes."""

    writes = 0

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        self.writes += 1
        super().write(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Whether it is full is for the test to say."""

    def get_write_buffer_size(self) -> int:
        return len(self.written) if self.full else 0

    def is_closing(self) -> bool:
        return self.closed


@dataclass(slots=True)
class Answered:
    """What came on one stream."""

    heads: list[list[tuple[bytes, bytes]]] = field(default_factory=list)
    body: bytes = b""
    ends: int = 0
    resets: list[ErrorCode] = field(default_factory=list)


class Connected:
    """One connection. Its clock stands until `sweep`; `turn` lets the loop turn."""

    def __init__(
        self, application: Recorder | None = None, *, greets: bool = True, **limits: Any
    ) -> None:
        self.application = application or Recorder()
        self.refusals: list[ServingError] = []
        self.server = Http2Server(
            self.application, limits=limits_with(**limits), refused=self.refusals.append
        )
        self.turns = Turns()
        # Of a loop, its port needs `call_soon` alone here.
        self.server.port.loop = cast("asyncio.AbstractEventLoop", self.turns)
        self.connection = Http2Connection(self.server)
        self.transport = Pipe()
        self.transport.serve(self.connection)
        if greets:
            self.feed(HELLO)

    @property
    def requests(self) -> list[Seen]:
        return self.application.requests

    def feed(self, *segments: bytes) -> "Connected":
        for segment in segments:
            if segment and not self.transport.closed:
                self.transport.receive(segment)
            self.turns.run()
        return self

    def sweep(self, seconds: float) -> "Connected":
        """So much time passes in silence."""
        for _ in range(round(seconds * 4)):
            self.server.port.tick += 1
            if not self.transport.aborted:
                self.connection.sweep(self.server.port.tick)
            self.turns.run()
        return self

    def frames(self, *kinds: Kind) -> list[Frame]:
        """What the client has got so far, of these kinds or of all."""
        return [
            each for each in frames_of(self.transport.written) if not kinds or each.kind in kinds
        ]

    def take(self) -> list[Frame]:
        """What the client got since the last time."""
        found, self.transport.written = self.frames(), b""
        return found

    @property
    def resets(self) -> dict[int, ErrorCode]:
        return {
            each.stream: ErrorCode(int.from_bytes(each.payload, "big"))
            for each in self.frames(Kind.RST_STREAM)
        }

    @property
    def goaway(self) -> ErrorCode | None:
        """Why the server ended the connection; None if it did not."""
        found = self.frames(Kind.GOAWAY)
        return ErrorCode(int.from_bytes(found[-1].payload[4:8], "big")) if found else None

    @property
    def is_over(self) -> bool:
        return self.transport.shut or self.transport.closed

    def answers(self) -> dict[int, Answered]:
        return answers_in(self.frames())


def answers_in(frames: list[Frame]) -> dict[int, Answered]:
    """What came on each stream. Fails where a frame follows the end of its stream."""
    decoder = hpack.Decoder()
    found: dict[int, Answered] = {}
    unfinished = b""
    for each in frames:
        assert len(each.payload) <= MAX_FRAME
        if each.stream and each.kind != Kind.WINDOW_UPDATE:
            answered = found.setdefault(each.stream, Answered())
            if each.kind == Kind.RST_STREAM:
                answered.resets.append(ErrorCode(int.from_bytes(each.payload, "big")))
                continue
            assert not answered.resets
            assert answered.ends == 0 or each.kind == Kind.CONTINUATION
            if each.kind == Kind.DATA:
                answered.body += each.payload
            else:
                unfinished += each.payload
            if each.flags & END_HEADERS and each.kind != Kind.DATA:
                answered.heads.append(list(decoder.decode(unfinished, raw=True)))
                unfinished = b""
            if each.kind != Kind.CONTINUATION:
                answered.ends += bool(each.flags & END_STREAM)
    return found


@dataclass(slots=True)
class Windows:
    """How much the server may send: of the connection, of each stream, and of streams to come."""

    connection: int = WINDOW
    first: int = WINDOW
    streams: dict[int, int] = field(default_factory=dict)

    def open(self, stream: int) -> None:
        self.streams[stream] = self.first

    def resize(self, first: int) -> bytes:
        """SETTINGS that say so."""
        change, self.first = first - self.first, first
        self.streams = {stream: size + change for stream, size in self.streams.items()}
        return settings({Setting.INITIAL_WINDOW_SIZE: first})

    def take(self, frames: list[Frame]) -> None:
        """Fails where the server sent more than it may."""
        for each in frames:
            if each.kind == Kind.DATA and each.payload:
                self.connection -= len(each.payload)
                self.streams[each.stream] -= len(each.payload)
                assert self.connection >= 0
                assert self.streams[each.stream] >= 0
