import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.monitoring.distributions import BinShift, Statistic

BINS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)
STATISTICS: tuple[Statistic, ...] = ("js", "psi", "w1")


def by_hand(statistic: Statistic, before: np.ndarray, after: np.ndarray) -> float:
    """From the shares of four bins, as the formulas are written."""
    floor = 0.5 if statistic == "psi" else 0.0
    p, q = (
        (np.bincount(side, minlength=4) + floor) / (len(side) + 4 * floor)
        for side in (before, after)
    )
    if statistic == "w1":
        return float(np.abs(np.cumsum(p - q)).sum() / 3)
    if statistic == "psi":
        return float(((p - q) * np.log(p / q)).sum())
    middle = (p + q) / 2
    total = sum(
        0.5 * x * math.log2(x / m)
        for side in (p, q)
        for x, m in zip(side, middle, strict=True)
        if x > 0
    )
    return math.sqrt(max(total, 0.0))


@pytest.mark.parametrize("statistic", STATISTICS)
@given(moves=BINS)
def test_distances_are_their_formulas(statistic: Statistic, moves: list[tuple[int, int]]) -> None:
    """Calculated from moves between bins, they are what the two distributions' shares say."""
    before, after = np.array(moves).T
    shift = BinShift(statistic, 4)
    shift.update(before, after)

    expected = by_hand(statistic, before, after)
    assert shift.interval(0.05).estimate == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("statistic", STATISTICS)
@given(moves=BINS, cut=st.integers(0, 60))
def test_cuts_and_restarts_change_nothing(
    statistic: Statistic, moves: list[tuple[int, int]], cut: int
) -> None:
    """Counts are all it knows."""
    before, after = np.array(moves).T
    whole, parts = BinShift(statistic, 4), BinShift(statistic, 4)
    whole.update(before, after)
    parts.update(before[:cut], after[:cut])
    parts = BinShift(statistic, 4).restore(json.loads(json.dumps(parts.state())))
    parts.update(before[cut:], after[cut:])

    assert parts.state() == whole.state()


@pytest.mark.parametrize("statistic", STATISTICS)
def test_equal_distributions_of_different_rows_are_no_change(statistic: Statistic) -> None:
    """Versions that disagree on most rows, but as often each way: no evidence, a small distance."""
    random = np.random.default_rng(61)
    shift = BinShift(statistic, 5)
    shift.update(random.integers(0, 5, 20_000), random.integers(0, 5, 20_000))
    interval = shift.interval(0.05)

    assert shift.log_e_above(0.05) <= 0.0
    assert interval.low <= interval.estimate <= interval.high < 0.1


@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_moved_distribution_is_found(statistic: Statistic) -> None:
    """A fifth of the rows one bin higher: significant, and beyond a small limit only."""
    random = np.random.default_rng(62)
    before = random.integers(0, 4, 5000)
    after = before + (random.random(5000) < 0.2)
    shift = BinShift(statistic, 5)
    shift.update(before, after)
    interval = shift.interval(0.05)

    assert shift.log_e_above(0.02) > math.log(1000)
    assert shift.log_e_above(0.9) <= 0.0
    assert 0.0 < interval.low < interval.estimate < interval.high


def test_identical_versions_raise_no_alarm() -> None:
    """200 runs of 600 rows that move between bins at random, ten looks each: at most alpha."""
    random = np.random.default_rng(63)
    alarms = 0
    for _ in range(200):
        shift = BinShift("js", 4)
        seen = False
        for _ in range(10):
            shift.update(random.integers(0, 4, 60), random.integers(0, 4, 60))
            seen |= shift.log_e_above(0.0) >= math.log(20)
        alarms += seen

    assert alarms <= 10
