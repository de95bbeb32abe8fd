import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from loadtests.openloop import OpenLoad, OpenOutcome, Step, due_moments, render, run
from loadtests.servers import floor

REQUEST = render("/", b"{}", [("X-Any", "1")])


def a_load(port: int, *, rate_per_s: float = 200, connections: int = 4) -> OpenLoad:
    return OpenLoad("127.0.0.1", port, [REQUEST], [Step(rate_per_s, 0.5)], connections)


def serve_and(
    load: Callable[[int], OpenOutcome],
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> OpenOutcome:
    """The outcome of a load on a server of this test, which runs beside it."""

    async def both() -> OpenOutcome:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            return await asyncio.to_thread(load, server.sockets[0].getsockname()[1])

    return asyncio.run(both())


def test_moments_are_poisson_and_the_same_every_time() -> None:
    """The rate is kept within its own noise, gaps vary as they should, and a seed decides all."""
    moments = due_moments([Step(1000, 50)], seed=7)
    gaps = np.diff(moments)

    assert abs(len(moments) - 50_000) < 1_000
    assert abs(gaps.std() / gaps.mean() - 1) < 0.05
    assert np.array_equal(moments, due_moments([Step(1000, 50)], seed=7))
    assert not np.array_equal(moments[:10], due_moments([Step(1000, 50)], seed=8)[:10])


def test_each_request_is_answered_and_timed(tmp_path: Path) -> None:
    """A server with a fixed answer gets every request that was due, and each has a time."""
    with floor("edge", tmp_path) as server:
        outcome = run(a_load(urlsplit(server.url).port or 0))

    assert len(outcome.due_s) == len(due_moments([Step(200, 0.5)], seed=1))
    assert (outcome.unanswered, len(outcome.refused.due_s)) == (0, 0)
    assert 0 < outcome.quantile_ms(0.5) <= outcome.quantile_ms(1)
    assert outcome.within(outcome.quantile_ms(1) / 1e3) == len(outcome.accepted.due_s)


def test_time_is_counted_from_when_a_request_was_due() -> None:
    """One slow connection: what had to wait for it is charged its wait, not just its own answer."""

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"{}"):
            await asyncio.sleep(0.05)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def load(port: int) -> OpenOutcome:
        return run(a_load(port, rate_per_s=40, connections=1))

    outcome = serve_and(load, ignoring_the_end(slowly))

    assert outcome.unanswered == 0
    assert outcome.quantile_ms(1) > 200


def test_unanswered_requests_are_charged() -> None:
    """A connection that the server closes without a word costs its request for ever."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.close()

    outcome = serve_and(lambda port: run(a_load(port, rate_per_s=40)), ignoring_the_end(hang_up))

    assert outcome.unanswered == len(outcome.due_s)
    assert outcome.quantile_ms(0.5) == float("inf")
    assert outcome.within(10) == 0


def test_refusals_are_told_apart() -> None:
    """What is answered with another status counts as refused, with its time."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"{}"):
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")

    outcome = serve_and(lambda port: run(a_load(port)), ignoring_the_end(refuse))

    assert len(outcome.refused.due_s) == len(outcome.due_s)
    assert set(outcome.status.tolist()) == {503}


def ignoring_the_end(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def until_it_ends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    return until_it_ends
