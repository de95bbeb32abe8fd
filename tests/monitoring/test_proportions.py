import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.monitoring.proportions import (
    RateInterval,
    WinEvidence,
    log_e_above,
    log_e_fair,
    rate_bounds,
    rate_span,
)

COUNTS = st.integers(0, 2000)
ALPHAS = st.sampled_from([0.2, 0.05, 0.001])
FLAGS = st.lists(st.booleans(), max_size=60)


def log_mean_likelihood(a: int, b: int, low: float) -> float:
    """By brute force: the mixture over q > low, with 1/2 - 1/2 weights in the angle of sqrt(q)."""
    angles = np.linspace(0, math.pi / 2, 400_001)[:-1] + math.pi / 1_600_000
    rates = np.sin(angles) ** 2
    rates = rates[rates > low]
    logs = a * np.log(rates) + b * np.log1p(-rates)
    return float(logs.max() + np.log(np.exp(logs - logs.max()).sum() / 400_000))


@pytest.mark.parametrize("counts", [(0, 0), (7, 3), (60, 40), (3, 400)], ids=str)
def test_evidence_against_fairness_is_the_formula_of_the_method(counts: tuple[int, int]) -> None:
    """E = 2^n B(a + 1/2, b + 1/2) / B(1/2, 1/2)."""
    a, b = counts
    beta = math.lgamma(a + 0.5) + math.lgamma(b + 0.5) - math.lgamma(a + b + 1)
    expected = (a + b) * math.log(2) + beta - math.log(math.pi)

    assert float(log_e_fair(a, b)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("counts", [(0, 50), (7, 300), (60, 40), (3, 400)], ids=str)
@pytest.mark.parametrize("limit", [0.01, 0.3])
def test_one_sided_evidence_averages_the_alternatives_only(
    counts: tuple[int, int], limit: float
) -> None:
    """It is the mean over rates above the limit of the likelihood ratio to the limit."""
    a, b = counts
    expected = log_mean_likelihood(a, b, limit) - a * math.log(limit) - b * math.log1p(-limit)

    assert float(log_e_above(a, b, limit)) == pytest.approx(expected, abs=2e-2)


@given(COUNTS, COUNTS, st.floats(0.001, 0.99), st.floats(0.0001, 0.01))
def test_significant_evidence_falls_as_the_limit_rises(
    a: int, b: int, limit: float, more: float
) -> None:
    """A floor that is estimated too high can only hide a breach, never make one."""
    lenient = float(log_e_above(a, b, min(limit + more, 0.999)))

    assert lenient <= max(float(log_e_above(a, b, limit)), math.log(2.0)) + 1e-7


def test_limits_at_the_ends_mean_what_they_say() -> None:
    """Nothing exceeds a limit of 1; one hit exceeds a limit of 0, and none does not."""
    evidence = [
        float(log_e_above(a, b, limit)) for a, b, limit in [(9, 0, 1), (1, 9, 0), (0, 9, 0)]
    ]

    assert evidence == [0.0, math.inf, 0.0]


@given(COUNTS, COUNTS, ALPHAS)
def test_the_interval_holds_what_the_test_does_not_reject(a: int, b: int, alpha: float) -> None:
    """Each end is where the two-sided evidence against it is exactly 1/alpha."""
    low, high = rate_span(a, a + b, alpha)
    ends = [end for end in (low, high) if 0.0 < end < 1.0]
    beta = math.lgamma(a + 0.5) + math.lgamma(b + 0.5) - math.lgamma(a + b + 1) - math.log(math.pi)
    evidence = [beta - a * math.log(end) - b * math.log1p(-end) for end in ends]

    assert low <= (a / (a + b) if a + b else 0.5) <= high
    assert evidence == pytest.approx([-math.log(alpha)] * len(ends), abs=1e-4)


def test_the_interval_at_an_error_rate_next_to_nothing_ends_at_0_or_1() -> None:
    """Where no number between is left to tell apart, the end is that of the whole range."""
    assert rate_span(1, 10, 1e-300)[0] == 0.0
    assert rate_span(9, 10, 1e-300)[1] == 1.0


def test_bounds_of_many_are_those_of_each() -> None:
    """The array form is the scalar one, element by element."""
    low, high = rate_bounds(np.array([0, 3, 10]), 10, 0.05)

    spans = [rate_span(hits, 10, 0.05) for hits in (0, 3, 10)]
    assert list(zip(low.tolist(), high.tolist(), strict=True)) == spans


def rates() -> RateInterval:
    return RateInterval()


def wins() -> WinEvidence:
    return WinEvidence(0.05)


@pytest.mark.parametrize("make", [rates, wins], ids=["rates", "wins"])
@given(parts=st.lists(FLAGS, max_size=5))
def test_cuts_merges_and_restarts_change_nothing(
    make: Callable[[], Any], parts: list[list[bool]]
) -> None:
    """One batch, many batches, merged halves and a restored state agree to the bit."""
    arrays = [np.array(part, bool) for part in parts]
    whole, cut, merged = make(), make(), make()
    for each in (whole, cut, merged):
        feed(each, [])
    feed(whole, [flag for part in parts for flag in part])
    for array in arrays:
        feed(cut, array.tolist())
        cut = make().restore(json.loads(json.dumps(cut.state())))
        other = make()
        feed(other, array.tolist())
        merged.merge(other)

    assert cut.state() == whole.state() == merged.state()
    assert str(cut.interval(0.05)) == str(whole.interval(0.05))


def feed(statistic: RateInterval | WinEvidence, flags: list[bool]) -> None:
    if isinstance(statistic, RateInterval):
        statistic.update(np.array(flags, bool))
    else:
        statistic.update(np.array(flags, np.float64) - 0.5)


@given(COUNTS, COUNTS)
def test_wins_and_losses_mirror_each_other(wins: int, losses: int) -> None:
    """Swapping the versions swaps the sign and the interval, and leaves the evidence."""
    here, there = WinEvidence(0.1), WinEvidence(0.1)
    here.add(wins, losses)
    there.add(losses, wins)

    assert here.leads == -there.leads
    assert here.log_e() == there.log_e()
    assert here.interval(0.05).low == pytest.approx(1.0 - there.interval(0.05).high, abs=1e-12)


def test_ties_are_no_wins() -> None:
    """Only records on which exactly one version is better count."""
    process = WinEvidence()
    process.update(np.array([0.0, 1.0, -1.0, 0.0, 0.5]))

    assert (process.wins, process.losses) == (2, 1)


def test_non_inferiority_is_shown_by_an_even_record() -> None:
    """With a margin of a tenth, 600 of 1,200 wins show that it is not worse by that much."""
    process = WinEvidence(0.1)
    process.add(600, 600)

    assert process.log_e_noninferior() > math.log(20)
    assert process.log_e_inferior() < 0
    assert process.log_e() < 0
