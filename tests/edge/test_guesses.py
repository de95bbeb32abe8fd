"""Refused credentials: answered at once, then later and later; known callers notice nothing."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.edge.guesses import BURST_S, MAX_SOURCES, Guesses, source_of


def test_a_budget_is_answered_at_once_and_the_rest_waits() -> None:
    """Ten a second: fifty at once, then each waits until its own turn, at most the longest."""
    guesses = Guesses(per_s=10, longest_s=2.0)
    waits = [guesses.wait_s("a", 100.0) for _ in range(200)]

    assert waits[: int(10 * BURST_S)] == [0.0] * 50
    assert waits[50:53] == pytest.approx([0.1, 0.2, 0.3])
    assert max(waits) == waits[-1] == 2.0
    assert guesses.held == 150


def test_others_and_a_quiet_time_are_not_held_against_anyone() -> None:
    """Another source has its own budget; after a pause the first one has it again."""
    guesses = Guesses(per_s=10, longest_s=2.0)
    for _ in range(1000):
        guesses.wait_s("a", 100.0)

    assert guesses.wait_s("b", 100.0) == 0.0
    assert guesses.wait_s("a", 100.0 + 2.5) == 0.0


@given(times=st.lists(st.floats(0, 0.5), min_size=1, max_size=300))
def test_answers_at_once_keep_the_rate(times: Sequence[float]) -> None:
    """However they come, those answered at once are at most the burst and the rate over the time."""
    guesses, now_s, at_once = Guesses(per_s=20, longest_s=1.0), 50.0, 0
    for pause_s in times:
        now_s += pause_s
        at_once += guesses.wait_s("a", now_s) == 0.0

    assert at_once <= 20 * (BURST_S + now_s - 50.0) + 1


def test_the_memory_is_bounded() -> None:
    """A million addresses leave no more than the bound; whoever goes on is remembered."""
    guesses = Guesses(per_s=1, longest_s=2.0)
    for number in range(3 * MAX_SOURCES):
        guesses.wait_s(f"10.{number}", 100.0)
        guesses.wait_s("offender", 100.0)

    assert guesses.wait_s("offender", 100.0) == 2.0


@pytest.mark.parametrize(
    ("peer", "source"),
    [
        (("192.0.2.7", 4711), "192.0.2.7"),
        (("2001:db8:1:2:3::4", 4711, 0, 0), "20010db800010002/64"),
        (("2001:db8:1:2:ffff::9", 1, 0, 0), "20010db800010002/64"),
        (("::ffff:192.0.2.7", 4711, 0, 0), "192.0.2.7"),
        (("fe80::1%eth0", 4711, 0, 2), "fe80000000000000/64"),
        ("", ""),
        (None, ""),
    ],
)
def test_a_source_is_an_address_or_a_network(peer: object, source: str) -> None:
    """One customer's IPv6 network is one source; a mapped address is the IPv4 one."""
    assert source_of(peer) == source.lstrip("0")
