"""Calls that last: read and written by a coroutine, no faster than either side takes it."""

import asyncio

import pytest

from serving.core.batches import Buffer
from serving.edge.grpc.context import MAX_PENDING_BYTES, Context, ServeLasting
from serving.edge.grpc.framing import framed
from serving.errors import ModelNotFound
from tests.edge.grpc.streams import (
    BUFFERED_BYTES,
    MOST_BYTES,
    Noted,
    NotedStream,
    call_head,
    settle,
)

INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, INTERNAL, UNAVAILABLE = 3, 4, 5, 13, 14


class Running:
    """One call with its stream; `read` collects what its coroutine read."""

    def __init__(self, serve: ServeLasting, *fields: tuple[bytes, bytes]) -> None:
        self.noted = Noted()
        self.stream = NotedStream()
        self.call = Context(self.stream.stream, call_head(*fields), **self.noted.known())
        self.call.begin(serve)


async def echo(context: Context) -> None:
    while (message := await context.read()) is not None:
        await context.write(bytes(message))


async def for_ever(_context: Context) -> None:
    await asyncio.Event().wait()


async def test_messages_are_answered_in_their_order() -> None:
    """Each message once, then the end; nothing is left."""
    running = Running(echo)
    for message in (b"a", b"", b"ccc"):
        running.call.received(framed(message))
    running.call.finished()
    await settle()

    assert running.stream.sent == [framed(b"a"), framed(b""), framed(b"ccc")]
    assert (running.stream.status, running.noted.left) == (0, (0, 0))


async def test_call_without_messages_ends_well() -> None:
    """One block says all."""
    running = Running(echo)
    running.call.finished()
    await settle()

    assert [block.get("grpc-status") for block in running.stream.blocks] == ["0"]


async def test_credit_waits_for_the_reader() -> None:
    """What nobody read makes no room for more; part of a message does, as it cannot be read."""
    read: list[Buffer | None] = []
    turn = asyncio.Semaphore(0)

    async def slowly(context: Context) -> None:
        while True:
            await turn.acquire()
            read.append(await context.read())

    running = Running(slowly)
    running.call.received(framed(b"a")[:3])
    await settle()
    assert running.stream.credit == 3
    running.call.received(framed(b"a")[3:] + framed(b"b"))
    await settle()
    assert running.stream.credit == 3
    turn.release()
    await settle()
    assert (read, running.stream.credit) == ([b"a"], 3)
    turn.release()
    await settle()

    assert (read, running.stream.credit) == ([b"a", b"b"], 12)
    running.call.gone()


async def test_writer_waits_for_a_client_that_does_not_read() -> None:
    """Beyond the bound nothing is written until what was has left."""
    running = Running(echo)
    running.stream.pending_bytes = MAX_PENDING_BYTES + 1
    running.call.received(framed(b"a") + framed(b"b"))
    await settle()
    assert running.stream.sent == [framed(b"a")]
    running.stream.pending_bytes = 0
    running.call.writable()
    await settle()

    assert running.stream.sent == [framed(b"a"), framed(b"b")]
    running.call.gone()


@pytest.mark.parametrize("end", ["gone", "deadline"])
async def test_coroutine_is_cancelled_when_nobody_waits(end: str) -> None:
    """The client left, or its deadline passed; the latter is told and counted."""
    left = asyncio.Event()

    async def wait(context: Context) -> None:
        try:
            await for_ever(context)
        finally:
            left.set()

    running = Running(wait, *([(b"grpc-timeout", b"20m")] if end == "deadline" else []))
    await settle()
    if end == "gone":
        running.call.gone()
    async with asyncio.timeout(5):
        await left.wait()
    await settle()

    assert running.noted.left == (0, 0)
    if end == "gone":
        assert running.stream.blocks == []
    else:
        assert (running.stream.status, running.noted.codes) == (
            DEADLINE_EXCEEDED,
            ["deadline_exceeded"],
        )


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize(
    ("error", "status"),
    [(ModelNotFound("gone"), NOT_FOUND), (ZeroDivisionError("secret"), INTERNAL)],
)
async def test_what_is_raised_ends_the_call(
    error: Exception, status: int, *, answered: bool
) -> None:
    """As trailers behind what was answered, or as the whole answer."""

    async def fail(context: Context) -> None:
        if answered:
            await context.write(b"a")
        raise error

    running = Running(fail)
    await settle()

    assert (running.stream.status, running.noted.left) == (status, (0, 0))
    assert len(running.stream.blocks) == 1 + answered
    assert ":status" in running.stream.blocks[0]
    assert "secret" not in running.stream.blocks[-1]["grpc-message"]


async def test_message_that_ends_too_early_ends_the_call() -> None:
    """What came before it was answered."""
    running = Running(echo)
    running.call.received(framed(b"a"))
    await settle()
    running.call.received(framed(b"b")[:-1])
    running.call.finished()
    await settle()

    assert (running.stream.sent, running.stream.status) == ([framed(b"a")], INVALID_ARGUMENT)
    assert running.noted.left == (0, 0)


async def test_messages_that_wait_are_bounded_over_all_calls() -> None:
    """A client whose messages nobody reads is refused before they fill the memory."""
    running = Running(for_ever)
    content = framed(bytes(MOST_BYTES))
    running.call.received(content)
    assert running.noted.calls.buffered_bytes == MOST_BYTES < BUFFERED_BYTES
    running.call.received(content)
    await settle()

    assert (running.stream.status, running.noted.codes) == (UNAVAILABLE, ["overloaded"])
    assert running.noted.left == (0, 0)
