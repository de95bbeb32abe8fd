import json
import math

import numpy as np
import pytest

from serving.monitoring.arms import ArmDifference, SampleRatio, rate_difference
from serving.monitoring.gammas import log_gamma
from serving.monitoring.means import MIN_ASYMPTOTIC, boundary


def test_assignment_by_plan_raises_no_alarm() -> None:
    """1,000 experiments of 2,000 records, looked at after each: at most alpha are called broken."""
    random = np.random.default_rng(51)
    first = np.cumsum(random.random((1000, 2000)) < 0.9, axis=1)
    n = np.arange(1, 2001)
    evidence = (
        (log_gamma(100.0) - log_gamma(100.0 + n))
        + (log_gamma(90.0 + first) - log_gamma(90.0) - first * math.log(0.9))
        + (log_gamma(10.0 + n - first) - log_gamma(10.0) - (n - first) * math.log(0.1))
    )
    alarms = (evidence >= math.log(20)).any(axis=1).mean()
    test = SampleRatio([9, 1])
    test.add([int(first[0, -1]), int(2000 - first[0, -1])])

    assert alarms <= 0.05
    assert test.log_e() == pytest.approx(float(evidence[0, -1]), abs=1e-9)


def test_a_lost_arm_is_found() -> None:
    """Half of 5 % lost: 1,000 of 21,000 records instead of 1,050 say nothing, 500 say enough."""
    kept, lost = SampleRatio([0.95, 0.05]), SampleRatio([0.95, 0.05])
    kept.add([19_950, 1_000])
    lost.add([19_950, 500])

    assert kept.log_e() < 0.0
    assert lost.log_e() > math.log(1e6)


def test_counts_merge_and_restore() -> None:
    """Updates by index, additions, merges and JSON states lead to the same counts."""
    one, other = SampleRatio([1, 1, 2]), SampleRatio([1, 1, 2])
    one.update(np.array([0, 2, 2]))
    other.add([1, 1, 0])
    one.merge(other)
    restored = SampleRatio([1, 1, 2]).restore(json.loads(json.dumps(one.state())))

    assert restored.counts == (2, 1, 2)
    assert restored.n == 5


def test_a_plan_has_two_arms() -> None:
    """A share of nothing, or of everything, is no experiment."""
    with pytest.raises(ValueError, match="two positive"):
        SampleRatio([1.0])
    with pytest.raises(ValueError, match="two positive"):
        SampleRatio([1.0, 0.0])


def test_equal_arms_are_not_told_apart() -> None:
    """1,000 experiments of unequal arms and variances, looked at after each 3,000 records' tenth."""
    random = np.random.default_rng(52)
    n = np.arange(1, 2001)
    first = random.exponential(1.0, (1000, 2000))
    second = random.normal(1.0, 2.0, (1000, 500))
    looks = np.arange(400, 2001, 4)
    means = [np.cumsum(x, axis=1) / n[: x.shape[1]] for x in (first, second)]
    squares = [np.cumsum(x**2, axis=1) / n[: x.shape[1]] for x in (first, second)]
    variance = [s - m**2 for s, m in zip(squares, means, strict=True)]
    at = (looks - 1, looks // 4 - 1)
    apart = means[1][:, at[1]] - means[0][:, at[0]]
    total = looks + looks // 4
    spread = variance[0][:, at[0]] / looks + variance[1][:, at[1]] / (looks // 4)
    reach = np.array([boundary(t, 0.05) / math.sqrt(t) for t in total])

    assert (np.abs(apart) > np.sqrt(spread) * reach).any(axis=1).mean() <= 0.05


def test_the_difference_of_two_arms_is_found_and_survives_a_restart() -> None:
    """Means 1.0 and 1.3: the interval excludes 0 and holds .3; merged and restored it is the same."""
    random = np.random.default_rng(53)
    first, second = random.exponential(1.0, 8000), random.exponential(1.3, 2000)
    whole, half, rest = ArmDifference(), ArmDifference(), ArmDifference()
    whole.update(first, second)
    half.update(first[:4000], [])
    rest.update(first[4000:], second)
    half.merge(rest)
    again = ArmDifference().restore(json.loads(json.dumps(half.state())))
    interval = whole.interval(0.05)

    assert interval.low > 0.0
    assert interval.contains(0.3)
    assert again.n == whole.n == (8000, 2000)
    assert again.interval(0.05).low == pytest.approx(interval.low, abs=1e-9)
    assert whole.log_e_above(0.0) > math.log(20) > whole.log_e_above(0.3)


def test_a_small_arm_says_nothing() -> None:
    """Below 100 records in either arm there is no interval and no evidence."""
    arms = ArmDifference()
    arms.update(np.ones(1000), np.zeros(MIN_ASYMPTOTIC - 1))

    assert (arms.interval(0.05).high, arms.log_e_above(0.0)) == (math.inf, 0.0)


def test_rates_of_two_arms_are_bounded_exactly() -> None:
    """The ends are those of each rate's own sequence at half of alpha; nothing known: -1 to 1."""
    interval = rate_difference((10, 1000), (80, 1000), 0.05)
    empty = rate_difference((0, 0), (1, 10), 0.05)

    assert interval.estimate == pytest.approx(0.07)
    assert 0.0 < interval.low < 0.07 < interval.high
    assert math.isnan(empty.estimate)
    assert empty.low <= 0.0
