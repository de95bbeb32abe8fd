"""Callers of the gRPC port that are slow, silent, or gone: nothing is held for longer than its deadline.

And cuts: a conversation in any pieces is the same conversation, one that ends anywhere leaves nothing.
"""

import time
from collections.abc import Callable
from typing import Final

import pytest

from serving.core.predictions import Fate
from serving.edge.connections import LINGER_S
from tests.catalogue import SLOW
from tests.edge.grpc.wire import STREAM
from tests.hostile.http2_cases import GONE_S, Http2Case, asking, assert_answer
from tests.hostile.http2_wire import (
    ACK,
    END_HEADERS,
    PREFACE,
    Code,
    Http2Client,
    Kind,
    block,
    continuation,
    data,
    frame,
    greeting,
    headers,
    ping,
    settings,
)
from tests.hostile.product import BODY_S, HEAD_S, IDLE_S, SWEEPS_S
from tests.places import wait_until

SILENT: Final[dict[str, tuple[bytes, float]]] = {
    "not a byte": (b"", HEAD_S),
    "one byte": (PREFACE[:1], HEAD_S),
    "half a preface": (PREFACE[:12], HEAD_S),
    "a preface": (PREFACE, HEAD_S),
    "half of SETTINGS": (greeting()[:30], HEAD_S),
    "SETTINGS": (greeting(), IDLE_S),
    "half the head of a frame": (greeting() + frame(Kind.PING)[:5], IDLE_S),
    "half a PING": (greeting() + frame(Kind.PING, bytes(8))[:12], IDLE_S),
}


@pytest.mark.parametrize("case", SILENT)
def test_silence_ends_at_its_deadline(calls: Http2Case, case: str) -> None:
    """Whoever stops to talk before there is a call is closed, and not earlier than the deadline."""
    raw, deadline_s = SILENT[case]
    with calls.connect(greets=False, polite=False) as connection:
        started = time.monotonic()
        connection.send(raw)
        connection.ending(within_s=deadline_s + SWEEPS_S)
        lasted_s = time.monotonic() - started

    assert lasted_s >= deadline_s * 0.5


def test_block_that_is_never_finished_is_cut(calls: Http2Case) -> None:
    """A head whose CONTINUATION frames trickle ends its connection at the deadline of heads."""
    with calls.connect() as connection:
        started = time.monotonic()
        connection.send(headers(block(calls.fields()), 1, 0))
        while not connection.has_ended:
            assert time.monotonic() - started < HEAD_S + SWEEPS_S
            connection.try_send(continuation(b"", 1, 0))
            connection.read_for(0.1)


def test_connection_cut_within_a_block_is_closed(calls: Http2Case) -> None:
    """Who stays after the goodbye that a block without an end brought is told once, and closed: the
    block is late no more, or its deadline would begin the wait for the client anew, for ever."""
    with calls.connect() as connection:
        connection.send(headers(block(calls.fields()), 1, 0), ping())
        wait_until(
            lambda: not calls.product.status()["grpc_connections"],
            within_s=HEAD_S + LINGER_S + SWEEPS_S,
        )
        connection.ending(within_s=GONE_S)

    assert [each.code for each in connection.goaways] == [Code.PROTOCOL_ERROR]


def test_frame_that_is_never_finished_is_cut(calls: Http2Case) -> None:
    """DATA of which a byte comes now and then counts as a body that is late."""
    with calls.connect() as connection:
        started = time.monotonic()
        connection.send(calls.head(1), data(bytes(16_000), 1)[:100])
        connection.read_until(lambda: connection.reply_is_over(1), within_s=BODY_S + SWEEPS_S)

    assert time.monotonic() - started >= HEAD_S * 0.5
    calls.forget_answers()


@pytest.mark.parametrize("sent", [b"", asking()[:3], asking()[:-1]])
def test_message_that_never_comes_is_given_up(calls: Http2Case, sent: bytes) -> None:
    """The call fails at the body's deadline; the connection and its other calls go on."""
    with calls.connect() as connection:
        stalled = connection.new_stream()
        connection.send(calls.head(stalled), data(sent, stalled, 0))
        started = time.monotonic()
        while not connection.reply_is_over(stalled):
            assert time.monotonic() - started < BODY_S + SWEEPS_S
            assert_answer(connection.reply(calls.ask(connection, 2.0)), 2.0)
            connection.read_for(0.1)
        assert connection.goaways == []
    calls.forget_answers()


def test_message_that_trickles_is_given_up(calls: Http2Case) -> None:
    """A byte at a time keeps no call open beyond the body's deadline."""
    with calls.connect() as connection:
        connection.send(calls.head(1), data(b"\0\0\0\xff\xff", 1, 0))
        started = time.monotonic()
        while not connection.reply_is_over(1):
            assert time.monotonic() - started < BODY_S + SWEEPS_S
            connection.try_send(data(b"a", 1, 0))
            connection.read_for(0.05)
    calls.forget_answers()


def test_stream_of_calls_may_pause(calls: Http2Case) -> None:
    """ModelStreamInfer is open for as long as its caller likes: a pause between messages is no delay."""
    with calls.connect() as connection:
        connection.send(headers(block(calls.fields(path=STREAM)), 1, END_HEADERS))
        for number in (1.0, 2.0):
            connection.send(data(asking(number), 1, 0))
            connection.read_until(lambda: bool(connection.replies.get(1)))
            until = time.monotonic() + BODY_S + 1.0
            while time.monotonic() < until:
                connection.read_for(0.1)
        connection.send(data(b"", 1))
        reply = connection.reply(1)

    assert (reply.grpc_status, reply.reset) == (0, None)
    calls.ledger.unacknowledged = range(3)


def test_idle_connection_says_goodbye(calls: Http2Case) -> None:
    """Closed after its idle time with GOAWAY NO_ERROR that names the last call; never during a call."""
    with calls.connect() as connection:
        stream = calls.ask(connection, 1.0)
        assert_answer(connection.reply(stream), 1.0)
        ending = connection.ending(within_s=IDLE_S + SWEEPS_S)

    assert ending.code in (None, Code.NO_ERROR)
    assert ending.code is None or ending.last >= stream


def test_running_call_keeps_its_connection(calls: Http2Case) -> None:
    """A model that runs for longer than the idle time is waited for."""
    number = 4 * SLOW
    with calls.connect() as connection:
        streams = [calls.ask(connection, number, timeout=60_000_000) for _ in range(2)]
        for stream in streams:
            assert_answer(connection.reply(stream, within_s=60), number)


@pytest.mark.parametrize("timeout", [b"0n", b"1m", b"50m"])
def test_deadline_of_the_caller_holds(calls: Http2Case, timeout: bytes) -> None:
    """DEADLINE_EXCEEDED in time, behind a slow call, and the neighbours get their answers."""
    with calls.connect() as connection:
        first = calls.ask(connection, SLOW, timeout=20_000_000)
        wait_until(lambda: calls.product.status()["in_flight"] == 1)
        started = time.monotonic()
        connection.send(calls.call(1_001, SLOW, (b"grpc-timeout", timeout)))
        assert connection.reply(1_001).grpc_status == 4
        assert time.monotonic() - started < 0.5
        assert_answer(connection.reply(first), SLOW)
    wait_until(lambda: calls.product.status()["in_flight"] == 0)


@pytest.mark.parametrize("timeout", [b"", b"1", b"-1S", b"1s", b"123456789S", b"1.5S", b"1 S"])
def test_deadline_that_is_none_is_refused(calls: Http2Case, timeout: bytes) -> None:
    """Not eight digits and a unit: INVALID_ARGUMENT, and no guess at what was meant."""
    with calls.connect() as connection:
        connection.send(calls.call(1, 1.0, (b"grpc-timeout", timeout)))

        assert connection.reply(1).grpc_status == 3


# -- pieces and cuts -----------------------------------------------------------------------------------


def conversation(calls: Http2Case) -> bytes:
    """Everything a client says for two calls, blocks in pieces, padding and trailers among it."""
    head = block(calls.fields())
    return b"".join(
        (
            greeting(),
            frame(Kind.SETTINGS, flags=ACK),
            headers(head[:40], 1, 0) + continuation(head[40:], 1),
            data(asking(2.0)[:11], 1, 0) + frame(99, b"abc") + settings(),
            data(asking(2.0)[11:], 1),
            calls.call(3, 4.0),
        )
    )


def assert_conversed(connection: Http2Client) -> None:
    assert_answer(connection.reply(1), 2.0)
    assert_answer(connection.reply(3), 4.0)
    assert connection.goaways == []


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9, 10, 13, 100])
def test_any_pieces_are_the_same_conversation(calls: Http2Case, size: int) -> None:
    """However TCP cuts what a client says, down to single bytes, it is answered alike."""
    raw = conversation(calls)
    with calls.connect(greets=False, polite=False) as connection:
        for at in range(0, len(raw), size):
            connection.send(raw[at : at + size])
            connection.read_for(0)

        assert_conversed(connection)


def test_a_cut_anywhere_is_the_same_conversation(calls: Http2Case) -> None:
    """Two pieces, cut at every third byte, with a pause in between in which the first is handled."""
    raw = conversation(calls)
    for at in range(1, len(raw), 3):
        with calls.connect(greets=False, polite=False) as connection:
            connection.send(raw[:at])
            connection.read_for(0.002)
            connection.send(raw[at:])
            assert_conversed(connection)


ENDS: Final[dict[str, Callable[[Http2Client], None]]] = {
    "close": Http2Client.close,
    "shut": Http2Client.shut,
    "reset": Http2Client.abort,
}


@pytest.mark.parametrize("how", ENDS)
def test_an_end_anywhere_leaves_nothing(calls: Http2Case, how: str) -> None:
    """A client that is gone after any number of bytes: no place, no descriptor, a record at most."""
    raw = conversation(calls)
    for at in range(len(raw)):
        connection = calls.connect(greets=False)
        connection.send(raw[:at])
        ENDS[how](connection)
    calls.ledger.unacknowledged = range(2 * len(raw))
    wait_until(lambda: calls.product.status()["grpc_connections"] == 0)
    wait_until(lambda: calls.product.status()["in_flight"] == 0)
    calls.forget_answers()

    assert {record.fate for record in calls.new_records()} <= {Fate.OK, Fate.CLIENT_GONE}


def test_crowd_of_silent_connections_is_closed(calls: Http2Case) -> None:
    """Five hundred that say nothing are all closed at the deadline; a caller beside them is served."""
    crowd = [calls.connect(greets=False) for _ in range(500)]
    with calls.connect() as good:
        assert_answer(good.reply(calls.ask(good, 1.0)), 1.0)
    started = time.monotonic()
    for each in crowd:
        each.ending(within_s=HEAD_S + SWEEPS_S)
        each.close()
    assert time.monotonic() - started < HEAD_S + SWEEPS_S
