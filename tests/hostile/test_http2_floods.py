"""Floods at the gRPC port: frames that cost their sender nothing must not cost the server much.

CVE-2019-9511 to 9518, CVE-2023-44487 (rapid reset), CVE-2025-8671 (resets that the server is made to
send). While each of them lasts, somebody else's calls are answered.
"""

import time
from collections.abc import Callable
from typing import Final

import pytest

from tests.hostile.http2_cases import GONE_S, Http2Case, asking, assert_answer
from tests.hostile.http2_wire import (
    ACK,
    END_HEADERS,
    END_STREAM,
    WHOLE,
    Code,
    Http2Client,
    Kind,
    Setting,
    block,
    data,
    frame,
    headers,
    literal,
    padded,
    ping,
    priority,
    reset,
    settings,
    window_update,
)
from tests.places import wait_until

CALM: Final = Code.ENHANCE_YOUR_CALM
CHUNK_FRAMES: Final = 1_000
CHUNKS: Final = 500
LATE_S: Final = 1.0
"""No neighbour waits for longer."""
CPU_S: Final = 2.0
"""A flood of half a million frames may cost so much, or must be cut before."""


class Neighbour:
    """Somebody on another connection who asks now and then, and is answered in time."""

    def __init__(self, calls: Http2Case) -> None:
        self._connection = calls.connect()
        self._head = block(calls.fields_of("neighbour"))

    def asks(self) -> None:
        started, connection = time.monotonic(), self._connection
        stream = connection.new_stream()
        connection.send(headers(self._head, stream, END_HEADERS), data(asking(2.0), stream))
        assert_answer(connection.reply(stream), 2.0)
        assert time.monotonic() - started < LATE_S


def flood(
    calls: Http2Case,
    connection: Http2Client,
    chunk: Callable[[int], bytes],
    *,
    reads: bool = True,
    chunks: int = CHUNKS,
) -> int:
    """Sends chunk after chunk until the server has enough of it; how many it took."""
    neighbour = Neighbour(calls)
    for number in range(chunks):
        if not connection.send_while_taken(chunk(number), times=1, within_s=2.0):
            return number
        while reads and connection.read_for(0):
            continue
        if connection.has_ended or connection.goaways:
            return number
        if number % 20 == 0:
            neighbour.asks()
    neighbour.asks()
    return chunks


FLOODS: Final[dict[str, bytes]] = {
    "SETTINGS": settings({Setting.INITIAL_WINDOW_SIZE: 2**31 - 1}),
    "empty SETTINGS": settings(),
    "large SETTINGS": settings(dict.fromkeys(range(10, 200), 0)),
    "PING": ping(),
    "RST_STREAM of a closed stream": reset(1),
    "empty DATA": data(b"", 3, 0),
    "empty DATA with padding": padded(b"", 0, kind=Kind.DATA, stream=3, flags=0),
    "PRIORITY": priority(5),
    "WINDOW_UPDATE of a closed stream": window_update(1, 1),
    "unknown kind": frame(99),
    "SETTINGS acknowledged": frame(Kind.SETTINGS, flags=ACK),
    "PING answered": ping(flags=ACK),
}  # fmt: skip
MUST_END: Final = {"SETTINGS", "empty SETTINGS", "large SETTINGS", "PING", "empty DATA", "empty DATA with padding"}  # fmt: skip
"""Those that each cost an answer, or work for a call."""


@pytest.mark.parametrize("case", FLOODS)
def test_flood_of_small_frames_costs_little(calls: Http2Case, case: str) -> None:
    """It is cut with ENHANCE_YOUR_CALM, or costs less than two seconds in half a million frames."""
    used_s = calls.product.cpu_s()
    with calls.connect() as connection:
        connection.send(calls.call(1, 1.0), calls.head(3))
        assert_answer(connection.reply(1), 1.0)
        taken = flood(calls, connection, lambda _number: FLOODS[case] * CHUNK_FRAMES)
        if taken < CHUNKS:
            assert connection.ending(within_s=GONE_S).code in (CALM, None)
    used_s = calls.product.cpu_s() - used_s

    assert taken < CHUNKS or case not in MUST_END
    assert used_s < CPU_S


@pytest.mark.parametrize("case", ["SETTINGS", "PING"])
def test_answers_that_nobody_reads_do_not_pile_up(calls: Http2Case, case: str) -> None:
    """CVE-2019-9512 and 9515: a flood by somebody who never reads is cut, and nothing is kept."""
    with calls.connect(receive_buffer_bytes=4096) as connection:
        flood(calls, connection, lambda _n: FLOODS[case] * CHUNK_FRAMES, reads=False)

        wait_until(lambda: calls.product.status()["grpc_connections"] <= 1, within_s=GONE_S)


def resets(calls: Http2Case, number: int) -> bytes:
    """A thousand calls, each given up at once. number: of the chunk."""
    first = 1 + 2 * CHUNK_FRAMES * number
    head, text = block(calls.fields()), asking(1.0)
    return b"".join(
        headers(head, stream, END_HEADERS) + data(text, stream) + reset(stream)
        for stream in range(first, first + 2 * CHUNK_FRAMES, 2)
    )


def test_rapid_reset_keeps_no_place(calls: Http2Case) -> None:
    """CVE-2023-44487: calls that are reset at once are given up at once, or refused; nobody waits."""
    with calls.connect() as connection:
        taken = flood(calls, connection, lambda number: resets(calls, number), chunks=20)
    wait_until(lambda: calls.product.status()["in_flight"] == 0)
    calls.ledger.unacknowledged = range(taken * CHUNK_FRAMES + CHUNK_FRAMES + 1)
    calls.forget_answers()


def test_rapid_reset_of_heads_alone_is_cut(calls: Http2Case) -> None:
    """Without a message nothing is answered: HEADERS and RST_STREAM, again and again, are cut soon."""
    head = block(calls.fields())

    def chunk(number: int) -> bytes:
        first = 1 + 2 * CHUNK_FRAMES * number
        streams = range(first, first + 2 * CHUNK_FRAMES, 2)
        return b"".join(headers(head, each, END_HEADERS) + reset(each) for each in streams)

    with calls.connect() as connection:
        taken = flood(calls, connection, chunk)

        assert taken <= 20  # what the kernel took before the server came to it
        assert connection.ending(within_s=GONE_S).code in (CALM, None)


MADE: Final[dict[str, Callable[[int], bytes]]] = {
    "window by zero": lambda stream: window_update(0, stream),
    "window too large": lambda stream: window_update(2**31 - 1, stream),
    "DATA after the end": lambda stream: data(b"a", stream),
    "trailers after the end": lambda stream: headers(b"", stream),
}


@pytest.mark.parametrize("case", ["window by zero", "window too large"])
def test_resets_of_heads_that_the_server_is_made_to_send_are_cut(
    calls: Http2Case, case: str
) -> None:
    """The same before there is a message: no call begins, and it is cut as if the client had reset."""
    head = block(calls.fields())

    def chunk(number: int) -> bytes:
        first = 1 + 2 * CHUNK_FRAMES * number
        streams = range(first, first + 2 * CHUNK_FRAMES, 2)
        return b"".join(headers(head, each, END_HEADERS) + MADE[case](each) for each in streams)

    with calls.connect() as connection:
        taken = flood(calls, connection, chunk)

        assert taken <= 20  # what the kernel took before the server came to it
        assert connection.ending(within_s=GONE_S).code in (CALM, None)


@pytest.mark.parametrize("case", MADE)
def test_resets_that_the_server_is_made_to_send_keep_no_place(calls: Http2Case, case: str) -> None:
    """CVE-2025-8671: a good call and then a fault on its stream, over and over, keeps no place."""
    head, text = block(calls.fields()), asking(1.0)

    def chunk(number: int) -> bytes:
        first = 1 + 2 * CHUNK_FRAMES * number
        return b"".join(
            headers(head, stream, END_HEADERS) + data(text, stream) + MADE[case](stream)
            for stream in range(first, first + 2 * CHUNK_FRAMES, 2)
        )

    with calls.connect() as connection:
        taken = flood(calls, connection, chunk, chunks=20)
    wait_until(lambda: calls.product.status()["in_flight"] == 0)
    calls.ledger.unacknowledged = range((taken + 1) * CHUNK_FRAMES + 1)
    calls.forget_answers()


BAD_HEADS: Final = {
    "upper case": literal(b"A", b"b"),
    "no pseudo fields": literal(b"a", b"b"),
    "nothing": b"",
}


@pytest.mark.parametrize("case", BAD_HEADS)
def test_flood_of_malformed_heads_costs_little(calls: Http2Case, case: str) -> None:
    """Each costs a reset at most, and many of them end the connection or cost less than two seconds."""
    bad, used_s = BAD_HEADS[case], calls.product.cpu_s()

    def chunk(number: int) -> bytes:
        first = 1 + 2 * CHUNK_FRAMES * number
        return b"".join(headers(bad, each) for each in range(first, first + 2 * CHUNK_FRAMES, 2))

    with calls.connect() as connection:
        flood(calls, connection, chunk)

    assert calls.product.cpu_s() - used_s < CPU_S


def test_flood_of_strangers_keeps_no_place(calls: Http2Case) -> None:
    """Calls without a token, more than fit a connection, wait or are refused, and the rest is served."""
    fields = [pair for pair in calls.fields() if pair[0] != b"authorization"]
    head = block(fields)
    with calls.connect() as connection:
        streams = range(1, 2 * 3_000, 2)
        connection.try_send(b"".join(headers(head, each, WHOLE) for each in streams))
        Neighbour(calls).asks()
        connection.close()
    wait_until(lambda: calls.product.status()["in_flight"] == 0)
    calls.forget_refusals("unauthenticated", most=3_000)


def test_caller_who_gives_up_half_of_its_calls_is_served(calls: Http2Case) -> None:
    """Hedging and short deadlines are no flood: 400 calls, every other reset, and none of them cut."""
    with calls.connect() as connection:
        for _ in range(200):
            given_up = calls.ask(connection, 1.0)
            connection.send(reset(given_up))
            assert_answer(connection.reply(calls.ask(connection, 3.0)), 3.0)
        assert connection.goaways == []
    calls.ledger.unacknowledged = range(201)
    calls.forget_answers()


def test_caller_who_measures_its_round_trip_is_served(calls: Http2Case) -> None:
    """A PING with each call, as the libraries of gRPC send to find their windows, is no flood."""
    with calls.connect() as connection:
        for _ in range(100):
            connection.send(ping(b"measures"))
            assert_answer(connection.reply(calls.ask(connection, 3.0)), 3.0)
        assert connection.goaways == []


def test_tiny_frames_of_one_message_have_a_price(calls: Http2Case) -> None:
    """A message byte by byte is served while it is small; a hundred thousand frames are not much work."""
    text, used_s = asking(4.0), calls.product.cpu_s()
    with calls.connect() as connection:
        connection.send(calls.head(1), *(data(text[at : at + 1], 1, 0) for at in range(len(text))))
        connection.send(data(b"", 1, END_STREAM))
        assert_answer(connection.reply(1), 4.0)
        connection.send(calls.head(3))
        flooded = b"".join((data(b"\0\0\xff\xff\xff", 3, 0), data(b"a", 3, 0) * CHUNK_FRAMES))
        for _ in range(50):
            if not connection.try_send(flooded):
                break

    assert calls.product.cpu_s() - used_s < CPU_S
