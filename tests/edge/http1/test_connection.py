"""The state table of a connection, in memory: any segments, any order of application and client."""

import asyncio

from hypothesis import example, given
from hypothesis import strategies as st

from serving.edge.connections import LINGER_S, SWEEP_S
from serving.edge.http1.connection import Application, Connection, Responder
from serving.edge.http1.heads import Head
from serving.edge.http1.server import HttpServer
from serving.errors import MessageInvalid, ServingError
from serving.port_settings import HttpSettings
from tests.edge.wire import (
    Answer,
    Echo,
    MemoryTransport,
    converse,
    parse_answers,
    request,
    turn,
)
from tests.strategies import HttpRequest, http_requests, http_streams, segmentations


def a_server(application: Application, **limits: float) -> HttpServer:
    return HttpServer(application, limits=HttpSettings.model_validate(limits))


async def connected(
    server: HttpServer, *, full: bool = False
) -> tuple[Connection, MemoryTransport]:
    connection, transport = Connection(server), MemoryTransport(full=full)
    transport.serve(connection)
    return connection, transport


def texts(answers: list[Answer]) -> list[str]:
    return [answer.body.decode() for answer in answers]


class Sometimes:
    """Echoes each request at once or in a later turn of the loop, as drawn."""

    def __init__(self, later: list[bool]) -> None:
        self._later = later

    def __call__(self, head: Head, body: bytes | memoryview, responder: Responder) -> None:
        payload = Echo.answer_of(head.method, head.path, bytes(body))
        if self._later and self._later.pop(0):
            asyncio.get_running_loop().call_soon(responder.send, payload)
        else:
            responder.send(payload)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[HttpRequest], list[bytes], list[bool]]:
    """Requests, the same bytes in segments, and which of them are answered later."""
    requests = draw(st.lists(http_requests(), min_size=1, max_size=4))
    segments = draw(segmentations(b"".join(each.raw for each in requests)))
    return requests, segments, draw(st.lists(st.booleans(), max_size=4))


@given(conversations())
def test_segmentation_never_changes_the_answers(
    conversation: tuple[list[HttpRequest], list[bytes], list[bool]],
) -> None:
    """However the bytes of valid requests arrive, each is answered once, alone and in order."""
    requests, segments, later = conversation

    async def play() -> MemoryTransport:
        return await converse(a_server(Sometimes(later)), segments)

    transport = asyncio.run(play())

    closing = next((i for i, each in enumerate(requests) if each.last), len(requests))
    expected = [f"{r.method} {r.path} ".encode() + r.body for r in requests[: closing + 1]]
    assert expected == [answer.body for answer in parse_answers(transport.written)]
    assert transport.shut == (closing < len(requests))


@given(http_streams())
@example([b"GET / HTTP/1.1\r\nHost: here\r\n\r\nHost: here\r\n\r\n"])
def test_any_bytes_are_answered_or_refused(segments: list[bytes]) -> None:
    """Whatever comes: complete answers, then at most one refusal and nothing behind it."""
    refusals: list[ServingError] = []
    echo = Echo()

    async def play() -> MemoryTransport:
        server = HttpServer(echo, limits=HttpSettings(), refused=refusals.append)
        return await converse(server, segments)

    transport = asyncio.run(play())

    answers = parse_answers(transport.written, [method for method, _, _ in echo.seen])
    statuses = [answer.status for answer in answers]
    ended = [200] * len(echo.seen) + [s for s in statuses if s >= 400]
    assert ended == statuses
    assert len(refusals) == len(statuses) - len(echo.seen) <= 1
    assert not refusals or transport.shut


async def test_bytes_behind_a_running_request_wait_for_its_answer() -> None:
    """What arrives right after an answer comes behind what has been waiting since before it."""
    echo = Echo(held=True)
    connection, transport = await connected(a_server(echo))
    connection.data_received(request("GET", "/warm"))
    echo.release()
    connection.data_received(request("GET", "/1"))
    connection.data_received(request("GET", "/2")[:10])
    echo.release()
    # Before the loop has turned; /warm made the head known, so this could be answered at once.
    connection.data_received(request("GET", "/2")[10:] + request("GET", "/warm"))
    echo.release()
    await turn()
    echo.release()

    assert texts(parse_answers(transport.written)) == [
        "GET /warm ",
        "GET /1 ",
        "GET /2 ",
        "GET /warm ",
    ]


async def test_client_that_does_not_read_gets_no_further_answer() -> None:
    """While an answer piles up, requests behind it wait; they are answered once it was taken."""
    echo = Echo()
    connection, transport = await connected(a_server(echo), full=True)
    connection.data_received(request("GET", "/1"))
    connection.data_received(request("GET", "/2"))
    await turn()
    answered_before = len(echo.seen)

    transport.drain()
    await turn()

    assert (answered_before, len(echo.seen)) == (1, 2)


async def test_reading_stops_when_much_is_waiting() -> None:
    """Requests pipelined behind a running one take a bounded amount of memory."""
    echo = Echo(held=True)
    connection, transport = await connected(a_server(echo))
    connection.data_received(request("GET", "/"))
    fed = 0
    while transport.reading and fed < 10_000_000:
        connection.data_received(request(body=bytes(20_000)))
        fed += 20_000

    assert not transport.reading
    assert fed < 400_000

    echo.release()
    await turn()
    assert transport.reading


async def test_empty_lines_do_not_keep_a_connection_alive() -> None:
    """A connection on which only empty lines come is closed at its idle deadline all the same."""
    server = a_server(Echo(), idle_timeout_s=1)
    connection, transport = await connected(server)
    for tick in range(1, 7):
        server.port.tick = tick
        connection.data_received(b"\r\n")
        connection.sweep(tick)

    assert transport.closed
    assert transport.written == b""


async def test_lingering_has_its_own_deadline() -> None:
    """After a refusal the connection is given a moment to be read, and no more."""
    server = a_server(Echo())
    connection, transport = await connected(server)
    connection.data_received(b"nonsense\n")
    connection.data_received(b"more nonsense")
    connection.sweep(int(LINGER_S / SWEEP_S))
    still_open = not transport.closed

    connection.sweep(int(LINGER_S / SWEEP_S) + 1)

    assert (still_open, transport.closed) == (True, True)
    assert [answer.status for answer in parse_answers(transport.written)] == [400]


async def test_lingering_takes_a_bounded_number_of_bytes() -> None:
    """A client that goes on sending after its refusal is cut off, however fast it is."""
    connection, transport = await connected(a_server(Echo()))
    connection.data_received(b"nonsense\n")
    megabyte, sent = bytes(1 << 20), 0
    while not transport.closed and sent < 1000:
        connection.data_received(megabyte)
        sent += 1

    assert sent == 257


async def test_last_bytes_have_a_deadline() -> None:
    """A closed connection whose last bytes nobody takes is cut at the write deadline."""
    server = a_server(Echo(), idle_timeout_s=1, write_timeout_s=2)
    connection, transport = await connected(server)
    for tick in range(int(3 / SWEEP_S)):
        server.port.tick = tick
        connection.sweep(tick)
    closed_only = transport.closed and not transport.aborted

    connection.sweep(int(3.5 / SWEEP_S))

    assert closed_only
    assert transport.aborted


async def test_end_of_the_clients_bytes_counts_as_its_going() -> None:
    """A client that has shut its direction while its request runs is gone: its place is freed."""
    echo = Echo(held=True)
    connection, transport = await connected(a_server(echo))
    connection.data_received(request("GET", "/"))

    connection.eof_received()

    assert echo.waiting == echo.gone
    echo.release()
    assert transport.written == b""


async def test_second_answer_to_one_request_is_ignored() -> None:
    """Only the first answer to a request is sent."""
    echo = Echo(held=True)
    connection, transport = await connected(a_server(echo))
    connection.data_received(request("GET", "/"))
    responder = echo.waiting[0]
    echo.release()

    responder.send(Echo.answer_of("GET", "/again", b""))

    assert texts(parse_answers(transport.written)) == ["GET / "]


async def test_broken_message_is_counted_and_told_once() -> None:
    """A refusal is reported to the server's owner once, whatever follows it."""
    refusals: list[ServingError] = []
    server = HttpServer(Echo(), limits=HttpSettings(), refused=refusals.append)

    await converse(server, [b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])

    assert [MessageInvalid] == [type(each) for each in refusals]
