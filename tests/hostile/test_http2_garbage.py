"""What is over leaves nothing to the collector of cycles, which all but sleeps in a gateway worker."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from serving.edge.grpc.calls import GrpcCall
from serving.edge.grpc.infer import GrpcExchange
from serving.edge.http2.connection import Http2Connection
from serving.edge.http2.streams import Stream
from serving.gateway.calls import Call
from tests.catalogue import SLOW
from tests.edge.grpc.wire import INFER, STREAM, started
from tests.hostile.http2_cases import asking
from tests.hostile.http2_wire import (
    END_HEADERS,
    Http2Client,
    block,
    data,
    headers,
    literal,
    reset,
    window_update,
)
from tests.places import InProcess, eventually

OURS: Final = (Stream, GrpcCall, GrpcExchange, Call, Http2Connection)
TIMES: Final = 5


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[InProcess]:
    async with started(tmp_path) as made:
        yield made


class Asker:
    """Calls on one connection, made in a thread of their own."""

    def __init__(self, place: InProcess) -> None:
        self._port = place.settings.grpc.port
        self._token = place.place.authorization()["Authorization"].encode()

    def head(self, *more: tuple[bytes, bytes], path: str = INFER) -> bytes:
        usual = [
            *((b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode())),
            *((b"content-type", b"application/grpc"), (b"authorization", self._token)),
        ]
        return block([*usual, *more])

    def answered(self, client: Http2Client, stream: int) -> None:
        client.send(headers(self.head(), stream, END_HEADERS), data(asking(2.0), stream))
        assert client.reply(stream).grpc_status == 0

    def refused(self, client: Http2Client, stream: int) -> None:
        client.send(headers(self.head(path="/no/such"), stream, END_HEADERS), data(b"", stream))
        assert client.reply(stream).grpc_status == 12

    def broken(self, client: Http2Client, stream: int) -> None:
        client.send(headers(self.head(), stream, END_HEADERS), data(b"\0\0\0\0\1\xff", stream))
        assert client.reply(stream).grpc_status == 3

    def late(self, client: Http2Client, stream: int) -> None:
        head = self.head((b"grpc-timeout", b"20m"))
        client.send(headers(head, stream, END_HEADERS), data(asking(SLOW), stream))
        assert client.reply(stream).grpc_status == 4

    def given_up(self, client: Http2Client, stream: int) -> None:
        client.send(headers(self.head(), stream, END_HEADERS), data(asking(SLOW), stream))
        client.send(reset(stream))

    def faulty(self, client: Http2Client, stream: int) -> None:
        client.send(headers(self.head(), stream, END_HEADERS), window_update(0, stream))
        assert client.reply(stream).reset is not None

    def malformed(self, client: Http2Client, stream: int) -> None:
        client.send(headers(literal(b"A", b"b"), stream))
        assert client.reply(stream).reset is not None

    def streamed(self, client: Http2Client, stream: int) -> None:
        head = self.head(path=STREAM)
        client.send(headers(head, stream, END_HEADERS), data(asking(2.0), stream))
        assert client.reply(stream).grpc_status == 0

    def left(self, client: Http2Client, stream: int) -> None:
        client.send(headers(self.head(), stream, END_HEADERS), data(asking(SLOW), stream))
        client.close()

    def ask(self, kind: str) -> None:
        """Some calls of this kind."""
        act: Callable[[Http2Client, int], None] = getattr(self, kind)
        with Http2Client(self._port) as client:
            for stream in range(1, 2 * TIMES, 2):
                act(client, stream)
                if kind == "left":
                    break


KINDS: Final = (
    *("answered", "refused", "broken", "late", "given_up", "faulty", "malformed"),
    *("streamed", "left"),
)


@contextmanager
def garbage() -> Iterator[Counter[str]]:
    """Counts those of our objects that only the collector of cycles found inside the block."""
    found: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        found.update(type(each).__name__ for each in gc.garbage if isinstance(each, OURS))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("kind", KINDS)
async def test_calls_leave_no_garbage(place: InProcess, kind: str) -> None:
    """However a call ends, its stream, its message and its connection are freed at once."""
    asker = Asker(place)
    await asyncio.to_thread(asker.ask, kind)

    with garbage() as found:
        await asyncio.to_thread(asker.ask, kind)
        await eventually(lambda: not place.worker.grpc.connections)
        await eventually(lambda: not place.worker.pipeline.admission.in_flight)
        await asyncio.sleep(0.5)

    assert found == {}
