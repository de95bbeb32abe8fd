"""RFC 9113 section 5.2 and 6.9 at the gRPC port: windows that are closed, tiny, negative, or too large."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Final

import pytest

from serving.core.predictions import Fate
from tests.hostile.http2_cases import GONE_S, Http2Case, asking, assert_answer, message
from tests.hostile.http2_uploads import WIDE_ROW_BYTES, Careful, wide
from tests.hostile.http2_wire import (
    MAX_FRAME,
    MAX_WINDOW,
    WINDOW,
    Code,
    Http2Client,
    Setting,
    data,
    settings,
    window_update,
)
from tests.hostile.product import SHORT_CALLS
from tests.places import wait_until


@pytest.fixture
def careful(calls: Http2Case) -> Iterator[Http2Client]:
    with calls.connect() as connection:
        yield connection


def test_closed_window_holds_the_message_back_and_no_more(calls: Http2Case) -> None:
    """The head of an answer needs no window; each byte of its message does, and comes with it."""
    with calls.connect(windows=0) as connection:
        connection.send(calls.call(1, 3.0))
        connection.read_until(lambda: bool(connection.replies.get(1)))
        assert connection.pong()
        assert connection.replies[1].body == b""
        reply = connection.replies[1]
        while not reply.complete:
            wanted = len(reply.body) + 1
            connection.grant(1, 1)
            connection.read_until(
                partial(lambda most: reply.complete or len(reply.body) == most, wanted)
            )

        assert_answer(reply, 3.0)


def test_answers_that_wait_for_a_window_stop_nobody_else(calls: Http2Case) -> None:
    """One stream without a window, the next with one; and a connection without one beside another."""
    with calls.connect(windows=0) as connection, calls.connect() as other:
        connection.send(calls.call(1, 1.0), calls.call(3, 2.0))
        connection.grant(1_000, 3)
        assert_answer(connection.reply(3), 2.0)
        calls.serves(other)
        connection.grant(1_000, 1)
        assert_answer(connection.reply(1), 1.0)


def test_window_of_the_connection_is_shared(calls: Http2Case) -> None:
    """Two large answers get 65,535 bytes together, and the rest when there is more."""
    with calls.connect(connection_window=WINDOW) as connection:
        sender = Careful(connection)
        for stream in (1, 3):
            connection.send(calls.head(stream))
            assert sender.send(wide(), stream)
        connection.read_until(lambda: connection.allowed(0) == 0)
        assert connection.pong()
        calls.product.status()
        connection.grant(1 << 20)
        for stream in (1, 3):
            reply = connection.reply(stream)
            assert (reply.grpc_status, len(reply.body) > WIDE_ROW_BYTES) == (0, True)


def test_smaller_setting_makes_windows_negative(calls: Http2Case) -> None:
    """6.9.2: after SETTINGS took more than was left, nothing comes until the window is above zero."""
    with calls.connect(windows=100_000) as connection:
        connection.send(calls.head(1))
        assert Careful(connection).send(wide(), 1)
        connection.read_until(lambda: connection.allowed(1) == 0)
        connection.send(settings({Setting.INITIAL_WINDOW_SIZE: 0}))
        assert connection.pong()
        connection.grant(100_000, 1)
        assert connection.pong()
        assert len(connection.replies[1].body) == 100_000
        connection.grant(WIDE_ROW_BYTES + 1_000, 1)

        reply = connection.reply(1)
    assert (reply.complete, len(reply.body) > WIDE_ROW_BYTES) == (True, True)


def test_larger_setting_opens_every_window(calls: Http2Case) -> None:
    """6.9.2: SETTINGS change the windows of streams that are open, by the difference."""
    with calls.connect(windows=0) as connection:
        connection.send(calls.call(1, 1.0), calls.call(3, 3.0))
        for stream in (1, 3):
            connection.read_until(lambda at=stream: bool(connection.replies.get(at)))  # type: ignore[misc]
        connection.widen(1_000)
        for stream, number in ((1, 1.0), (3, 3.0)):
            assert_answer(connection.reply(stream), number)


FATAL: Final = {
    "connection by one": window_update(MAX_WINDOW),
    "connection twice": window_update(2**30) + window_update(2**30),
}


@pytest.mark.parametrize("case", FATAL)
def test_window_of_the_connection_has_a_limit(calls: Http2Case, case: str) -> None:
    """6.9.1: more than 2^31 - 1 is FLOW_CONTROL_ERROR for all of it."""
    with calls.connect(connection_window=WINDOW) as connection:
        connection.send(FATAL[case])

        assert connection.ending(within_s=GONE_S).code == Code.FLOW_CONTROL_ERROR


def test_window_of_a_stream_has_a_limit_that_settings_keep(calls: Http2Case) -> None:
    """6.9.2: SETTINGS that lift an open stream's window beyond 2^31 - 1 end the connection."""
    with calls.connect(windows=WINDOW) as connection:
        connection.send(calls.head(1), window_update(MAX_WINDOW - WINDOW, 1))
        assert connection.pong()
        assert connection.goaways == []
        connection.send(settings({Setting.INITIAL_WINDOW_SIZE: WINDOW + 1}))

        assert connection.ending(within_s=GONE_S).code == Code.FLOW_CONTROL_ERROR


def test_large_message_within_the_windows_is_taken(calls: Http2Case, careful: Http2Client) -> None:
    """A message of 8 MiB from a client that keeps to its windows never waits for ever."""
    careful.send(calls.head(1))
    assert Careful(careful).send(wide(31), 1)

    reply = careful.reply(1)
    assert (reply.grpc_status, len(reply.body) > 31 * WIDE_ROW_BYTES) == (0, True)


def test_padding_counts_and_is_given_back(calls: Http2Case, careful: Http2Client) -> None:
    """6.1: padding takes window; a small message in mostly padding would stall where it was lost."""
    sender = Careful(careful)
    noise = (b"x-a", b"a")
    for stream in range(1, 41, 2):
        careful.send(calls.head(stream, noise))
        assert sender.send(asking(2.0), stream, size=1, padding=255)
        assert_answer(careful.reply(stream), 2.0)


def test_window_of_calls_that_were_refused_is_given_back(
    calls: Http2Case, careful: Http2Client
) -> None:
    """What strangers and unknown paths send takes no window of the connection for ever."""
    sender = Careful(careful)
    for stream in range(1, 200, 2):
        careful.send(calls.head(stream, path="/no/such"))
        sender.send(bytes(2 * MAX_FRAME), stream)
        assert careful.reply(stream).grpc_status == 12

    assert_answer(careful.send(calls.call(201, 5.0)).reply(201), 5.0)


def test_message_beyond_every_window_is_not_kept(calls: Http2Case) -> None:
    """A client that ignores the windows is refused or cut; nothing of its 64 MiB stays."""
    before = calls.product.usage().resident_bytes
    with calls.connect() as connection:
        connection.send(calls.head(1) + data(message(b"", length=15 << 20), 1, 0))
        frame_of_zeros = data(bytes(MAX_FRAME), 1, 0)
        for _ in range(4_000):
            if not connection.send_while_taken(frame_of_zeros, times=1, within_s=2.0):
                break
        connection.read_until(lambda: bool(connection.goaways) or bool(connection.replies))
        told = connection.goaways[-1].code if connection.goaways else connection.replies[1]

    assert told == Code.FLOW_CONTROL_ERROR or connection.replies[1].is_over
    assert calls.product.usage().resident_bytes - before < 64 << 20


def test_calls_that_never_take_their_answers_are_cut(calls: Http2Case) -> None:
    """A window that never opens: the model's work is recorded, the memory is free at the deadline."""
    with calls.connect(windows=0) as connection:
        sender, started = Careful(connection), time.monotonic()
        for stream in range(1, 41, 2):
            connection.send(calls.head(stream))
            assert sender.send(wide(), stream)
        wait_until(lambda: len(calls.new_records()) == 20)
        connection.read_until(
            lambda: (
                bool(connection.goaways)
                or all(connection.reply(stream).is_over for stream in range(1, 41, 2))
            )
        )
        assert time.monotonic() - started < SHORT_CALLS["write_timeout_s"] + 4

    assert {record.fate for record in calls.new_records()} == {Fate.OK}
    calls.ledger.unacknowledged = range(21)


def test_client_that_never_reads_is_cut(calls: Http2Case) -> None:
    """Windows wide open and a socket that nobody empties: cut at the write deadline, and forgotten."""
    with calls.connect(receive_buffer_bytes=4096) as connection:
        sender = Careful(connection)
        for stream in (1, 3, 5):
            connection.send(calls.head(stream))
            if not sender.send(wide(40), stream):
                break  # Nothing more is read from a client that does not read.
        wait_until(lambda: len(calls.new_records()) >= 1)
        wait_until(
            lambda: not calls.product.status()["grpc_connections"],
            within_s=SHORT_CALLS["write_timeout_s"] + 4,
        )
    calls.ledger.unacknowledged = range(4)
