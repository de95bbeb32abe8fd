"""RFC 9113 section 5.1 at the gRPC port: streams that end early, late, half, or are too many.

Whatever one of them does, its neighbours are answered, its place is free and it has one record.
"""

import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import pytest

from serving.core.predictions import Fate
from serving.port_settings import GrpcSettings
from tests.catalogue import SLOW
from tests.edge.grpc.wire import SERVICE, STREAM
from tests.hostile.http2_cases import GONE_S, Http2Case, asking, assert_answer, message
from tests.hostile.http2_wire import (
    END_HEADERS,
    WHOLE,
    Code,
    Http2Client,
    block,
    data,
    goaway,
    headers,
    literal,
    ping,
    priority,
    reset,
    window_update,
)
from tests.places import wait_until

MOST: Final = GrpcSettings().max_streams_per_connection
LONG_ENOUGH: Final = {"timeout": 20_000_000}
FREED_S: Final = 1.0
WATCH: Final = "/grpc.health.v1.Health/Watch"


def in_flight(calls: Http2Case) -> int:
    return int(calls.product.status()["in_flight"])


def fates(calls: Http2Case) -> Counter[Fate]:
    return Counter(record.fate for record in calls.new_records())


def over(calls: Http2Case, connection: Http2Client) -> int:
    """A stream whose call was answered."""
    stream = calls.ask(connection, 1.0)
    assert_answer(connection.reply(stream), 1.0)
    return stream


LATE: Final[dict[str, Callable[[int], bytes]]] = {
    "WINDOW_UPDATE": lambda stream: window_update(1, stream),
    "RST_STREAM": reset,
    "RST_STREAM twice": lambda stream: reset(stream) + reset(stream, Code.NO_ERROR),
    "PRIORITY": priority,
}


@pytest.mark.parametrize("case", LATE)
def test_late_word_about_a_closed_stream_is_ignored(calls: Http2Case, case: str) -> None:
    """5.1: what crossed the answer on its way is no error."""
    with calls.connect() as connection:
        connection.send(LATE[case](over(calls, connection)))

        calls.serves(connection)
        assert connection.goaways == []


@pytest.mark.parametrize("case", ["DATA", "HEADERS"])
def test_more_of_a_closed_stream_is_refused(calls: Http2Case, case: str) -> None:
    """5.1: STREAM_CLOSED, or a lower stream again, and never a second call."""
    with calls.connect() as connection:
        stream = over(calls, connection)
        raw = data(b"a", stream) if case == "DATA" else calls.call(stream)
        connection.send(raw)
        connection.read_until(
            lambda: bool(connection.goaways) or connection.replies[stream].reset is not None
        )
        told = connection.replies[stream].reset or connection.goaways[-1].code

        assert told in (Code.STREAM_CLOSED, Code.PROTOCOL_ERROR)


def test_frames_behind_a_reset_are_forgotten(calls: Http2Case) -> None:
    """DATA of a stream that the client has reset reaches no call and takes no window for ever."""
    with calls.connect() as connection:
        connection.send(calls.head(1) + reset(1) + calls.head(3))
        connection.send(data(asking(5.0), 3))

        assert_answer(connection.reply(3), 5.0)
        assert 1 not in connection.replies or connection.replies[1].reset is not None


def test_streams_that_were_skipped_are_closed(calls: Http2Case) -> None:
    """5.1.1: who opens stream 9 has closed those below; the next is above."""
    with calls.connect() as connection:
        connection.send(calls.call(9, 3.0))
        assert_answer(connection.reply(9), 3.0)
        connection.send(calls.call(7, 3.0))
        connection.read_until(lambda: bool(connection.goaways or connection.replies.get(7)))

        refused = connection.replies.get(7)
        assert refused is None or refused.reset in (Code.STREAM_CLOSED, Code.PROTOCOL_ERROR)


def test_last_stream_there_is_is_served(calls: Http2Case) -> None:
    """2^31 - 1 is an id like others; nothing can come after it."""
    with calls.connect() as connection:
        calls.serves(connection, stream=2**31 - 1)
        connection.send(calls.call(2**31 - 3))

        assert connection.ending(within_s=GONE_S).code in (Code.PROTOCOL_ERROR, Code.STREAM_CLOSED)


def test_streams_beyond_the_limit_are_refused_safely(calls: Http2Case) -> None:
    """5.1.2: REFUSED_STREAM, which says that nothing was done; those within the limit are served."""
    streams = range(1, 2 * (MOST + 5), 2)
    with calls.connect() as connection:
        connection.send(b"".join(calls.head(stream) for stream in streams))
        refused = [connection.reply(stream).reset for stream in streams[MOST:]]
        assert set(refused) <= {Code.REFUSED_STREAM, Code.PROTOCOL_ERROR}
        assert Code.REFUSED_STREAM in refused
        connection.send(data(asking(2.0), 1))
        assert_answer(connection.reply(1), 2.0)
        connection.send(b"".join(reset(stream) for stream in streams[1:10]))

        calls.serves(connection, stream=streams[-1] + 2)


@pytest.mark.parametrize("when", ["queued", "running"])
def test_reset_in_the_middle_of_a_batch_hurts_nobody(calls: Http2Case, when: str) -> None:
    """The neighbours of one connection and one batch get their answers; the place is free at once."""
    with calls.connect() as connection, calls.connect() as other:
        first = calls.ask(connection, SLOW, **LONG_ENOUGH)
        wait_until(lambda: in_flight(calls) == 1)
        left = calls.ask(connection, 3.0, **LONG_ENOUGH)
        staying = [calls.ask(connection, float(-n), **LONG_ENOUGH) for n in range(1, 6)]
        others = [calls.ask(other, float(-n), **LONG_ENOUGH) for n in range(1, 6)]
        gone = left if when == "queued" else first
        connection.send(reset(gone))
        started = time.monotonic()
        for asked, asker in ((staying, connection), (others, other)):
            for number, stream in enumerate(asked, 1):
                assert_answer(asker.reply(stream), -float(number))
        kept = first if when == "queued" else left
        assert_answer(connection.reply(kept), SLOW if when == "queued" else 3.0)
        assert not connection.replies.get(gone)
        assert time.monotonic() - started < 10
    wait_until(lambda: in_flight(calls) == 0)

    calls.ledger.unacknowledged = range(1, 2)
    assert fates(calls) == {Fate.OK: 11, Fate.CLIENT_GONE: 1}


def test_reset_frees_its_place_at_once(calls: Http2Case) -> None:
    """While the model still runs, the place of the call that was given up is free."""
    with calls.connect() as connection:
        connection.send(calls.call(1, 4 * SLOW, **LONG_ENOUGH))
        wait_until(lambda: in_flight(calls) == 1)
        connection.send(reset(1))
        wait_until(lambda: in_flight(calls) == 0, within_s=FREED_S)
        calls.ledger.unacknowledged = range(1, 2)
        assert connection.pong()


@pytest.mark.parametrize("how", ["close", "abort"])
def test_connection_that_ends_gives_up_all_its_calls(calls: Http2Case, how: str) -> None:
    """However it ends, every call on it is over: one record each, no place, no neighbour disturbed."""
    with calls.connect() as connection, calls.connect() as other:
        for _ in range(5):
            calls.ask(connection, SLOW, **LONG_ENOUGH)
        wait_until(lambda: in_flight(calls) == 5)
        stream = calls.ask(other, -3.0, **LONG_ENOUGH)
        connection.close() if how == "close" else connection.abort()

        assert_answer(other.reply(stream), -3.0)
    wait_until(lambda: in_flight(calls) == 0)
    calls.ledger.unacknowledged = range(5, 6)
    assert sum(fates(calls).values()) == 6


def test_half_closed_connection_is_answered(calls: Http2Case) -> None:
    """Who says that nothing more will come may get what was asked for before, or is given up: no error."""
    with calls.connect() as connection:
        calls.ask(connection, 6.0)
        connection.shut()
        connection.ending(within_s=GONE_S)

        replies = list(connection.replies.values())
    answered = [each for each in replies if each.complete]
    calls.ledger.unacknowledged = range(2)
    assert len(answered) <= 1


@pytest.mark.parametrize("last", [0, 1])
def test_goaway_of_the_client_lets_its_calls_end(calls: Http2Case, last: int) -> None:
    """6.8: calls that run are answered; then the connection ends without an error."""
    with calls.connect() as connection:
        streams = [calls.ask(connection, SLOW / 4, **LONG_ENOUGH) for _ in range(3)]
        connection.send(goaway(last))
        for stream in streams:
            assert_answer(connection.reply(stream), SLOW / 4)

        assert connection.ending(within_s=GONE_S).code in (None, Code.NO_ERROR)


def test_goaway_with_an_error_and_junk_is_taken(calls: Http2Case) -> None:
    """Unknown codes and debug data of the client mean nothing to the server, and stand in no log."""
    with calls.connect() as connection:
        stream = calls.ask(connection, 1.0)
        junk = b"Traceback (most recent call last)" * 100
        head = goaway(2**31 - 1, 0xFFFF)
        connection.send(len(head[9:] + junk).to_bytes(3, "big") + head[3:] + junk)

        connection.read_until(lambda: connection.replies.get(stream) is not None)
    calls.ledger.unacknowledged = range(2)


def test_watchers_are_bounded_and_leave_nothing(calls: Http2Case) -> None:
    """Calls that stay open without a token: as many as the setting says, and all gone with a reset."""
    fields = [pair for pair in calls.fields(path=WATCH) if pair[0] != b"authorization"]
    most = GrpcSettings().max_health_watches
    streams = range(1, 2 * (most + 3), 2)
    with calls.connect() as connection:
        for stream in streams:
            connection.send(headers(block(fields), stream, END_HEADERS), data(message(b""), stream))
        refused = [connection.reply(stream).grpc_status for stream in streams[most:]]
        assert refused == [14] * 3
        connection.send(b"".join(reset(stream) for stream in streams[:most]))
        again = streams[-1] + 2
        connection.send(headers(block(fields), again, END_HEADERS), data(message(b""), again))
        connection.read_until(lambda: bool(connection.replies.get(again)))
        connection.read_until(lambda: bool(connection.replies[again].body))
        assert not connection.replies[again].is_over


def test_stream_of_calls_that_is_reset_leaves_nothing(calls: Http2Case) -> None:
    """ModelStreamInfer given up with several messages on their way: each has its record, no more."""
    with calls.connect() as connection:
        head = block(calls.fields(path=STREAM))
        texts = [asking(SLOW / 4, **LONG_ENOUGH) for _ in range(4)]
        connection.send(headers(head, 1, END_HEADERS), *(data(text, 1, 0) for text in texts))
        wait_until(lambda: in_flight(calls) >= 1)
        connection.send(reset(1))
        wait_until(lambda: in_flight(calls) == 0)
        calls.serves(connection)
    wait_until(lambda: sum(fates(calls).values()) >= 2)
    calls.ledger.unacknowledged = range(1, 5)


def test_call_without_a_message_is_refused(calls: Http2Case) -> None:
    """HEADERS that end the stream at once: no message, and no wait for one."""
    with calls.connect() as connection:
        connection.send(headers(block(calls.fields()), 1, WHOLE))
        assert connection.reply(1).grpc_status in (3, 12, 13)
        connection.send(calls.head(3), data(b"", 3))
        assert connection.reply(3).grpc_status in (3, 12, 13)
        calls.serves(connection)


def test_trailers_that_end_a_good_message_are_fine(calls: Http2Case) -> None:
    """The end of the stream may be said by trailers, by empty DATA, or after a pause for a PING."""
    ends = (headers(literal(b"a", b"b"), 1), data(b"", 3), ping() + data(b"", 5))
    with calls.connect() as connection:
        for stream, end in zip((1, 3, 5), ends, strict=True):
            connection.send(calls.head(stream), data(asking(2.0), stream, 0), end)
            assert_answer(connection.reply(stream), 2.0)


def test_calls_come_and_go_without_a_trace(calls: Http2Case) -> None:
    """A thousand calls on one connection, of every service there is, and nothing grows."""
    live = calls.fields(path=f"{SERVICE}/ServerLive")
    before = calls.product.usage().resident_bytes
    with calls.connect() as connection:
        for stream in range(1, 2_000, 2):
            connection.send(headers(block(live), stream, END_HEADERS), data(message(b""), stream))
        assert connection.reply(1_999).grpc_status == 0

    assert calls.product.usage().resident_bytes - before < 8 << 20
