"""Flow control of HTTP/2: nothing beyond a window in either direction, and everything within it."""

from hypothesis import given
from hypothesis import strategies as st

from serving.edge.http2.frames import ErrorCode
from tests.edge.http2.stand import (
    HEAD,
    REQUEST,
    TRAILERS,
    Connected,
    Recorder,
    Seen,
    Windows,
    answers_in,
    ask,
    nothing,
)
from tests.hostile.http2_wire import (
    END_HEADERS,
    MAX_FRAME,
    WINDOW,
    Frame,
    Kind,
    Setting,
    block,
    data,
    headers,
    padded,
    reset,
    settings,
    window_update,
)

OPENED = headers(block(REQUEST), 1, END_HEADERS)
NUMBERS = (1, 3, 5)
STREAMS = st.sampled_from(NUMBERS)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), STREAMS, st.integers(1, 90_000)),
        st.tuples(st.just("end"), STREAMS, st.just(0)),
        st.tuples(st.just("reset"), STREAMS, st.just(0)),
        st.tuples(st.just("grant"), STREAMS | st.just(0), st.integers(1, 60_000)),
        st.tuples(st.just("resize"), st.just(0), st.integers(0, 100_000)),
    ),
    max_size=30,
)


class Sending:
    """Streams whose answers come and leave as drawn, and a client that counts."""

    def __init__(self) -> None:
        self.one = Connected(Recorder(nothing)).feed(*(ask(number) for number in NUMBERS))
        self.windows = Windows()
        self.expected = dict.fromkeys(NUMBERS, b"")
        self.ended: set[int] = set()
        self.reset: set[int] = set()
        self.got: list[Frame] = []
        self.streams = {seen.stream.id: seen.stream for seen in self.one.requests}
        for number, stream in self.streams.items():
            self.windows.open(number)
            stream.send_head(HEAD)

    def step(self, act: str, number: int, size: int) -> None:
        if act == "grant":
            self.grant(number, size)
        elif act == "resize":
            self.one.feed(self.windows.resize(size))
        elif number not in self.ended | self.reset:
            self.answer(act, number, size)
        self.one.turns.run()
        found = self.one.take()
        self.windows.take(found)
        self.got += found

    def grant(self, number: int, size: int) -> None:
        if number in self.windows.streams:
            self.windows.streams[number] += size
        else:
            self.windows.connection += size
        self.one.feed(window_update(size, number))

    def answer(self, act: str, number: int, size: int) -> None:
        if act == "send":
            piece = bytes((number,)) * size
            self.expected[number] += piece
            self.streams[number].send_data(piece)
        elif act == "end":
            self.ended.add(number)
            self.streams[number].send_end(TRAILERS)
        else:
            self.reset.add(number)
            self.one.feed(reset(number))

    @property
    def is_stuck(self) -> bool:
        """Whether something waits that the windows permit."""
        return any(
            stream.pending and min(self.windows.connection, self.windows.streams[number]) > 0
            for number, stream in self.streams.items()
            if not stream.ended
        )


@given(STEPS)
def test_windows_are_kept_and_used(steps: list[tuple[str, int, int]]) -> None:
    """Whatever is sent and granted, in any order: nothing beyond a window, nothing held back in it."""
    sending = Sending()
    for act, number, size in steps:
        sending.step(act, number, size)
        assert not sending.is_stuck

    for number in (0, *NUMBERS):
        sending.step("grant", number, 10_000_000)

    answers = answers_in(sending.got)
    assert sending.one.goaway is None
    for number in set(NUMBERS) - sending.reset:
        assert answers[number].body == sending.expected[number]
        assert answers[number].ends == (number in sending.ended)
    assert sending.one.connection.pending == 0


@given(st.lists(st.tuples(st.integers(1, 16_000), st.integers(0, 200)), min_size=1, max_size=60))
def test_credit_comes_back_for_all_that_was_consumed(pieces: list[tuple[int, int]]) -> None:
    """A client that keeps to its windows can always go on, padding included, if the application reads."""
    one = Connected(window_bytes=WINDOW, windows_per_connection=1).feed(OPENED)
    stream_window = connection_window = WINDOW

    for size, padding in pieces:
        raw = padded(b"x" * size, padding, kind=Kind.DATA, stream=1, flags=0)
        stream_window -= size + padding + 1
        connection_window -= size + padding + 1
        assert min(stream_window, connection_window) >= 0
        one.take()
        for each in one.feed(raw).frames(Kind.WINDOW_UPDATE):
            increment = int.from_bytes(each.payload, "big")
            stream_window += increment if each.stream else 0
            connection_window += 0 if each.stream else increment

    assert one.goaway is None
    assert len(one.requests[0].body) == sum(size for size, _ in pieces)


def test_a_receiver_that_waits_holds_the_sender_back() -> None:
    """Without credit given back there is none, and more than the window is a fault of the stream."""
    one = Connected(Recorder(nothing, consumes=False), window_bytes=WINDOW)
    one.feed(OPENED, data(b"x" * MAX_FRAME, 1, 0) * 3)
    assert [each.stream for each in one.frames(Kind.WINDOW_UPDATE)] == [0]

    one.feed(data(b"x" * MAX_FRAME, 1, 0))

    assert one.resets == {1: ErrorCode.FLOW_CONTROL_ERROR}


def test_what_nobody_reads_any_more_is_given_back() -> None:
    """The connection has room for others when a stream ends with bytes that were never consumed."""
    one = Connected(
        Recorder(nothing, consumes=False), window_bytes=WINDOW, windows_per_connection=1
    )
    one.take()
    for number in (1, 3, 5, 7, 9, 11):
        one.feed(headers(block(REQUEST), number, END_HEADERS), data(b"x" * MAX_FRAME, number, 0))
        one.requests[-1].stream.send_only(TRAILERS)

    assert one.goaway is None
    assert [each.stream for each in one.frames(Kind.WINDOW_UPDATE)] == [0, 0]


def test_more_than_the_window_of_the_connection_ends_it() -> None:
    """Whatever the streams would permit."""
    one = Connected(
        Recorder(nothing, consumes=False), window_bytes=WINDOW, windows_per_connection=1
    )

    for number in (1, 3, 5, 7):
        assert one.goaway is None
        one.feed(headers(block(REQUEST), number, END_HEADERS), data(b"x" * MAX_FRAME, number, 0))

    assert one.goaway == ErrorCode.FLOW_CONTROL_ERROR


def test_a_whole_answer_that_does_not_fit_comes_in_pieces() -> None:
    """In the order of a whole one, its trailers last."""
    one = Connected(Recorder(nothing)).feed(ask(1))
    one.requests[0].stream.send_all(HEAD, b"x" * (WINDOW + 10), TRAILERS)
    one.turns.run()
    assert one.answers()[1].ends == 0

    one.feed(window_update(10, 1), window_update(10))

    (answer,) = one.answers().values()
    assert (answer.body, answer.ends, len(answer.heads)) == (b"x" * (WINDOW + 10), 1, 2)
    assert one.requests[0].calls == ["finished"]


def test_who_sends_in_pieces_is_told_when_they_have_left() -> None:
    """Once for each time that something had to wait."""
    one = Connected(Recorder(nothing)).feed(ask(1), window_update(2**20))
    stream = one.requests[0].stream

    stream.send_head(HEAD)
    stream.send_data(b"x" * (WINDOW + 10))
    assert stream.pending_bytes == 10
    one.feed(window_update(4, 1), window_update(6, 1), window_update(6, 1))

    assert one.requests[0].calls == ["finished", "writable"]
    assert stream.pending_bytes == 0


def test_data_may_be_sent_before_there_is_a_receiver() -> None:
    """An application may answer while it is asked for one."""

    class AtOnce(Recorder):
        def __call__(self, stream: object) -> Seen:
            seen = super().__call__(stream)  # type: ignore[arg-type]  # a Stream, as always
            seen.stream.send_head(HEAD)
            seen.stream.send_data(b"early")
            return seen

    one = Connected(AtOnce(nothing)).feed(ask(1))

    assert one.answers()[1].body == b"early"


def test_the_last_of_many_settings_counts() -> None:
    """One frame can say it thousands of times; every stream is shifted once."""
    sizes = b"".join(
        settings({Setting.INITIAL_WINDOW_SIZE: size})[9:] for size in [*range(2000), WINDOW + 5]
    )
    one = Connected(Recorder(nothing)).feed(ask(1))
    one.requests[0].stream.send_all(HEAD, b"x" * (WINDOW + 5), TRAILERS)

    one.feed(len(sizes).to_bytes(3, "big") + bytes((Kind.SETTINGS, 0, 0, 0, 0, 0)) + sizes)
    one.feed(window_update(5))

    assert one.answers()[1].ends == 1


def test_those_that_wait_for_the_connection_take_turns() -> None:
    """A stream that has much to send does not keep the others waiting for ever."""
    one = Connected(Recorder(nothing)).feed(settings({Setting.INITIAL_WINDOW_SIZE: 10**6}))
    one.feed(ask(1), ask(3))
    for each in one.requests:
        each.stream.send_all(HEAD, b"x" * 200_000, TRAILERS)
    one.turns.run()

    one.feed(window_update(1000), window_update(1000), window_update(1000))

    answers = one.answers()
    assert (len(answers[1].body), len(answers[3].body)) == (WINDOW + 2000, 1000)
