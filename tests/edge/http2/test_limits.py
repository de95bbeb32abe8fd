"""What a client may do that costs us more than it, and for how long: floods, pings, deadlines."""

import pytest

from serving.edge.connections import LINGER_S
from serving.edge.http2.frames import ErrorCode
from serving.edge.http2.patience import MOST_EXTRAS, MOST_RESETS
from tests.edge.http2.stand import HEAD, REQUEST, TRAILERS, Connected, Recorder, Seen, ask, nothing
from tests.hostile.http2_wire import (
    ACK,
    END_HEADERS,
    WINDOW,
    Kind,
    block,
    continuation,
    data,
    frame,
    headers,
    integer,
    literal,
    ping,
    priority,
    reset,
    settings,
    window_update,
)

BLOCK = block(REQUEST)
OPENED = headers(BLOCK, 1, END_HEADERS)
FLOODS = {
    "settings": settings(),
    "pings that are answers": ping(flags=ACK),
    "priorities": priority(1),
    "windows": window_update(1),
    "windows of a stream": window_update(1, 1),
    "empty data": data(b"", 1, 0),
    "data of a stream that is over": data(b"x", 3, 0),
    "frames of no kind": frame(0x99),
    "resets of closed streams": reset(3),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_ends_the_connection(name: str) -> None:
    """ENHANCE_YOUR_CALM, after what a hasty but useful client could send."""
    one = Connected(Recorder(nothing)).feed(OPENED, ask(3), reset(3))

    one.feed(FLOODS[name] * (MOST_EXTRAS // 2))
    before = one.goaway
    one.feed(FLOODS[name] * MOST_EXTRAS)

    assert (before, one.goaway) == (None, ErrorCode.ENHANCE_YOUR_CALM)
    assert one.is_over


def test_time_heals() -> None:
    """The same frames at a lower rate go on for ever."""
    one = Connected()

    for _ in range(10):
        one.feed(settings() * (MOST_EXTRAS // 2)).sweep(1)

    assert one.goaway is None


def test_rapid_resets_end_the_connection() -> None:
    """CVE-2023-44487: requests that are given up before their answer."""
    one = Connected(Recorder(nothing))

    for place in range(MOST_RESETS + 1):
        one.feed(headers(BLOCK, 2 * place + 1) + reset(2 * place + 1))

    assert one.goaway == ErrorCode.ENHANCE_YOUR_CALM


def test_resets_that_the_client_provokes_are_its_own() -> None:
    """CVE-2025-8671: mistakes on its streams cost what resets cost."""
    one = Connected(Recorder(nothing))

    for place in range(MOST_RESETS + 1):
        one.feed(headers(BLOCK, 2 * place + 1) + window_update(0, 2 * place + 1))

    assert one.goaway == ErrorCode.ENHANCE_YOUR_CALM


def test_blocks_of_many_small_fields_cost_as_much_as_they_are() -> None:
    """A byte is a field of a table: what has to be decoded is counted, also where it is not used."""
    one = Connected(Recorder(nothing))
    many = integer(2, 7, 0x80) * 1000

    for place in range(200):
        one.feed(headers(BLOCK + literal(b"x", b"%d" % place) + many, 2 * place + 1))

    assert one.goaway == ErrorCode.ENHANCE_YOUR_CALM


def test_pings_without_need_end_the_connection() -> None:
    """Two may come too early."""
    one = Connected(min_ping_interval_s=10.0).feed(ping(), ping(), ping())
    assert one.goaway is None

    one.feed(ping())

    (said,) = one.frames(Kind.GOAWAY)
    assert said.payload[4:] == bytes((0, 0, 0, ErrorCode.ENHANCE_YOUR_CALM)) + b"too_many_pings"


def test_pings_now_and_then_are_fine() -> None:
    """At the interval that is permitted."""
    one = Connected(min_ping_interval_s=10.0)

    for _ in range(20):
        one.feed(ping()).sweep(10)

    assert one.goaway is None


def test_who_gets_data_may_ping() -> None:
    """Clients measure the way's delay while they receive: each time after something came."""
    one = Connected(Recorder(nothing)).feed(ask(1))
    stream = one.requests[0].stream
    stream.send_head(HEAD)

    for _ in range(50):
        stream.send_data(b"x")
        one.turns.run()
        one.feed(ping())

    assert one.goaway is None


def test_a_client_may_grant_again_what_each_frame_took() -> None:
    """For the stream and for the connection: twice as many frames as it got."""

    def large(seen: Seen) -> None:
        seen.stream.send_all(HEAD, b"x" * 2**24, TRAILERS)

    one = Connected(Recorder(large)).feed(ask(1))
    granted = 0
    while not one.requests[0].stream.ended and granted < 2**15:
        one.feed(window_update(1024, 1) + window_update(1024))
        one.transport.written = b""
        granted += 1

    assert one.goaway is None
    assert one.requests[0].stream.ended


def test_a_preface_that_does_not_come_is_not_awaited() -> None:
    """The connection ends at its deadline."""
    one = Connected(greets=False, head_timeout_s=2.0).sweep(2)
    assert not one.is_over

    assert one.sweep(0.25).is_over


def test_a_block_that_does_not_end_is_not_awaited() -> None:
    """Nor is one that grows by nothing."""
    one = Connected(head_timeout_s=2.0).sweep(10).feed(headers(BLOCK, 1, 0))

    one.sweep(1.5).feed(continuation(b"", 1, 0)).sweep(1)

    assert (one.goaway, one.is_over) == (ErrorCode.PROTOCOL_ERROR, True)


def test_an_open_block_stops_no_other_deadline() -> None:
    """Blocks that are begun again and again do not keep a slow request alive."""
    one = Connected(Recorder(nothing), body_timeout_s=5.0).feed(OPENED)
    one.requests[0].stream.hasten()

    for number in (3, 5, 7):
        one.feed(headers(BLOCK[:9], number, 0)).sweep(4).feed(continuation(BLOCK[9:], number))

    assert "late" in one.requests[0].calls


def test_a_hasty_stream_has_a_deadline() -> None:
    """The receiver is told once, and may answer."""
    one = Connected(Recorder(nothing), body_timeout_s=5.0, min_body_bytes_per_s=0)
    one.feed(OPENED, headers(BLOCK, 3, END_HEADERS))
    one.requests[0].stream.hasten()

    one.sweep(20)

    assert [each.calls for each in one.requests] == [["late"], []]
    assert one.answers()[1].ends == 1


def test_a_hasty_stream_has_a_rate() -> None:
    """Below it, it is late long before the deadline."""
    one = Connected(Recorder(nothing), body_timeout_s=60.0, min_body_bytes_per_s=100)
    one.feed(OPENED)
    one.requests[0].stream.hasten()

    for _ in range(5):
        one.feed(data(b"x" * 10, 1, 0)).sweep(1)

    assert one.requests[0].calls[-1] == "late"


def test_an_answer_that_is_not_taken_is_given_up() -> None:
    """The stream is reset; the application is told that nobody wants it."""
    one = Connected(Recorder(nothing), write_timeout_s=5.0).feed(ask(1))
    one.requests[0].stream.send_all(HEAD, b"x" * (WINDOW + 2**20), TRAILERS)

    one.sweep(6)

    assert (one.resets, one.requests[0].calls[-1]) == ({1: ErrorCode.CANCEL}, "gone")


def test_an_answer_that_is_taken_byte_by_byte_is_given_up() -> None:
    """A window that is opened a little now and then is no reading."""
    one = Connected(Recorder(nothing), write_timeout_s=5.0).feed(ask(1))
    one.requests[0].stream.send_all(HEAD, b"x" * (WINDOW + 2**20), TRAILERS)

    for _ in range(3):
        one.feed(window_update(1, 1) + window_update(1)).sweep(3)

    assert one.resets == {1: ErrorCode.CANCEL}


def test_who_takes_no_answers_gets_no_more() -> None:
    """What waits for the windows of one connection is bounded: further requests are refused."""

    def large(seen: Seen) -> None:
        seen.stream.send_all(HEAD, b"x" * 2**24, TRAILERS)

    one = Connected(Recorder(large)).feed(*(ask(2 * place + 1) for place in range(8)))

    assert set(one.resets.values()) == {ErrorCode.REFUSED_STREAM}
    assert 3 <= len(one.requests) <= 5
    one.feed(*(reset(2 * place + 1) for place in range(8)), ask(99))
    assert one.requests[-1].stream.id == 99


def test_a_client_that_does_not_read_is_not_read() -> None:
    """It cannot make us owe it more; after a while it is cut off."""
    one = Connected(write_timeout_s=5.0)
    one.transport.full = True
    one.feed(ping())
    assert not one.transport.reading

    one.sweep(6)

    assert one.transport.aborted


def test_a_client_that_reads_again_is_read_again() -> None:
    """And those that send in pieces are told."""
    one = Connected(Recorder(nothing), write_timeout_s=5.0).feed(ask(1))
    one.transport.full = True
    one.feed(ping())

    one.transport.drain()
    one.turns.run()

    assert one.transport.reading
    assert one.requests[0].calls == ["finished", "writable"]
    assert not one.sweep(6).transport.aborted


def test_a_long_segment_leaves_others_their_turn() -> None:
    """A client that sends thousands of calls at once is read in parts, in order, and completely."""
    one = Connected()
    raw = b"".join(ask(2 * place + 1, b"%d" % place) for place in range(500))

    one.transport.receive(raw)
    at_once = len(one.requests)
    one.turns.run()

    assert 0 < at_once < 200
    assert [each.body for each in one.requests] == [b"%d" % place for place in range(500)]
    assert one.transport.reading


def test_an_idle_connection_is_told_goodbye() -> None:
    """GOAWAY without an error; a connection with a stream is not idle."""
    idle, busy = Connected(idle_timeout_s=5.0), Connected(Recorder(nothing), idle_timeout_s=5.0)
    busy.feed(ask(1)).sweep(6)
    idle.sweep(6)

    assert (idle.goaway, idle.is_over) == (ErrorCode.NO_ERROR, True)
    assert (busy.goaway, busy.is_over) == (None, False)


def test_a_silent_client_is_asked_for_a_sign_of_life() -> None:
    """One ping; who answers stays, who does not is cut off."""
    one, other = (
        Connected(Recorder(nothing), keepalive_s=5.0, keepalive_timeout_s=2.0).feed(ask(1))
        for _ in range(2)
    )
    one.sweep(6)
    assert len(one.frames(Kind.PING)) == 1

    one.feed(ping(flags=ACK)).sweep(3)
    other.sweep(8)

    assert not one.transport.aborted
    assert other.transport.aborted


def test_a_closed_connection_does_not_wait_for_ever() -> None:
    """A client that reads nothing keeps what was written for it only so long."""
    one = Connected(write_timeout_s=5.0).feed(frame(Kind.PING, b"short"))

    one.sweep(LINGER_S + 1)
    assert (one.transport.closed, one.transport.aborted) == (True, False)
    one.sweep(6)

    assert one.transport.aborted


def test_a_receiver_that_fails_in_a_sweep_ends_its_connection_alone() -> None:
    """The others are swept all the same."""

    class Fails(Seen):
        def late(self) -> None:
            raise ValueError("a bug")

    class Failing(Recorder):
        def __call__(self, stream: object) -> Seen:
            seen = Fails(stream, nothing)  # type: ignore[arg-type]  # a Stream, as always
            self.requests.append(seen)
            return seen

    one = Connected(Failing(), body_timeout_s=1.0).feed(OPENED)
    one.requests[0].stream.hasten()
    one.server.port.tick += 8

    one.server.port.sweep()

    assert one.transport.aborted
