"""Refused credentials over gRPC: answered at once, then later and later; bounded in number."""

import asyncio

import pytest

from serving.core.clock import SystemClock
from serving.edge.grpc_refusals import RefusedCalls, socket_name
from serving.edge.guesses import BURST_S, Guesses, source_of

PEER = "ipv4:192.0.2.1:5000"
ONCE = round(BURST_S)
"""How many refusals are answered at once with one a second."""


def refused_calls(*, longest_s: float, most: int = 10) -> RefusedCalls:
    clock = SystemClock()
    guesses = Guesses(per_s=1.0, longest_s=longest_s)
    return RefusedCalls(guesses, most=most, now_s=lambda: clock.monotonic_ns() / 1e9)


async def spend_budget(calls: RefusedCalls) -> None:
    """Afterwards each further refusal waits."""
    for _ in range(ONCE):
        async with asyncio.timeout(0.05):
            await calls.hold(PEER)


async def test_a_budget_is_answered_at_once_and_the_next_waits() -> None:
    """Who has used the budget up waits for as long as the setting says, and is counted."""
    calls = refused_calls(longest_s=0.2)
    await spend_budget(calls)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await calls.hold(PEER)

    assert 0.15 < loop.time() - began_s < 2.0
    assert (calls.guesses.held, calls.waiting) == (1, 0)


async def test_more_than_may_wait_are_answered_at_once() -> None:
    """The calls that wait never take more places than they were given."""
    calls = refused_calls(longest_s=60.0, most=3)
    await spend_budget(calls)
    held = [asyncio.create_task(calls.hold(PEER)) for _ in range(20)]
    done, waiting = await asyncio.wait(held, timeout=0.05)

    assert (len(done), len(waiting), calls.waiting) == (17, 3, 3)
    calls.drain()
    await asyncio.gather(*waiting)


async def test_a_drain_holds_nobody() -> None:
    """Those that wait are answered when the server drains, and none waits afterwards."""
    calls = refused_calls(longest_s=60.0)
    await spend_budget(calls)
    held = asyncio.create_task(calls.hold(PEER))
    await asyncio.sleep(0)
    calls.drain()
    async with asyncio.timeout(5.0):
        await held
        await calls.hold(PEER)


async def test_who_leaves_gives_its_place_back() -> None:
    """A client that gives a held call up frees the place at once."""
    calls = refused_calls(longest_s=60.0)
    await spend_budget(calls)
    held = asyncio.create_task(calls.hold(PEER))
    await asyncio.wait([held], timeout=0.01)
    assert calls.waiting == 1
    held.cancel()
    await asyncio.gather(held, return_exceptions=True)

    assert calls.waiting == 0


@pytest.mark.parametrize(
    ("peer", "source"),
    [
        ("ipv4:192.0.2.1:5000", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:5000", "20010db800000000/64"),
        ("ipv6:[2001:db8::2]:5001", "20010db800000000/64"),
        ("ipv6:%5B::ffff:192.0.2.1%5D:5000", "192.0.2.1"),
        ("unix:", ""),
        ("", ""),
    ],
)
def test_the_source_is_that_of_the_other_wire(peer: str, source: str) -> None:
    """The library's text for a peer names the same source as a socket's own address."""
    assert source_of(socket_name(peer)) == source
