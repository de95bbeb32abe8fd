"""One HTTP/2 connection in memory: requests in any cut, the frames of RFC 9113, and how it ends."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.edge.connections import LINGER_S
from serving.edge.http2.frames import ErrorCode
from serving.edge.http2.streams import Stream
from serving.errors import ConnectionsFull, Draining
from tests.edge.http2.stand import (
    HEAD,
    HELLO,
    OVERSIZED,
    REQUEST,
    TRAILERS,
    Connected,
    Recorder,
    Seen,
    ask,
    nothing,
)
from tests.hostile.http2_wire import (
    ACK,
    END_HEADERS,
    PREFACE,
    WHOLE,
    Kind,
    Setting,
    block,
    continuation,
    data,
    frame,
    goaway,
    headers,
    literal,
    padded,
    ping,
    priority,
    reset,
    settings,
    window_update,
)
from tests.strategies import segmentations

BLOCK = block(REQUEST)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[bytes], list[bytes]]:
    """Bodies of requests, and all their bytes in segments, with frames between that mean nothing."""
    bodies = draw(st.lists(st.binary(max_size=300), min_size=1, max_size=5))
    between = st.sampled_from(
        [b"", settings(), priority(1), frame(0x42, b"?"), window_update(1), padded(
            b"", 3, kind=Kind.DATA, stream=1, flags=0)]
    )  # fmt: skip
    parts = [HELLO]
    for place, body in enumerate(bodies):
        stream = 2 * place + 1
        cut = draw(st.integers(0, len(body)))
        parts += [
            headers(BLOCK[:9], stream, 0) + continuation(BLOCK[9:], stream),
            b"" if stream > 1 else draw(between),
            padded(body[:cut], cut % 7, kind=Kind.DATA, stream=stream, flags=0),
            draw(between) if stream == 1 else b"",
            data(body[cut:], stream),
        ]
    return bodies, draw(segmentations(b"".join(parts)))


@given(conversations())
def test_segmentation_never_changes_the_answers(
    conversation: tuple[list[bytes], list[bytes]],
) -> None:
    """However the bytes of valid requests arrive, each is answered once, with its own body."""
    bodies, segments = conversation

    answers = Connected(greets=False).feed(*segments).answers()

    assert [b"/answer " + body for body in bodies] == [
        answers[2 * place + 1].body for place in range(len(bodies))
    ]
    assert all(each.ends == 1 and not each.resets for each in answers.values())


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_any_bytes_end_a_connection_at_most(segments: list[bytes]) -> None:
    """Nothing that comes behind a valid beginning raises, and what is answered are frames."""
    one = Connected().feed(ask(1), *segments)

    assert one.answers()[1].ends == 1
    assert one.goaway != ErrorCode.INTERNAL_ERROR


@given(
    st.lists(
        st.tuples(
            st.integers(0, 10), st.integers(0, 255), st.integers(0, 6), st.binary(max_size=24)
        ),
        max_size=30,
    )
)
def test_any_frames_end_a_connection_at_most(drawn: list[tuple[int, int, int, bytes]]) -> None:
    """Whatever is said on whatever stream: an answer, a reset or a reason, and never a failure."""
    one = Connected(Recorder(nothing))
    one.feed(headers(BLOCK, 1, END_HEADERS), headers(BLOCK, 3))

    for kind, flags, stream, payload in drawn:
        one.feed(frame(kind, payload, stream=stream, flags=flags))

    one.answers()
    assert one.goaway != ErrorCode.INTERNAL_ERROR
    assert all(each.calls.count("finished") <= 1 for each in one.requests)
    assert all("gone" not in each.calls[:-1] for each in one.requests)


def test_a_request_in_one_segment_is_told_in_order() -> None:
    """Head, body, end: three calls, nothing between."""
    one = Connected().feed(ask(1, b"abc"))

    assert (one.requests[0].body, one.requests[0].calls) == (b"abc", ["received", "finished"])


def test_a_request_without_a_body_is_finished_at_once() -> None:
    """Nothing is received."""
    assert Connected().feed(ask(1)).requests[0].calls == ["finished"]


def test_answers_of_one_turn_leave_together() -> None:
    """What a batch answers is one write, whatever number of streams it is for."""
    one = Connected(Recorder(nothing)).feed(ask(1), ask(3), ask(5))
    before = one.transport.writes

    for each in one.requests:
        each.stream.send_all(HEAD, b"x", TRAILERS)
    one.turns.run()

    assert one.transport.writes == before + 1
    assert [answer.body for answer in one.answers().values()] == [b"x"] * 3


def test_settings_and_pings_are_acknowledged() -> None:
    """A ping with what it said; an acknowledgement is answered with nothing."""
    one = Connected()
    one.take()

    one.feed(ping(b"12345678"), settings({Setting.MAX_FRAME_SIZE: 20_000}), ping(b"x" * 8, ACK))

    assert [(each.kind, each.flags, each.payload) for each in one.frames()] == [
        (Kind.PING, ACK, b"12345678"),
        (Kind.SETTINGS, ACK, b""),
    ]


def test_trailers_of_a_client_end_its_request() -> None:
    """They are taken, and say nothing to the application."""
    trailers = headers(literal(b"checksum", b"1"), 1)

    one = Connected().feed(headers(BLOCK, 1, END_HEADERS) + data(b"abc", 1, 0) + trailers)

    assert one.answers()[1].body == b"/answer abc"


def test_an_early_answer_tells_the_client_to_stop() -> None:
    """RFC 9113, 8.1: RST_STREAM with NO_ERROR, and what was on its way means nothing."""
    one = Connected().feed(headers(BLOCK, 1, END_HEADERS))
    one.requests[0].stream.send_only(TRAILERS)
    one.turns.run()

    one.feed(data(b"late", 1, 0), data(b"later", 1), window_update(5, 1), reset(1), ask(3))

    answers = one.answers()
    assert (answers[1].ends, answers[1].resets) == (1, [ErrorCode.NO_ERROR])
    assert answers[3].ends == 1
    assert one.requests[0].calls == []


def test_too_many_fields_are_answered_by_the_application() -> None:
    """With its block, and the connection goes on."""
    one = Connected(max_header_list_bytes=500)

    one.feed(headers(block((*REQUEST, (b"long", b"x" * 500))), 1), ask(3))

    assert one.frames(Kind.HEADERS)[0].payload == OVERSIZED
    assert one.answers()[3].ends == 1


def test_more_streams_than_permitted_are_refused() -> None:
    """REFUSED_STREAM says that nothing was done; a stream that has ended makes room."""
    one = Connected(Recorder(nothing), max_streams=2).feed(ask(1), ask(3), ask(5))
    assert one.resets == {5: ErrorCode.REFUSED_STREAM}

    one.requests[0].stream.send_only(TRAILERS)
    one.feed(ask(7))

    assert len(one.requests) == 3


def test_a_reset_is_told_at_once() -> None:
    """The application hears that nobody wants the answer; what it still sends goes nowhere."""
    one = Connected(Recorder(nothing)).feed(ask(1), reset(1))
    one.take()

    one.requests[0].stream.send_all(HEAD, b"x", TRAILERS)
    one.turns.run()

    assert one.requests[0].calls == ["finished", "gone"]
    assert one.frames() == []


def test_the_end_of_a_connection_is_told_to_all_its_streams() -> None:
    """Each once."""
    one = Connected(Recorder(nothing)).feed(ask(1), headers(BLOCK, 3, END_HEADERS))

    one.connection.eof_received()
    one.connection.connection_lost(None)

    assert [each.calls for each in one.requests] == [["finished", "gone"], ["gone"]]
    assert one.server.connections == 0


@pytest.mark.parametrize(
    ("length", "body", "expected"),
    [(b"3", b"abc", {}), (b"4", b"abc", {1: 1}), (b"2", b"abc", {1: 1}), (b"1", b"", {1: 1})],
)
def test_content_length_has_to_be_true(
    length: bytes, body: bytes, expected: dict[int, int]
) -> None:
    """RFC 9113, 8.1.1: a body of another length is malformed, and never finished."""
    one = Connected().feed(ask(1, body, (b"content-length", length)))

    assert expected == one.resets
    assert all("finished" not in each.calls for each in one.requests) == bool(expected)


ENDS = {
    "no preface": (b"GET / HTTP/1.1\r\n\r\n", ErrorCode.PROTOCOL_ERROR),
    "no settings": (PREFACE + ping(), ErrorCode.PROTOCOL_ERROR),
    "acknowledged first": (PREFACE + frame(Kind.SETTINGS, flags=ACK), ErrorCode.PROTOCOL_ERROR),
}
FAULTS = {
    "too large": (frame(Kind.DATA, b"", length=16_385), ErrorCode.FRAME_SIZE_ERROR),
    "settings cut": (frame(Kind.SETTINGS, b"12345"), ErrorCode.FRAME_SIZE_ERROR),
    "settings on stream": (frame(Kind.SETTINGS, stream=1), ErrorCode.PROTOCOL_ERROR),
    "settings ack says": (frame(Kind.SETTINGS, b"123456", flags=ACK), ErrorCode.FRAME_SIZE_ERROR),
    "push 2": (settings({Setting.ENABLE_PUSH: 2}), ErrorCode.PROTOCOL_ERROR),
    "small frames": (settings({Setting.MAX_FRAME_SIZE: 1}), ErrorCode.PROTOCOL_ERROR),
    "window setting": (
        settings({Setting.INITIAL_WINDOW_SIZE: 2**31}), ErrorCode.FLOW_CONTROL_ERROR),
    "ping of 7": (frame(Kind.PING, b"1234567"), ErrorCode.FRAME_SIZE_ERROR),
    "ping on stream": (frame(Kind.PING, b"12345678", stream=1), ErrorCode.PROTOCOL_ERROR),
    "push": (frame(Kind.PUSH_PROMISE, b"\0\0\0\2", stream=1), ErrorCode.PROTOCOL_ERROR),
    "even stream": (headers(BLOCK, 2), ErrorCode.PROTOCOL_ERROR),
    "stream 0": (headers(BLOCK, 0), ErrorCode.PROTOCOL_ERROR),
    "older stream": (ask(5) + ask(3), ErrorCode.STREAM_CLOSED),
    "data on idle": (data(b"x", 9), ErrorCode.PROTOCOL_ERROR),
    "reset of idle": (reset(9), ErrorCode.PROTOCOL_ERROR),
    "window of idle": (window_update(1, 9), ErrorCode.PROTOCOL_ERROR),
    "window by 0": (window_update(0), ErrorCode.PROTOCOL_ERROR),
    "window too large": (window_update(2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
    "lone continuation": (continuation(BLOCK, 1), ErrorCode.PROTOCOL_ERROR),
    "interrupted": (headers(BLOCK, 1, 0) + ping(), ErrorCode.PROTOCOL_ERROR),
    "other stream": (headers(BLOCK, 1, 0) + continuation(b"", 3), ErrorCode.PROTOCOL_ERROR),
    "padding": (frame(Kind.HEADERS, b"\x05abcd", stream=1, flags=8 | WHOLE),
                ErrorCode.PROTOCOL_ERROR),
    "bad block": (headers(b"\x80", 1), ErrorCode.COMPRESSION_ERROR),
    "endless block": (
        headers(b"", 1, 0) + b"".join(continuation(b"x" * 16_384, 1, 0) for _ in range(9)),
        ErrorCode.ENHANCE_YOUR_CALM),
    "goaway cut": (frame(Kind.GOAWAY, b"1234"), ErrorCode.FRAME_SIZE_ERROR),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS | FAULTS)
def test_a_fault_ends_the_connection(name: str) -> None:
    """GOAWAY with the code, then its end; whoever waits for an answer there is gone."""
    raw, code = (ENDS | FAULTS)[name]
    one = Connected(Recorder(nothing), greets=False)
    if name in FAULTS:
        one.feed(HELLO)

    one.feed(raw)

    assert (one.goaway, one.is_over) == (code, True)
    assert all(each.calls[-1] == "gone" for each in one.requests)
    one.sweep(LINGER_S + 1)
    assert one.transport.closed


STREAM_FAULTS = {
    "window by 0": (window_update(0, 1), ErrorCode.PROTOCOL_ERROR),
    "window too large": (window_update(2**31 - 1, 1), ErrorCode.FLOW_CONTROL_ERROR),
    "short priority": (frame(Kind.PRIORITY, b"1234", stream=1), ErrorCode.FRAME_SIZE_ERROR),
    "data after the end": (data(b"x", 1), ErrorCode.STREAM_CLOSED),
    "head after the end": (headers(literal(b"a", b"b"), 1), ErrorCode.STREAM_CLOSED),
}


@pytest.mark.parametrize("name", STREAM_FAULTS)
def test_a_fault_on_a_stream_ends_it_alone(name: str) -> None:
    """RST_STREAM with the code; the stream beside it is answered."""
    raw, code = STREAM_FAULTS[name]
    one = Connected(Recorder(nothing)).feed(ask(1), raw, ask(3))

    one.requests[1].stream.send_only(TRAILERS)
    one.turns.run()

    assert (one.resets, one.goaway) == ({1: code}, None)
    assert one.requests[0].calls == ["finished", "gone"]
    assert one.answers()[3].ends == 1


def test_trailers_that_do_not_end_are_malformed() -> None:
    """RFC 9113, 8.1."""
    one = Connected().feed(
        headers(BLOCK, 1, END_HEADERS), headers(literal(b"a", b"b"), 1, END_HEADERS)
    )

    assert one.resets == {1: ErrorCode.PROTOCOL_ERROR}


def test_an_application_that_fails_ends_one_connection() -> None:
    """Nothing leaves the callback; the other streams of the connection are told."""

    def fails(seen: Seen) -> None:
        if seen.stream.id == 3:
            raise ValueError("a bug")

    one = Connected(Recorder(fails)).feed(ask(1), ask(3))

    assert one.goaway == ErrorCode.INTERNAL_ERROR
    assert one.requests[0].calls == ["finished", "gone"]
    reason = one.frames(Kind.GOAWAY)[-1].payload[8:]
    assert b"bug" not in reason


def test_an_application_that_takes_no_stream_ends_one_connection() -> None:
    """Also while it is asked for a receiver."""

    class TakesOne(Recorder):
        def __call__(self, stream: Stream) -> Seen:
            if self.requests:
                raise ValueError("a bug")
            return super().__call__(stream)

    one = Connected(TakesOne(nothing)).feed(ask(1))
    one.feed(ask(3))

    assert (one.goaway, one.requests[0].calls[-1]) == (ErrorCode.INTERNAL_ERROR, "gone")


def test_a_client_that_says_goodbye_gets_its_answers() -> None:
    """The connection ends with the last of them."""
    one = Connected(Recorder(nothing)).feed(ask(1), goaway())
    assert not one.is_over

    one.requests[0].stream.send_all(HEAD, b"x", TRAILERS)
    one.turns.run()

    assert (one.answers()[1].body, one.is_over) == (b"x", True)


def test_draining_answers_what_was_asked_and_takes_no_more() -> None:
    """GOAWAY names the last stream that is served; those behind it may be asked elsewhere."""
    one = Connected(Recorder(nothing)).feed(ask(1))

    one.connection.drain()
    one.turns.run()
    one.feed(ask(3))
    one.requests[0].stream.send_all(HEAD, b"x", TRAILERS)
    one.turns.run()

    (said,) = one.frames(Kind.GOAWAY)
    assert struct.unpack(">II", said.payload[:8]) == (1, ErrorCode.NO_ERROR)
    assert one.resets == {3: ErrorCode.REFUSED_STREAM}
    assert (one.answers()[1].body, one.is_over) == (b"x", True)


def test_one_connection_too_many_is_told_so() -> None:
    """GOAWAY without an error, then its end; it is counted as a refusal."""
    one = Connected(max_connections=0, greets=False)

    assert (one.goaway, one.transport.closed) == (ErrorCode.NO_ERROR, True)
    assert [type(each) for each in one.refusals] == [ConnectionsFull]


def test_a_connection_while_draining_is_told_so() -> None:
    """As one too many."""
    one = Connected()
    one.server.port.draining = True
    refusal = one.server.port.admit(one.connection, one.transport)

    assert isinstance(refusal, Draining)
