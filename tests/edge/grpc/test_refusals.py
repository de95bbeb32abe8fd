"""Refused credentials over gRPC: answered at once, then later and later; bounded in number."""

import asyncio
from collections.abc import Callable

from serving.core.clock import SystemClock
from serving.edge.grpc.refusals import RefusedCalls
from serving.edge.guesses import BURST_S, Guesses
from tests.places import eventually

PEER = ("192.0.2.1", 5000)
ONCE = round(BURST_S)
"""How many refusals are answered at once with one a second."""


def refused_calls(*, longest_s: float, most: int = 10) -> RefusedCalls:
    clock = SystemClock()
    guesses = Guesses(per_s=1.0, longest_s=longest_s)
    return RefusedCalls(guesses, most=most, now_s=lambda: clock.monotonic_ns() / 1e9)


def spend_budget(calls: RefusedCalls) -> None:
    """Afterwards each further refusal waits."""
    answered: list[int] = []
    for number in range(ONCE):
        calls.hold(PEER, noting(answered, number))
    assert answered == list(range(ONCE))


def noting(answered: list[int], number: int) -> Callable[[], None]:
    return lambda: answered.append(number)


async def test_a_budget_is_answered_at_once_and_the_next_waits() -> None:
    """Who has used the budget up waits for as long as the setting says, and is counted."""
    calls = refused_calls(longest_s=0.2)
    spend_budget(calls)
    answered = asyncio.Event()
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    calls.hold(PEER, answered.set)
    assert calls.waiting == 1
    await answered.wait()

    assert 0.15 < loop.time() - began_s < 2.0
    assert (calls.guesses.held, calls.waiting) == (1, 0)


async def test_more_than_may_wait_are_answered_at_once() -> None:
    """The calls that wait never take more places than they were given."""
    calls = refused_calls(longest_s=60.0, most=3)
    spend_budget(calls)
    answered: list[int] = []
    for number in range(20):
        calls.hold(PEER, noting(answered, number))

    assert (answered, calls.waiting) == (list(range(3, 20)), 3)
    calls.drain()
    assert sorted(answered) == list(range(20))


async def test_a_drain_holds_nobody() -> None:
    """Those that wait are answered when the server drains, and none waits afterwards."""
    calls = refused_calls(longest_s=60.0)
    spend_budget(calls)
    answered: list[int] = []
    calls.hold(PEER, noting(answered, 1))
    calls.drain()
    calls.hold(PEER, noting(answered, 2))

    assert (answered, calls.waiting) == ([1, 2], 0)


async def test_who_leaves_gives_its_place_back() -> None:
    """A client that gives a held call up frees the place at once, and nothing is answered."""
    calls = refused_calls(longest_s=0.05)
    spend_budget(calls)
    answered: list[int] = []
    left, stays = noting(answered, 1), noting(answered, 2)
    calls.hold(PEER, left)
    calls.hold(PEER, stays)
    calls.forget(left)
    calls.forget(left)

    assert calls.waiting == 1
    await eventually(lambda: answered == [2])
