"""Champion and challenger: figures by period, and the evidence that they come to."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.monitoring.challenge import Challenge
from serving.monitoring.sequential import WinEvidence

Floats = NDArray[np.float64]
JANUARY, FEBRUARY = 20454, 20485
"""Days since 1970 of the first of the month in 2026."""


@dataclass(frozen=True)
class Batch:
    period: NDArray[np.int64]
    paired: NDArray[np.bool_]
    ok: NDArray[np.bool_]
    primary_score: Floats
    candidate_score: Floats
    primary_us: Floats
    candidate_us: Floats
    truth: Floats


def a_batch(
    period: int,
    first: Sequence[float],
    second: Sequence[float],
    truth: Sequence[float] = (),
    *,
    paired: Sequence[bool] = (),
    ok: Sequence[bool] = (),
) -> Batch:
    count = len(first)
    return Batch(
        period=np.full(count, period),
        paired=np.array(paired or [True] * count),
        ok=np.array(ok or [True] * count),
        primary_score=np.array(first, float),
        candidate_score=np.array(second, float),
        primary_us=np.full(count, 100.0),
        candidate_us=np.full(count, 200.0),
        truth=np.array(truth or [math.nan] * count, float),
    )


def test_each_period_has_its_own_figures() -> None:
    """Losses, agreement and counts are those of the period; evidence runs on over all of them."""
    challenge = Challenge()
    challenge.add(a_batch(JANUARY, [0.9, 0.2], [0.6, 0.7], [1, 0]))
    challenge.add(a_batch(FEBRUARY, [0.4], [0.8], [1]))

    january, february = challenge.standings()

    assert (january.period, february.period) == ("2026-01-01", "2026-02-01")
    assert (january.agreement, february.agreement) == (0.5, 0.0)
    assert january.champion_loss == pytest.approx((0.1**2 + 0.2**2) / 2)
    assert january.challenger_loss == pytest.approx((0.4**2 + 0.7**2) / 2)
    assert (january.wins, january.losses, february.wins, february.losses) == (0, 1, 1, 0)
    assert (january.total.outcomes, february.total.outcomes) == (2, 3)
    assert (february.total.wins, february.total.losses) == (1, 1)
    assert (january.champion_ms, january.challenger_ms) == (0.1, 0.2)


def test_what_is_missing_is_counted_and_compares_nothing() -> None:
    """Rows without a copy, with a failed one and without a truth are shown, and judge nobody."""
    challenge = Challenge()
    rows = a_batch(
        JANUARY,
        [0.9, 0.9, 0.9],
        [math.nan, math.nan, 0.1],
        paired=[False, True, True],
        ok=[False, False, True],
    )
    challenge.add(rows)

    [january] = challenge.standings()

    assert (january.asked, january.paired, january.failed) == (3, 2, 1)
    assert (january.agreement, january.outcomes, january.champion_loss) == (0.0, 0, None)
    assert january.total.e_value == pytest.approx(1.0)
    assert (january.total.leads, january.total.low) == ("", None)


def test_the_evidence_is_that_of_all_wins_so_far() -> None:
    """Months of a slightly better challenger add up to an e-value that no month reaches alone."""
    challenge = Challenge(squared=False)
    wins = WinEvidence()
    for month in range(6):
        truth = [1.0] * 20
        first, second = [0.9] * 5 + [0.1] * 15, [0.1] * 5 + [0.9] * 15
        challenge.add(a_batch(JANUARY + 31 * month, first, second, truth))
        wins.add(15, 5)

    *_, last = challenge.standings()

    assert last.total.e_value == pytest.approx(math.exp(wins.log_e()))
    assert challenge.standings()[0].total.leads == ""
    assert last.total.leads == "challenger"
    assert last.total.difference == pytest.approx(-0.5)


def test_batches_may_be_cut_anywhere() -> None:
    """The same rows in other pieces give the same figures."""
    rng = np.random.default_rng(3)
    first, second, truth = (rng.random(300).tolist() for _ in range(3))
    whole, pieces = Challenge(), Challenge()
    whole.add(a_batch(JANUARY, first, second, truth))
    for start in range(0, 300, 7):
        here = slice(start, start + 7)
        pieces.add(a_batch(JANUARY, first[here], second[here], truth[here]))

    [one], [other] = whole.standings(), pieces.standings()

    assert (one.wins, one.losses) == (other.wins, other.losses)
    assert one.champion_loss == pytest.approx(other.champion_loss)
    assert one.total.low == pytest.approx(other.total.low)
