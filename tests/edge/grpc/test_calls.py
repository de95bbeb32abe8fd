"""Calls with one message: served in the callback that completes it, ended exactly once."""

from collections.abc import Callable
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.batches import Buffer
from serving.edge.grpc.calls import UnaryCall
from serving.edge.grpc.framing import framed
from serving.errors import ModelNotFound, RequestInvalid
from tests.edge.grpc.streams import GRPC, MOST_BYTES, Noted, NotedStream, head_of, send

INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND = 3, 4, 5
RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE = 8, 13, 14


def echo(call: UnaryCall, message: Buffer) -> None:
    call.answer(bytes(message))


def raising(error: Exception) -> Callable[[UnaryCall, Buffer], None]:
    def serve(_call: UnaryCall, _message: Buffer) -> None:
        raise error

    return serve


@given(st.binary(max_size=300), st.data())
def test_message_is_the_same_however_it_comes(message: bytes, data: st.DataObject) -> None:
    """Whole or in pieces: one answer, nothing left, and all credit given back."""
    noted, stream = Noted(), NotedStream()
    call = noted.unary(echo, stream)
    content = framed(message)
    while content:
        size = data.draw(st.integers(1, len(content)))
        call.received(content[:size])
        content = content[size:]
    call.finished()

    assert (stream.sent, stream.status) == ([framed(message)], 0)
    assert (stream.credit, noted.left) == (len(framed(message)), (0, 0))


@pytest.mark.parametrize(
    ("messages", "cut"),
    [((), 0), ((b"ab",), 1), ((b"ab",), 6), ((b"a", b"b"), 0), ((b"a", b"b"), 1)],
)
def test_one_message_is_neither_none_nor_two(messages: tuple[bytes, ...], cut: int) -> None:
    """Nothing is served, and the caller is told that its message is invalid."""
    noted, stream = Noted(), NotedStream()
    send(noted.unary(echo, stream), *messages, cut=cut)

    assert (stream.status, stream.sent, noted.codes) == (INVALID_ARGUMENT, [], ["invalid_message"])
    assert noted.left == (0, 0)


@pytest.mark.parametrize("pieces", [1, 2])
def test_message_over_the_limit_is_refused(pieces: int) -> None:
    """At the limit it is served; in one piece or two."""
    for size, status in ((MOST_BYTES, 0), (MOST_BYTES + 1, RESOURCE_EXHAUSTED)):
        noted, stream = Noted(), NotedStream()
        call = noted.unary(echo, stream)
        content = framed(bytes(size))
        step = -(-len(content) // pieces)
        for start in range(0, len(content), step):
            call.received(content[start : start + step])
        call.finished()

        assert (stream.status, noted.left) == (status, (0, 0))


def test_messages_in_memory_are_bounded_over_all_calls() -> None:
    """Two that are nearly there fill the memory; the second is told to come back, the first goes on."""
    noted, first, second = Noted(), NotedStream(), NotedStream()
    content = framed(bytes(MOST_BYTES))
    calls = [noted.unary(echo, stream) for stream in (first, second)]
    for call in calls:
        call.received(content[:-1])
    calls[0].received(content[-1:])
    calls[0].finished()

    assert (first.status, second.status, noted.codes) == (0, UNAVAILABLE, ["overloaded"])
    assert noted.left == (0, 0)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ModelNotFound("no such model"), NOT_FOUND, "model_not_found"),
        (ZeroDivisionError("secret"), INTERNAL, "internal"),
    ],
)
def test_what_is_raised_ends_the_call(error: Exception, status: int, code: str) -> None:
    """A refusal as what it is; a surprise without its words, and the next call is served."""
    noted, stream, after = Noted(), NotedStream(), NotedStream()
    send(noted.unary(raising(error), stream), b"x")
    send(noted.unary(echo, after), b"x")

    assert (stream.status, noted.codes, after.status) == (status, [code], 0)
    assert "secret" not in stream.blocks[-1]["grpc-message"]
    assert noted.left == (0, 0)


@given(st.text(max_size=50))
def test_any_text_can_be_a_message(text: str) -> None:
    """What is not readable ASCII is percent-encoded, and comes out again."""
    noted, stream = Noted(), NotedStream()
    send(noted.unary(raising(RequestInvalid(text)), stream), b"x")

    said = stream.blocks[-1]["grpc-message"]
    assert said.isascii()
    assert "\n" not in said
    assert unquote(said) == text


def test_client_that_leaves_is_noticed_once() -> None:
    """Whoever watches is told, nothing is sent, and a late answer does no harm."""
    noted, stream, gone = Noted(), NotedStream(), []
    call = noted.unary(lambda call, _: call.watch(lambda: gone.append(1)), stream)
    send(call, b"x")
    call.gone()
    call.gone()
    call.answer(b"late")

    assert (gone, stream.blocks, noted.left, noted.codes) == ([1], [], (0, 0), [])


def test_answer_ends_the_watch() -> None:
    """A client that leaves after its answer has given nothing up."""
    noted, stream, gone = Noted(), NotedStream(), []
    call = noted.unary(lambda call, _: call.watch(lambda: gone.append(1)), stream)
    send(call, b"x")
    call.answer(b"y")
    call.answer(b"z")
    call.gone()

    assert (gone, stream.sent) == ([], [framed(b"y")])


def test_message_that_does_not_come_in_time_is_given_up() -> None:
    """A call with one message has to hurry, and is told when it did not."""
    noted, stream = Noted(), NotedStream()
    call = noted.unary(echo, stream)
    call.received(framed(b"abc")[:-1])
    call.late()

    assert stream.is_hasty
    assert (stream.status, noted.codes) == (DEADLINE_EXCEEDED, ["request_timeout"])
    assert noted.left == (0, 0)


def test_time_remaining_is_counted_from_the_head() -> None:
    """What the message took is gone; without a timeout there is no end."""
    noted = Noted()
    timed = noted.unary(echo, NotedStream(head_of(GRPC, (b"grpc-timeout", b"2S"))))
    noted.now_ns = 1_500_000_000

    assert timed.time_remaining_s() == pytest.approx(0.5)
    assert noted.unary(echo, NotedStream()).time_remaining_s() is None


@pytest.mark.parametrize(("size", "packed"), [(10, False), (5000, True)])
def test_answer_is_packed_for_who_packs(size: int, packed: bool) -> None:
    """Where it pays; the head names the encoding either way."""
    head = head_of(GRPC, (b"grpc-encoding", b"gzip"), (b"grpc-accept-encoding", b"gzip"))
    noted, stream = Noted(), NotedStream(head)
    send(noted.unary(echo, stream), bytes(size))

    assert stream.blocks[0]["grpc-encoding"] == "gzip"
    assert (stream.sent[0][0] == 1, len(stream.sent[0]) < size) == (packed, packed)
