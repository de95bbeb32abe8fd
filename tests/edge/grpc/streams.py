"""A stream of HTTP/2 that writes down what is sent on it, and calls made by hand."""

import asyncio
from typing import Any, Final, cast

from hpack import Decoder

from serving.edge.grpc.calls import OpenCalls, ServeUnary, UnaryCall
from serving.edge.grpc.framing import framed
from serving.edge.grpc.heads import CallHead, read_head
from serving.edge.http2.fields import RequestHead
from serving.edge.http2.streams import Stream
from serving.errors import ServingError

GRPC: Final = (b"content-type", b"application/grpc")
MOST_BYTES: Final = 10_000
BUFFERED_BYTES: Final = 15_000


class NotedStream:
    """Fits `Stream` as far as gRPC uses it."""

    def __init__(self, head: RequestHead | None = None) -> None:
        self.head = head or head_of()
        self.certificate: bytes | None = None
        self.sent: list[bytes] = []
        self.blocks: list[dict[str, str]] = []
        self.pending_bytes = 0
        self.credit = 0
        self.ended = False
        self.is_hasty = False

    def peer(self) -> object:
        return "192.0.2.1", 5000

    def hasten(self) -> None:
        self.is_hasty = True

    def consumed(self, count: int) -> None:
        self.credit += count

    def send_head(self, block: bytes) -> None:
        assert not self.ended
        self.blocks.append(fields_of(block))

    def send_data(self, data: bytes) -> None:
        assert not self.ended
        self.sent.append(data)

    def send_end(self, trailers: bytes) -> None:
        self.send_head(trailers)
        self.ended = True

    def send_only(self, trailers: bytes) -> None:
        self.send_end(trailers)

    def send_all(self, head: bytes, data: bytes, trailers: bytes) -> None:
        self.send_head(head)
        self.send_data(data)
        self.send_end(trailers)

    @property
    def status(self) -> int:
        """gRPC's, which came last."""
        assert self.ended
        return int(self.blocks[-1]["grpc-status"])

    @property
    def stream(self) -> Stream:
        return cast("Stream", self)


class Noted:
    """Open calls, the refusals that they told of, and a clock that stands."""

    def __init__(self, most: int = 10) -> None:
        self.errors: list[ServingError] = []
        self.now_ns = 0
        self.calls = OpenCalls(
            most=most,
            max_message_bytes=MOST_BYTES,
            max_buffered_bytes=BUFFERED_BYTES,
            refused=self.errors.append,
            now_ns=lambda: self.now_ns,
        )

    @property
    def codes(self) -> list[str]:
        return [error.code for error in self.errors]

    @property
    def left(self) -> tuple[int, int]:
        """Calls and bytes that are still counted."""
        calls = self.calls
        taken = calls.known.taken + calls.strangers.taken + calls.refused_ones.taken
        return taken, calls.buffered_bytes

    def unary(self, serve: ServeUnary, stream: NotedStream) -> UnaryCall:
        call = UnaryCall(stream.stream, read_head(stream.head), **self.known())
        call.begin(serve)
        return call

    def known(self) -> dict[str, Any]:
        """What a call gets beside its stream and head."""
        calls = self.calls
        return {
            "credential": b"Bearer x", "principal": None, "places": calls.strangers, "calls": calls,
        }  # fmt: skip


def head_of(
    *fields: tuple[bytes, bytes], path: bytes = b"/a.B/C", method: bytes = b"POST"
) -> RequestHead:
    return RequestHead(method, path, b"here", b"http", (*fields,) if fields else (GRPC,))


def call_head(*fields: tuple[bytes, bytes]) -> CallHead:
    return read_head(head_of(GRPC, *fields))


def fields_of(block: bytes) -> dict[str, str]:
    fields = Decoder().decode(block, raw=True)
    return {bytes(name).decode(): bytes(value).decode() for name, value in fields}


def send(call: Any, *messages: bytes, cut: int = 0) -> None:
    """All of a client's side. cut: how many bytes are missing at its end."""
    content = b"".join(map(framed, messages))
    content = content[: len(content) - cut]
    if content:
        call.received(content)
    call.finished()


async def settle() -> None:
    """Lets coroutines run until each of them waits."""
    for _ in range(10):
        await asyncio.sleep(0)
