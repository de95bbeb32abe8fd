from collections.abc import Sequence

import pytest

from loadtests.cases import Case, Side
from loadtests.cpu import TICKS_PER_S
from loadtests.windows import (
    Plan,
    Repetition,
    Window,
    measure_case,
    others_share,
    relative_difference,
)
from tests.loadtests.samples import TWO_SIDES, a_window


class Scripted:
    """A subject that answers from a list and notes what it was asked."""

    def __init__(self, rates_per_s: Sequence[float]) -> None:
        self.asked: list[str] = []
        self._rates_per_s = iter(rates_per_s)

    def check(self, side: Side) -> None:
        self.asked.append(f"check {side.server}")

    def measure(self, side: Side, *, seconds: float) -> Window:
        self.asked.append(f"{side.server} {seconds:g}")
        return a_window(next(self._rates_per_s))


def test_windows_stand_in_the_order_of_the_sides_whatever_the_order_of_measuring() -> None:
    """Each side is checked, warmed up, then measured once per repetition."""
    plan = Plan(repetitions=3, attempts=1, seconds=8, warm_up_s=2)
    subjects = [Scripted([1, 10, 11, 12]), Scripted([2, 20, 21, 22])]

    result = measure_case(Case("any", TWO_SIDES), subjects, plan=plan)

    rates = [[window.rate_per_s for window in each.windows] for each in result.repetitions]
    assert rates == [[10, 20], [11, 21], [12, 22]]
    assert subjects[0].asked == ["check product", "product 2", *["product 8"] * 3]


@pytest.mark.parametrize(
    ("drift", "steal", "disturbed"),
    [(0.03, 0.01, False), (0.031, 0.0, True), (0.0, 0.011, True)],
)
def test_a_neighbour_disturbs_a_repetition(drift: float, steal: float, disturbed: bool) -> None:
    """More than 3 % of drift of the spin loop, or more than 1 % of stolen time."""
    assert Repetition((), drift=drift, steal=steal, others=0.5).disturbed == disturbed


def test_drift_is_a_share_of_the_faster_loop() -> None:
    """Twice as slow is a drift of one, in either direction."""
    assert (relative_difference(1, 2), relative_difference(2, 1)) == (1, 1)


def test_what_others_used_is_what_was_used_less_our_own() -> None:
    """User, nice and system time count as used; the rest of the machine's time only divides."""
    spent_ticks = [60 * TICKS_PER_S, 0, 20 * TICKS_PER_S, 100 * TICKS_PER_S, 0, 15 * TICKS_PER_S]
    spent_ticks += [5 * TICKS_PER_S, 0]

    assert others_share(spent_ticks, own_s=70) == pytest.approx(0.05)
    assert others_share(spent_ticks, own_s=90) == 0
