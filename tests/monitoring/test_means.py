import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.monitoring.means import MIN_ASYMPTOTIC, AsymptoticInterval, MeanInterval, one_sided
from tests.monitoring.paths import bernstein_paths

VALUES = st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=80)
CUTS = st.lists(st.integers(0, 80), max_size=6)


@given(VALUES)
def test_the_bounded_mean_is_the_method_written_out(values: list[float]) -> None:
    """It agrees with the recursion of the paper, record by record."""
    statistic = MeanInterval(-1.0, 1.0)
    statistic.update(values)
    low, high = bernstein_paths(np.array([values]), low=-1.0, high=1.0, alpha=0.05)
    interval = statistic.interval(0.05)

    assert (interval.low, interval.high) == pytest.approx((low[0, -1], high[0, -1]), abs=1e-9)
    assert interval.estimate == pytest.approx(np.mean(values), abs=1e-9)


@pytest.mark.parametrize(
    "make", [lambda: MeanInterval(-1, 1), AsymptoticInterval], ids=["bounded", "free"]
)
@given(values=VALUES, cuts=CUTS)
def test_cuts_and_restarts_change_no_bit(
    make: object, values: list[float], cuts: list[int]
) -> None:
    """The same records in the same order give the same state, through JSON as well."""
    assert callable(make)
    whole, parts = make(), make()
    whole.update(values)
    for part in np.split(np.array(values), sorted(min(cut, len(values)) for cut in cuts)):
        parts.update(part)
        parts = make().restore(json.loads(json.dumps(parts.state())))

    assert parts.state() == whole.state()
    assert str(parts.interval(0.05)) == str(whole.interval(0.05))


@given(VALUES, st.floats(-1.0, 1.0), st.floats(0.0, 1.0))
def test_evidence_falls_as_the_limit_rises(values: list[float], limit: float, more: float) -> None:
    """One-sided evidence against a higher limit is never stronger."""
    bounded, free = MeanInterval(-1.0, 1.0), AsymptoticInterval()
    bounded.update(values)
    free.update(values * MIN_ASYMPTOTIC)

    assert bounded.log_e_above(limit + more) <= bounded.log_e_above(limit) + 1e-9
    assert free.log_e_above(limit + more) <= free.log_e_above(limit) + 1e-9


@given(VALUES, VALUES)
def test_merged_sums_are_those_of_all(first: list[float], second: list[float]) -> None:
    """Two asymptotic means merged are the mean of all their records."""
    one, other, both = AsymptoticInterval(), AsymptoticInterval(), AsymptoticInterval()
    one.update(first)
    other.update(second)
    both.update(first + second)
    one.merge(other)

    assert one.n == both.n
    assert one.mean == pytest.approx(both.mean, abs=1e-12)
    assert one.variance == pytest.approx(both.variance, abs=1e-12)


def test_a_number_outside_its_bounds_is_refused() -> None:
    """A bounded mean of unbounded numbers has no guarantee, so it is not calculated."""
    with pytest.raises(ValueError, match=r"within -1\.0\.\.1\.0"):
        MeanInterval(-1.0, 1.0).update([0.0, 1.5])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_refused(value: float) -> None:
    """One NaN would make a mean of everything NaN for ever."""
    with pytest.raises(ValueError, match="finite"):
        AsymptoticInterval().update([1.0, value])
    with pytest.raises(ValueError, match="within"):
        MeanInterval().update([1.0, value])


def test_little_says_nothing() -> None:
    """Without records the bounded mean knows its bounds; below 100 the asymptotic one nothing."""
    free = AsymptoticInterval()
    free.update(np.arange(MIN_ASYMPTOTIC - 1))
    bounded = MeanInterval(-1.0, 1.0).interval(0.05)

    assert (bounded.low, bounded.high) == (-1.0, 1.0)
    assert (free.interval(0.05).low, free.log_e_above(0.0)) == (-math.inf, 0.0)


def test_a_real_difference_shows() -> None:
    """A mean of .02 among values of variance .1 excludes 0 in 20,000 records, either way."""
    values = np.random.default_rng(5).choice([-1.0, 0.0, 1.0], p=[0.04, 0.9, 0.06], size=20_000)
    bounded, free = MeanInterval(-1.0, 1.0), AsymptoticInterval()
    bounded.update(values)
    free.update(values)

    assert bounded.interval(0.05).low > 0.0
    assert free.interval(0.05).low > 0.0
    assert min(bounded.log_e_above(0.0), free.log_e_above(0.0)) > math.log(20)


def test_one_sided_evidence_is_a_mixture_over_positive_means() -> None:
    """By brute force: the half-normal average of the normal likelihood ratios."""
    n, excess, variance = 400, 35.0, 1.7
    rho = math.sqrt((-2 * math.log(0.05) + math.log(-2 * math.log(0.05) + 1)) / 1000)
    means = np.linspace(0, 12 * rho, 400_001)
    weights = 2 * np.exp(-((means / rho) ** 2) / 2) / (rho * math.sqrt(2 * math.pi))
    ratios = np.exp(means * excess / math.sqrt(variance) - n * means**2 / 2)
    expected = math.log(float(np.trapezoid(weights * ratios, means)))

    assert one_sided(excess, n, variance) == pytest.approx(expected, abs=1e-6)
    assert one_sided(-1e4, n, variance) < -5.0
