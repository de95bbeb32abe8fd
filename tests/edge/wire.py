"""The two ends of a connection for tests: servers on real sockets, connections in memory, answers."""

import asyncio
import json
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import uvloop

from serving.edge.connections import LINGER_S
from serving.edge.http1.connection import Application, Connection, Responder, State
from serving.edge.http1.heads import Head
from serving.edge.http1.server import HttpServer
from serving.edge.problems import response
from serving.edge.tls import ServerTls
from serving.errors import ServingError
from serving.port_settings import HttpSettings

PATIENCE_S: Final = 10.0
CLOSED: Final = b""
"""What a read returns when the server has shut its direction."""

TURNS: Final = 50
"""Of a loop, in which a connection in memory comes to rest."""

LOOPS: Final = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Answer:
    """One response. headers: lower-case names."""

    status: int
    headers: dict[str, str]
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)


def assert_problem(answer: Answer, status: int, code: str) -> None:
    """The one shape of every error: `error`, `code`, `request_id`, and what its status demands."""
    body = answer.json()
    assert (status, code) == (answer.status, body["code"])
    assert set(body) == {"error", "code", "request_id"}
    assert isinstance(body["error"], str)
    assert re.fullmatch(r"[0-9a-f]{16}(-[0-9a-f]+)?", body["request_id"])
    assert answer.headers["content-type"] == "application/json"
    assert ("retry-after" in answer.headers) == (status in (429, 503))
    assert ("www-authenticate" in answer.headers) == (status == 401)
    assert ("allow" in answer.headers) == (status == 405)


def request(
    method: str = "POST", target: str = "/", *headers: str, body: bytes = b"", host: str = "here"
) -> bytes:
    """An HTTP/1.1 request; a body gets its Content-Length."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def parse_answers(data: bytes, methods: Sequence[str] = ()) -> list[Answer]:
    """All answers in what a server wrote; interim ones (100) too. methods: of the requests."""
    answers: list[Answer] = []
    while data:
        bodiless = methods[len(answers) : len(answers) + 1] == ["HEAD"]
        answer, data = parse_answer(data, bodiless=bodiless)
        answers.append(answer)
    return answers


def parse_answer(data: bytes, *, bodiless: bool = False) -> tuple[Answer, bytes]:
    """The first answer in `data`, and what follows it. bodiless: it answers HEAD."""
    head, blank_line, rest = data.partition(b"\r\n\r\n")
    assert blank_line
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    assert len(headers) == len(lines)
    length = 0 if bodiless else int(headers.get("content-length", 0))
    assert len(rest) >= length
    return Answer(int(status_line.split(" ")[1]), headers, rest[:length]), rest[length:]


@dataclass(slots=True)
class Echo:
    """An application that answers each request with its method, target and body.

    held: when set, requests wait in `waiting` until the test answers them with `release`.
    """

    held: bool = False
    seen: list[tuple[str, str, bytes]] = field(default_factory=list)
    waiting: list[Responder] = field(default_factory=list)
    gone: list[Responder] = field(default_factory=list)
    payload: bytes = b""

    def __call__(self, head: Head, body: bytes | memoryview, responder: Responder) -> None:
        self.seen.append((head.method, head.path, bytes(body)))
        if self.held:
            self.waiting.append(responder)
            responder.watch(lambda: self.gone.append(responder))
        else:
            responder.send(self.payload or self.answer_of(*self.seen[-1]))

    def release(self) -> None:
        """Answers the request that has waited longest."""
        self.waiting.pop(0).send(self.payload or self.answer_of(*self.seen[-1]))

    @staticmethod
    def answer_of(method: str, path: str, body: bytes) -> bytes:
        return response(200, f"{method} {path} ".encode() + body, content_type="text/plain")


class Served:
    """An `HttpServer` on a thread of its own and a port that the kernel chose."""

    def __init__(
        self,
        application: Application,
        *,
        new_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
        linger_s: float = LINGER_S,
        tls: ServerTls | None = None,
        **limits: Any,
    ) -> None:
        self.port = 0
        self.refusals: list[ServingError] = []
        self.failures: list[dict[str, Any]] = []
        """What the loop would have logged as a traceback."""
        self._server = HttpServer(
            application, limits=HttpSettings(**limits), refused=self.refusals.append
        )
        self._server.deadlines_s[State.LINGER] = linger_s
        self._tls = tls
        self._new_loop = new_loop
        self._loop: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        self._loop.result(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.aclose(drain_s=0)
        loop = self._loop.result()
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        assert self.failures == []

    @property
    def connections(self) -> int:
        return self._server.connections

    @property
    def failed_handshakes(self) -> int:
        return self._server.failed_handshakes

    def connect(self) -> "Client":
        return Client(self.port)

    def aclose(self, *, drain_s: float) -> None:
        self.begin_close(drain_s=drain_s).result(PATIENCE_S)

    def listen_unix(self, path: Path) -> None:
        listening = self._server.listen_unix(path)
        asyncio.run_coroutine_threadsafe(listening, self._loop.result()).result(PATIENCE_S)

    def begin_close(self, *, drain_s: float) -> "Future[None]":
        """Returns once no new connection is accepted; the result comes when all have gone."""
        closing = self._server.aclose(drain_s=drain_s)
        ended = asyncio.run_coroutine_threadsafe(closing, self._loop.result())
        self.do(lambda: None)
        return ended

    def do(self, action: Callable[[], Result]) -> Result:
        """Runs `action` on the server's loop."""

        async def act() -> Result:
            return action()

        return asyncio.run_coroutine_threadsafe(act(), self._loop.result()).result(PATIENCE_S)

    def _run(self) -> None:
        loop = self._new_loop()
        loop.set_exception_handler(lambda _loop, context: self.failures.append(context))
        listening = self._server.listen(host="127.0.0.1", port=0, tls=self._tls)
        self.port = loop.run_until_complete(listening)
        self._loop.set_result(loop)
        loop.run_forever()
        loop.close()


class Client:
    """A raw client of a port or a Unix socket; it blocks, at most `PATIENCE_S`."""

    def __init__(self, place: int | Path, *, receive_buffer_bytes: int = 0) -> None:
        self._received = b""
        self._socket = socket.socket(socket.AF_UNIX if isinstance(place, Path) else socket.AF_INET)
        self._socket.settimeout(PATIENCE_S)
        if receive_buffer_bytes:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        try:
            self._socket.connect(str(place) if isinstance(place, Path) else ("127.0.0.1", place))
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def send(self, *parts: bytes) -> Self:
        for part in parts:
            self._socket.sendall(part)
        return self

    def try_send(self, data: bytes) -> bool:
        """Whether the server still takes bytes."""
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def sends_for(self, *, within_s: float) -> bool:
        """Whether the server takes a byte now and then for so long."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            if not self.try_send(b"a"):
                return False
            self.has_answer(within_s=0.05)
        return True

    def shut(self) -> None:
        """Says that nothing more will come."""
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._socket.close()

    def has_answer(self, *, within_s: float) -> bool:
        """Whether there is something to read, or the end of it, at the latest after `within_s`."""
        return bool(select.select([self._socket], [], [], within_s)[0])

    def read_some(self, count: int) -> bytes:
        """At most `count` bytes; nothing when the connection is gone."""
        try:
            return self._socket.recv(count)
        except ConnectionResetError:
            return CLOSED

    def receive(self, *, bodiless: bool = False) -> Answer:
        """The next answer."""
        while b"\r\n\r\n" not in self._received:
            self._read()
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)\r\n", self._received)
        wanted = int(length[1]) if length and not bodiless else 0
        while len(self._received.partition(b"\r\n\r\n")[2]) < wanted:
            self._read()
        answer, self._received = parse_answer(self._received, bodiless=bodiless)
        return answer

    def rest(self) -> bytes:
        """Everything up to the end of the server's bytes; a reset raises."""
        while data := self._socket.recv(65536):
            self._received += data
        rest, self._received = self._received, b""
        return rest

    def has_ended(self) -> bool:
        """Whether nothing more follows what was received; waits for the next bytes or the end."""
        if not self._received:
            self._received = self._socket.recv(65536)
        return not self._received

    def is_cut(self) -> bool:
        """Whether the connection ends without another byte."""
        return self.read_some(65536) == CLOSED

    def _read(self) -> None:
        data = self._socket.recv(65536)
        assert data, f"the server closed after {self._received!r}"
        self._received += data


class MemoryTransport(asyncio.Transport):
    """A transport without a socket: `written` holds what the client would read.

    full: as long as it is set, the client does not read and the connection is told to stop writing.
    """

    def __init__(self, *, full: bool = False) -> None:
        super().__init__()
        self.written = b""
        self.full = full
        self.closed = False
        self.aborted = False
        self.shut = False
        self.reading = True
        self._protocol: asyncio.BaseProtocol | None = None

    def serve(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol
        protocol.connection_made(self)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def receive(self, data: bytes) -> None:
        """Hands `data` to whatever protocol reads now, as the loops do."""
        while isinstance(self._protocol, asyncio.BufferedProtocol) and data:
            place = memoryview(self._protocol.get_buffer(-1))
            count = min(len(place), len(data))
            place[:count] = data[:count]
            self._protocol.buffer_updated(count)
            data = data[count:]
        if data and isinstance(self._protocol, asyncio.Protocol):
            self._protocol.data_received(data)

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        assert not self.shut
        assert not self.closed
        self.written += data
        if self.full and self._protocol is not None:
            self._protocol.pause_writing()

    def drain(self) -> None:
        """The client reads everything."""
        self.full = False
        if self._protocol is not None:
            self._protocol.resume_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.shut = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


async def converse(server: HttpServer, segments: Iterable[bytes]) -> MemoryTransport:
    """Feeds `segments` to a new connection, as they would arrive, until it has done its work.

    An empty segment is a moment in which the loop turns.
    """
    connection = Connection(server)
    transport = MemoryTransport()
    transport.serve(connection)
    for segment in segments:
        if not transport.reading:
            await turn()
        if transport.closed:
            break
        if segment:
            transport.receive(segment)
        else:
            await asyncio.sleep(0)
    await turn()
    return transport


async def turn(times: int = TURNS) -> None:
    """Lets the loop turn."""
    for _ in range(times):
        await asyncio.sleep(0)
