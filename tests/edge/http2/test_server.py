"""The HTTP/2 server on real sockets, on both loops: in clear, encrypted, and when it goes down."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from serving.edge.http2.server import Http2Server
from serving.edge.http2.streams import Stream
from serving.edge.tls import ServerTls
from serving.tls_settings import TlsFiles
from tests.edge.certificates import Authority
from tests.edge.http2.stand import (
    HEAD,
    HELLO,
    TRAILERS,
    Recorder,
    Seen,
    answers_in,
    ask,
    limits_with,
    nothing,
)
from tests.edge.wire import turn
from tests.hostile.http2_wire import Frame, Kind, first_frame

LOOPS = [uvloop.new_event_loop, asyncio.new_event_loop]
PATIENCE_S = 10.0

Loop = Callable[[], asyncio.AbstractEventLoop]


class Talk:
    """One client connection; frames are read until some condition holds, or the end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.frames: list[Frame] = []
        self._reader = reader
        self._rest = b""

    async def until(self, done: Callable[[], bool]) -> "Talk":
        async with asyncio.timeout(PATIENCE_S):
            while not done() and (raw := await self._reader.read(1 << 16)):
                self._rest += raw
                while (made := first_frame(self._rest)) is not None:
                    self._rest = self._rest[9 + len(made.payload) :]
                    self.frames.append(made)
        return self

    async def answer(self, stream: int) -> bytes:
        await self.until(lambda: answers_in(self.frames).get(stream, NOT_YET).ends == 1)
        return answers_in(self.frames)[stream].body


NOT_YET = answers_in([Frame(Kind.DATA, 0, 1, b"")])[1]


def has_goodbye(one: Talk) -> bool:
    return any(each.kind == Kind.GOAWAY for each in one.frames)


class Waiting(Recorder):
    """Answers nothing; `asked` and `left` tell when a request came and went."""

    def __init__(self) -> None:
        super().__init__(nothing)
        self.asked, self.left = asyncio.Event(), asyncio.Event()

    def __call__(self, stream: Stream) -> Seen:
        made = Noted(stream, self.left)
        self.requests.append(made)
        self.asked.set()
        return made


class Noted(Seen):
    """A receiver that tells when its client has gone."""

    def __init__(self, stream: Stream, left: asyncio.Event) -> None:
        super().__init__(stream, nothing)
        self._left = left

    def gone(self) -> None:
        super().gone()
        self._left.set()


@asynccontextmanager
async def served(
    application: Recorder, *, tls: ServerTls | None = None
) -> AsyncIterator[tuple[Http2Server, int]]:
    server = Http2Server(application, limits=limits_with(head_timeout_s=2.0))
    port = await server.listen(host="127.0.0.1", port=0, tls=tls)
    try:
        yield server, port
    finally:
        await server.aclose()


async def talk(port: int, context: ssl.SSLContext | None = None) -> Talk:
    made = Talk(*await asyncio.open_connection("127.0.0.1", port, ssl=context))
    made.writer.write(HELLO)
    return made


def run(loop: Loop, play: Callable[[], Coroutine[None, None, None]]) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(play())


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def encrypted(authority: Authority) -> ServerTls:
    certificate, key = authority.issue("server")
    files = TlsFiles(certificate=certificate, key=key, client_ca=authority.file)
    return ServerTls(files, port="grpc", protocol="h2")


def trusting(authority: Authority, *protocols: str) -> ssl.SSLContext:
    """Of a client that shows a certificate and offers these protocols."""
    context = ssl.create_default_context(cafile=str(authority.file))
    context.load_cert_chain(*authority.issue("client"))
    context.set_alpn_protocols(list(protocols))
    return context


@pytest.mark.parametrize("loop", LOOPS, ids=["uvloop", "asyncio"])
def test_requests_are_answered_in_clear(loop: Loop) -> None:
    """With prior knowledge; two at once."""

    async def play() -> None:
        async with served(Recorder()) as (server, port):
            one = await talk(port)
            one.writer.write(ask(1, b"abc") + ask(3, b"x" * 50_000))
            assert await one.answer(1) == b"/answer abc"
            assert await one.answer(3) == b"/answer " + b"x" * 50_000
            assert server.connections == 1
            one.writer.close()

    run(loop, play)


@pytest.mark.parametrize("loop", LOOPS, ids=["uvloop", "asyncio"])
def test_requests_are_answered_encrypted(loop: Loop, authority: Authority) -> None:
    """ALPN agrees on h2, and the application sees the client's certificate."""
    context = trusting(authority, "http/1.1", "h2")
    recorder = Recorder()

    async def play() -> None:
        async with served(recorder, tls=encrypted(authority)) as (_, port):
            one = await talk(port, context)
            one.writer.write(ask(1, b"abc"))
            assert await one.answer(1) == b"/answer abc"
            chosen = one.writer.get_extra_info("ssl_object").selected_alpn_protocol()
            assert chosen == "h2"
            one.writer.close()

    run(loop, play)
    assert recorder.requests[0].stream.certificate == ssl.PEM_cert_to_DER_cert(
        (authority.file.parent / "client.pem").read_text()
    )


def test_a_client_of_another_protocol_is_turned_away(authority: Authority) -> None:
    """Nothing is agreed on with it, and what it says in HTTP/1.1 is answered with GOAWAY at most."""

    async def play() -> None:
        async with served(Recorder(), tls=encrypted(authority)) as (server, port):
            context = trusting(authority, "http/1.1")
            one = Talk(*await asyncio.open_connection("127.0.0.1", port, ssl=context))
            one.writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
            await one.until(lambda: has_goodbye(one))
            assert one.writer.get_extra_info("ssl_object").selected_alpn_protocol() is None
            assert (server.failed_handshakes, has_goodbye(one)) == (0, True)
            one.writer.close()

    run(uvloop.new_event_loop, play)


def test_a_handshake_that_fails_is_counted(authority: Authority) -> None:
    """Clear text on an encrypted port is none."""

    async def play() -> None:
        async with served(Recorder(), tls=encrypted(authority)) as (server, port):
            one = await talk(port)
            await one.until(lambda: False)
            assert (server.failed_handshakes, server.connections) == (1, 0)
            one.writer.close()

    run(uvloop.new_event_loop, play)


@pytest.mark.parametrize("loop", LOOPS, ids=["uvloop", "asyncio"])
def test_going_down_waits_for_answers(loop: Loop) -> None:
    """Clients are told; what was asked for before is answered, and then the connection ends."""
    recorder = Waiting()

    async def play() -> None:
        async with served(recorder) as (server, port):
            one = await talk(port)
            one.writer.write(ask(1))
            await recorder.asked.wait()
            closing = asyncio.create_task(server.aclose(drain_s=PATIENCE_S))
            await one.until(lambda: has_goodbye(one))
            assert not closing.done()
            recorder.requests[0].stream.send_all(HEAD, b"late", TRAILERS)
            await one.until(lambda: False)
            one.writer.close()
            await closing
            assert answers_in(one.frames)[1].body == b"late"
            assert server.connections == 0

    run(loop, play)


@pytest.mark.parametrize("loop", LOOPS, ids=["uvloop", "asyncio"])
def test_going_down_without_patience_ends_all(loop: Loop) -> None:
    """Streams that are still open are gone."""
    recorder = Waiting()

    async def play() -> None:
        async with served(recorder) as (server, port):
            one = await talk(port)
            one.writer.write(ask(1))
            await recorder.asked.wait()
            await server.aclose()
            assert server.connections == 0
            one.writer.close()

    run(loop, play)
    assert recorder.requests[0].calls[-1] == "gone"


def test_a_client_that_leaves_is_forgotten() -> None:
    """Its streams are told so, and the connection is not counted any more."""
    recorder = Waiting()

    async def play() -> None:
        async with served(recorder) as (server, port):
            one = await talk(port)
            one.writer.write(ask(1))
            await recorder.asked.wait()
            one.writer.close()
            await one.writer.wait_closed()
            async with asyncio.timeout(PATIENCE_S):
                await recorder.left.wait()
            await turn()
            assert server.connections == 0

    run(uvloop.new_event_loop, play)
    assert recorder.requests[0].calls[-1] == "gone"
