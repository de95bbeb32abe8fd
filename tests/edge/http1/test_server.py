"""The server on real sockets: what it answers, what it refuses, when it stops waiting."""

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from serving.port_settings import HttpSettings
from tests.edge.wire import (
    LOOPS,
    Client,
    Echo,
    Served,
    assert_problem,
    request,
)
from tests.places import wait_until

GET = request("GET")
Start = Callable[..., Served]


@pytest.fixture(params=list(LOOPS))
def start_anywhere(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts servers on each kind of event loop."""
    with ExitStack() as stack:
        start = partial(Served, new_loop=LOOPS[request.param])
        yield lambda *given, **limits: stack.enter_context(start(*given, **limits))


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers on the loop of the product."""
    with ExitStack() as stack:
        yield lambda *given, **limits: stack.enter_context(Served(*given, **limits))


def assert_refused(client: Client, status: int, code: str) -> None:
    """One answer of the one shape, then the end: no reset, nothing served behind it."""
    answer = client.receive()
    assert_problem(answer, status, code)
    assert answer.headers["connection"] == "close"
    assert client.rest() == b""


def text(client: Client) -> str:
    answer = client.receive()
    assert answer.status == 200
    return answer.body.decode()


# -- the life of a connection ----------------------------------------------------------------------


def test_connection_is_kept_for_the_next_request(start_anywhere: Start) -> None:
    """Requests follow each other on one connection, with and without a body."""
    server = start_anywhere(Echo())

    with server.connect() as client:
        texts = [text(client.send(each)) for each in (GET, request(body=b"abc"), GET)]

    assert texts == ["GET / ", "POST / abc", "GET / "]


def test_pipelined_requests_are_answered_in_order(start_anywhere: Start) -> None:
    """Requests sent without waiting are answered one after the other, in their order."""
    server = start_anywhere(Echo())
    numbers = range(50)

    with server.connect() as client:
        client.send(b"".join(request("GET", f"/{number}") for number in numbers))
        texts = [text(client) for _ in numbers]

    assert [f"GET /{number} " for number in numbers] == texts


def test_connection_closes_when_the_client_says_so(start_anywhere: Start) -> None:
    """`Connection: close` gets its answer, which says the same, and the end."""
    server = start_anywhere(Echo())

    with server.connect() as client:
        answer = client.send(request("GET", "/", "Connection: close") + GET).receive()

        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert client.rest() == b""
    wait_until(lambda: not server.connections)


@pytest.mark.parametrize("header", ["X-Nothing: 1", "Connection: keep-alive"])
def test_http_1_0_gets_one_answer(start: Start, header: str) -> None:
    """An HTTP/1.0 client gets its answer and the end of the connection."""
    server = start(Echo())

    with server.connect() as client:
        client.send(request("GET", "/", header).replace(b"HTTP/1.1", b"HTTP/1.0"))

        assert text(client) == "GET / "
        assert client.rest() == b""


def test_answer_to_head_has_no_body(start: Start) -> None:
    """A HEAD request is answered with the head only, and nothing can follow to be mistaken."""
    server = start(Echo())

    with server.connect() as client:
        answer = client.send(request("HEAD")).receive(bodiless=True)

        assert (answer.status, answer.headers["content-length"]) == (200, "7")
        assert client.rest() == b""


def test_client_that_expects_100_is_told_to_go_on(start_anywhere: Start) -> None:
    """`Expect: 100-continue` gets its interim answer before the body is sent."""
    server = start_anywhere(Echo())
    head = request("POST", "/", "Expect: 100-continue", "Content-Length: 3")

    with server.connect() as client:
        interim = client.send(head).receive()
        answer = client.send(b"abc").receive()

    assert (interim.status, answer.status) == (100, 200)


def test_body_may_come_in_pieces(start_anywhere: Start) -> None:
    """A body of known length is complete with its last byte, wherever it was cut."""
    server = start_anywhere(Echo())
    raw = request(body=b"abcdef")

    with server.connect() as client:
        for piece in (raw[:20], raw[20:-4], raw[-4:-1], raw[-1:]):
            client.send(piece)

        assert text(client) == "POST / abcdef"


@pytest.mark.parametrize("piece_bytes", [1 << 30, 300_000, 10_007])
def test_long_body_arrives_whole(start_anywhere: Start, piece_bytes: int) -> None:
    """A body of megabytes is complete and exact, and the request behind it is served."""
    server = start_anywhere(Echo())
    body = bytes(range(256)) * (4 << 12)
    raw = request(body=body) + GET

    with server.connect() as client:
        for at in range(0, len(raw), piece_bytes):
            client.send(raw[at : at + piece_bytes])

        assert client.receive().body == b"POST / " + body
        assert text(client) == "GET / "
        assert text(client.send(request(body=b"abc"))) == "POST / abc"


def test_long_body_is_bounded_in_time_and_memory(start_anywhere: Start) -> None:
    """A long body that stops, or is one too many, is refused; its client's going is noticed."""
    echo = Echo()
    server = start_anywhere(echo, body_timeout_s=0.4, max_buffered_bytes=3_000_000)
    promise = request("POST", "/", "Content-Length: 4000000")
    with server.connect() as stopping, server.connect() as too_many, server.connect() as gone:
        stopping.send(promise + bytes(1_000_000))
        assert_refused(stopping, 408, "request_timeout")
        too_many.send(promise + bytes(3_500_000))
        assert_refused(too_many, 503, "overloaded")
        gone.send(promise + bytes(1_000_000))
    wait_until(lambda: not server.connections)

    with server.connect() as client:
        client.send(request(body=bytes(2_900_000)))
        assert client.receive().status == 200
    assert len(echo.seen) == 1


def test_request_may_stand_behind_a_chunked_body(start_anywhere: Start) -> None:
    """The end of a chunked body is known exactly, so a request can follow in the same segment."""
    server = start_anywhere(Echo())
    chunked = request("POST", "/", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n"

    with server.connect() as client:
        client.send(chunked + chunked + GET)

        assert [text(client) for _ in range(3)] == ["POST / abc", "POST / abc", "GET / "]


def test_large_answer_arrives_whole(start_anywhere: Start) -> None:
    """An answer larger than any buffer reaches a client that reads, kept open and not."""
    payload = Echo.answer_of("GET", "/", bytes(8 << 20))
    server = start_anywhere(Echo(payload=payload))

    with server.connect() as client:
        kept = client.send(GET).receive()
        last = client.send(request("GET", "/", "Connection: close")).receive()

        assert len(kept.body) == len(last.body) == (8 << 20) + len("GET / ")
        assert client.rest() == b""


def test_unix_socket_serves_and_belongs_to_this_user(start: Start, tmp_path: Path) -> None:
    """The Unix listener answers like the port, and nobody else may open it."""
    server = start(Echo())
    path = tmp_path / "socket"

    server.listen_unix(path)

    with Client(path) as client:
        assert text(client.send(GET)) == "GET / "
    assert path.stat().st_mode & 0o777 == 0o600


# -- limits: at the limit, one over, ten times -----------------------------------------------------


def line_of(length: int) -> bytes:
    target = "/" + "a" * (length - len("GET / HTTP/1.1"))
    return request("GET", target)


def head_of(length: int) -> bytes:
    """A head of `length` bytes before its blank line, in headers of allowed length."""
    filler = "X: " + "a" * 4000
    headers = [filler] * (length // 4010)
    missing = length - len(request("GET", "/", *headers, "Y: ").removesuffix(b"\r\n\r\n"))
    return request("GET", "/", *headers, "Y: " + "b" * missing)


def headers_of(count: int) -> bytes:
    return request("GET", "/", *(f"X-{number}: y" for number in range(count - 1)))


def header_of(length: int) -> bytes:
    return request("GET", "/", "X-Long: " + "a" * (length - len("X-Long")))


LIMITS = {
    "request line": (line_of, 8192, 414, "uri_too_long"),
    "head block": (head_of, 32768, 431, "headers_too_large"),
    "header count": (headers_of, 100, 431, "headers_too_large"),
    "one header": (header_of, 8192, 431, "headers_too_large"),
}


@pytest.mark.parametrize("piece_bytes", [10**9, 1000], ids=["whole", "in pieces"])
@pytest.mark.parametrize("limit", LIMITS)
def test_head_at_its_limit_is_served(start: Start, limit: str, piece_bytes: int) -> None:
    """A head exactly at a limit is served, however it arrives."""
    make, most, _, _ = LIMITS[limit]
    server = start(Echo())
    raw = make(most)

    with server.connect() as client:
        for at in range(0, len(raw), piece_bytes):
            client.send(raw[at : at + piece_bytes])

        assert client.receive().status == 200


@pytest.mark.parametrize("times", [1, 10], ids=["one over", "ten times"])
@pytest.mark.parametrize("limit", LIMITS)
def test_head_over_its_limit_is_refused(start_anywhere: Start, limit: str, times: int) -> None:
    """A head over a limit is refused with its status, which the client can read."""
    make, most, status, code = LIMITS[limit]
    echo = Echo()
    server = start_anywhere(echo)

    with server.connect() as client:
        client.send(make(most * times + (times == 1)))

        assert_refused(client, status, code)
    assert echo.seen == []


def test_long_token_is_left_to_authentication(start: Start) -> None:
    """An over-long Authorization value is no framing fault: it gets its 401 from whoever judges."""
    server = start(Echo())

    with server.connect() as client:
        client.send(request("GET", "/", "Authorization: Bearer " + "a" * 30_000))

        assert client.receive().status == 200


@pytest.mark.parametrize("framing", ["sized", "chunked"])
@pytest.mark.parametrize("size", [65536, 65537, 655360], ids=["at limit", "one over", "ten times"])
def test_body_has_a_limit(start_anywhere: Start, framing: str, size: int) -> None:
    """A body at the limit is served; one over it is refused with 413 and the client learns so."""
    server = start_anywhere(Echo(), max_body_bytes=65536)
    body = bytes(size)
    raw = request(body=body)
    if framing == "chunked":
        head = request("POST", "/", "Transfer-Encoding: chunked")
        raw = head + b"%x\r\n%b\r\n0\r\n\r\n" % (size, body)

    with server.connect() as client:
        client.send(raw)

        if size == 65536:
            assert client.receive().status == 200
        else:
            assert_refused(client, 413, "body_too_large")


def test_ten_times_the_default_body_is_refused_readably(start_anywhere: Start) -> None:
    """A client that sends 160 MiB before it reads still gets its 413 and no reset."""
    server = start_anywhere(Echo())
    size = 10 * HttpSettings().max_body_bytes

    with server.connect() as client:
        client.send(request("POST", "/", f"Content-Length: {size}"))
        for _ in range(160):
            client.send(bytes(1 << 20))

        assert_refused(client, 413, "body_too_large")


def test_connections_have_a_limit(start_anywhere: Start) -> None:
    """One connection too many is refused with 503 and counted; the others go on."""
    server = start_anywhere(Echo(), max_connections=3)
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(3)]
        assert [text(client.send(GET)) for client in clients] == ["GET / "] * 3

        for _ in range(7):
            with server.connect() as refused:
                assert_refused(refused, 503, "too_many_connections")

        assert text(clients[0].send(GET)) == "GET / "
        assert [each.code for each in server.refusals] == ["too_many_connections"] * 7
    wait_until(lambda: not server.connections)
    with server.connect() as client:
        assert text(client.send(GET)) == "GET / "


def test_unfinished_bodies_share_a_limit(start: Start) -> None:
    """When unfinished bodies fill their memory the next is refused; whole requests pass."""
    server = start(Echo(), max_buffered_bytes=100_000)
    promise = request("POST", "/", "Content-Length: 90000")
    with server.connect() as first, server.connect() as second, server.connect() as third:
        first.send(promise + bytes(60_000))
        second.send(promise + bytes(60_000))

        assert_refused(second, 503, "overloaded")
        assert text(third.send(request(body=bytes(60_000)))).startswith("POST")
        assert text(first.send(bytes(30_000))).startswith("POST")
    for _ in range(3):
        with server.connect() as next_one:
            next_one.send(promise + bytes(60_000))
            wait_until(lambda: server.connections == 1)
            assert text(next_one.send(bytes(30_000))).startswith("POST")
        wait_until(lambda: not server.connections)


def test_promised_bytes_cost_no_memory(start: Start) -> None:
    """A body takes memory as it comes, not as its Content-Length says."""
    server = start(Echo())
    promise = request("POST", "/", "Content-Length: 16777216")
    before = resident_bytes()
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(server.connect()).send(promise + b"a")
        wait_until(lambda: server.connections == 20)
        with server.connect() as client:
            text(client.send(GET))

        assert resident_bytes() - before < 32 << 20


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# -- deadlines -------------------------------------------------------------------------------------


def test_slow_head_is_given_up(start_anywhere: Start) -> None:
    """A head that is not complete in time gets 408, however steadily it comes."""
    server = start_anywhere(Echo(), head_timeout_s=0.2)
    with server.connect() as client:
        for byte in GET[:-2]:
            if not client.try_send(bytes([byte])) or client.has_answer(within_s=0.05):
                break

        assert_refused(client, 408, "request_timeout")


def test_slow_body_is_given_up(start_anywhere: Start) -> None:
    """A body that is not complete in time gets 408, whatever its rate."""
    server = start_anywhere(Echo(), body_timeout_s=0.2, min_body_bytes_per_s=1)
    with server.connect() as client:
        client.send(request("POST", "/", "Content-Length: 100") + bytes(50))

        assert_refused(client, 408, "request_timeout")


def test_idle_connection_is_closed_in_silence(start_anywhere: Start) -> None:
    """A connection kept open for nothing ends without an answer, used before or not."""
    server = start_anywhere(Echo(), idle_timeout_s=0.2)
    with server.connect() as used, server.connect() as unused:
        assert text(used.send(GET)) == "GET / "

        assert (used.rest(), unused.rest()) == (b"", b"")
    wait_until(lambda: not server.connections)


def test_running_request_has_no_deadline_here(start: Start) -> None:
    """How long an answer may take is the application's to say."""
    echo = Echo(held=True)
    server = start(echo, head_timeout_s=0.2, body_timeout_s=0.2, idle_timeout_s=0.2)
    with server.connect() as client, server.connect() as other:
        client.send(GET)
        wait_until(lambda: echo.waiting)
        assert other.rest() == b""

        server.do(echo.release)

        assert text(client) == "GET / "


def test_answer_nobody_reads_is_cut(start: Start) -> None:
    """A client that closes nothing and reads nothing is cut off, even if its request was the last."""
    server = start(Echo(payload=bytes(16 << 20)), write_timeout_s=0.2, linger_s=0.2)
    with Client(server.port, receive_buffer_bytes=4096) as client:
        client.send(request("GET", "/", "Connection: close"))
        wait_until(lambda: server.connections == 1)

        wait_until(lambda: not server.connections)


def test_client_that_keeps_sending_is_cut(start: Start) -> None:
    """After a refusal the client may finish what it was sending, but not for ever."""
    server = start(Echo(), linger_s=0.2)
    with server.connect() as client:
        client.send(b"nonsense\n")
        assert client.receive().status == 400

        assert not client.sends_for(within_s=2)
    wait_until(lambda: not server.connections)


# -- the client goes ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset", "shut"])
def test_client_that_goes_is_noticed(start_anywhere: Start, how: str) -> None:
    """Whoever runs a request learns that its client went; the late answer goes nowhere."""
    echo = Echo(held=True)
    server = start_anywhere(echo)
    with server.connect() as client:
        client.send(GET)
        wait_until(lambda: echo.waiting)
        {"close": client.close, "reset": client.reset, "shut": client.shut}[how]()

        wait_until(lambda: echo.gone)

        server.do(echo.release)
        wait_until(lambda: not server.connections)


def test_reset_in_mid_answer_is_harmless(start_anywhere: Start) -> None:
    """A client that resets while its answer is being written leaves nothing behind."""
    server = start_anywhere(Echo(payload=Echo.answer_of("GET", "/", bytes(16 << 20))))
    for _ in range(5):
        with Client(server.port, receive_buffer_bytes=4096) as client:
            client.send(GET + GET)
            client.has_answer(within_s=5)
            client.reset()

    wait_until(lambda: not server.connections)
    with server.connect() as client:
        assert client.send(GET).receive().status == 200


def test_watch_is_not_called_after_the_answer(start: Start) -> None:
    """A client that leaves with its answer has not gone away from a request."""
    echo = Echo(held=True)
    server = start(echo)
    with server.connect() as client:
        client.send(GET)
        wait_until(lambda: echo.waiting)
        server.do(echo.release)
        text(client)
    wait_until(lambda: not server.connections)

    assert echo.gone == []


# -- draining --------------------------------------------------------------------------------------


def test_drain_answers_what_runs(start_anywhere: Start) -> None:
    """Closing waits for the request that runs; its answer says that the connection ends."""
    echo = Echo(held=True)
    server = start_anywhere(echo)
    with server.connect() as client:
        client.send(GET)
        wait_until(lambda: echo.waiting)
        closing = server.begin_close(drain_s=5)
        server.do(echo.release)

        answer = client.receive()

        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert client.rest() == b""
        client.close()
        closing.result(5)
    assert server.connections == 0


def test_drain_answers_the_request_that_was_on_its_way(start: Start) -> None:
    """A connection used a moment ago gets its next request answered before it ends."""
    server = start(Echo())
    with server.connect() as client:
        text(client.send(GET))
        closing = server.begin_close(drain_s=5)

        answer = client.send(GET).receive()

        assert (answer.status, answer.headers["connection"]) == (200, "close")
        client.close()
        closing.result(5)


def test_drain_closes_idle_connections_soon(start: Start) -> None:
    """Connections that nobody uses do not hold up the end."""
    server = start(Echo())
    with server.connect() as client:
        text(client.send(GET))
        closing = server.begin_close(drain_s=30)

        assert client.has_answer(within_s=5)
        assert client.rest() == b""
        closing.result(2)


def test_drain_gives_up_after_its_time(start_anywhere: Start) -> None:
    """What has no answer when the time is over is cut off, and its owner learns so."""
    echo = Echo(held=True)
    server = start_anywhere(echo)
    with server.connect() as client:
        client.send(GET)
        wait_until(lambda: echo.waiting)

        server.aclose(drain_s=0.1)

        assert client.is_cut()
        assert (server.connections, len(echo.gone)) == (0, 1)


def test_closed_server_accepts_nothing(start: Start) -> None:
    """After the end a new connection is refused by the kernel."""
    server = start(Echo())
    server.aclose(drain_s=0)

    with pytest.raises(ConnectionRefusedError):
        server.connect()


# -- catalogue: slow clients -----------------------------------------------------------------------


def test_slow_heads_do_not_stop_the_others(start: Start) -> None:
    """A crowd of slow heads is closed at its deadline while others are served as before."""
    server = start(Echo(), head_timeout_s=0.5)
    with ExitStack() as stack:
        slow = [stack.enter_context(server.connect()) for _ in range(200)]
        for client in slow:
            client.send(b"GET / HT")
        with server.connect() as fast:
            started = time.monotonic()
            for _ in range(100):
                text(fast.send(GET))
            served_s = time.monotonic() - started
        for client in slow:
            assert_refused(client, 408, "request_timeout")

    assert served_s < 2
    wait_until(lambda: not server.connections)


def test_trickling_body_is_given_up(start: Start) -> None:
    """A body below the minimum rate gets 408 long before its deadline; the application never ran."""
    echo = Echo()
    server = start(echo, body_timeout_s=60)
    with server.connect() as client:
        client.send(request("POST", "/", "Content-Length: 100") + b"a")

        assert_refused(client, 408, "request_timeout")
    assert echo.seen == []


def test_silent_connections_are_closed(start: Start) -> None:
    """Connections without a byte end at the idle limit; new ones are accepted meanwhile."""
    server = start(Echo(), idle_timeout_s=0.5)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with ExitStack() as stack:
        silent = [stack.enter_context(server.connect()) for _ in range(500)]
        with server.connect() as client:
            assert text(client.send(GET)) == "GET / "
        assert all(each.rest() == b"" for each in silent)
    wait_until(lambda: not server.connections)

    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_answer_that_is_not_read_is_cut(start_anywhere: Start) -> None:
    """A client that reads a large answer too slowly is cut at the write deadline."""
    echo = Echo(payload=Echo.answer_of("GET", "/", bytes(16 << 20)))
    server = start_anywhere(echo, write_timeout_s=0.2, idle_timeout_s=60)
    with Client(server.port, receive_buffer_bytes=4096) as client:
        client.send(GET)
        wait_until(lambda: echo.seen)
        while server.connections:
            client.has_answer(within_s=0.05)
            client.read_some(1)

        assert len(echo.seen) == 1


def test_monstrous_heads_are_refused_at_once(start_anywhere: Start) -> None:
    """Ten thousand headers, or a header of 20 MB, get 431 before the client has sent them all."""
    server = start_anywhere(Echo())
    many = b"GET / HTTP/1.1\r\nHost: here\r\n" + b"X: y\r\n" * 10_000 + b"\r\n"
    huge = b"GET / HTTP/1.1\r\nHost: here\r\nX: " + b"y" * 20_000_000
    for raw in (many, huge):
        with server.connect() as client:
            client.send(raw[:40_000])
            used = resource.getrusage(resource.RUSAGE_SELF).ru_utime
            answered = client.has_answer(within_s=5)
            used = resource.getrusage(resource.RUSAGE_SELF).ru_utime - used
            client.send(raw[40_000:])

            assert answered
            assert used < 0.05
            assert_refused(client, 431, "headers_too_large")
