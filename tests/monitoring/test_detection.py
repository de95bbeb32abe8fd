"""Different versions: after how many records it shows, in how many of the runs."""

import math
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.monitoring.noise import NoiseFloor
from serving.monitoring.proportions import log_e_above, log_e_fair

NEVER: Final = 10**9
DEFAULT_FAMILY: Final = 3
"""Limits that a default specification of one output sets: disagreement, failure, missing pairs."""


def first_breach(
    hits: NDArray[np.bool_], limits: NDArray[np.float64], *, alpha: float
) -> NDArray[np.int64]:
    """Records until evidence reaches family/alpha in each run, looked at after each record."""
    run, record = np.nonzero(hits)
    seen = np.cumsum(hits, axis=1)[run, record]
    evidence = log_e_above(seen, record + 1 - seen, limits[run])
    found = evidence >= math.log(DEFAULT_FAMILY / alpha)
    first = np.full(len(hits), NEVER)
    np.minimum.at(first, run[found], record[found] + 1)
    return first


@pytest.mark.parametrize(
    ("rate", "band"),
    [(0.60, (215, 260)), (0.55, (950, 1150))],
    ids=["60-percent", "55-percent"],
)
def test_a_better_version_shows_after_so_many_discordant_pairs(
    rate: float, band: tuple[int, int]
) -> None:
    """Median pairs to decide: about 238 at a win rate of .60, 1,000 to 1,080 at .55."""
    random = np.random.default_rng(41)
    n = np.arange(1, 4001)
    wins = np.cumsum(random.random((500, 4000)) < rate, axis=1)
    decided = log_e_fair(wins, n - wins) >= math.log(20)
    first = np.where(decided.any(axis=1), decided.argmax(axis=1) + 1, NEVER)

    assert band[0] <= np.median(first) <= band[1]


def test_a_small_advantage_needs_a_horizon() -> None:
    """At a win rate of .52 only some 29 % of runs decide within 5,000 discordant pairs."""
    random = np.random.default_rng(42)
    n = np.arange(1, 5001)
    wins = np.cumsum(random.random((500, 5000)) < 0.52, axis=1)

    decided = (log_e_fair(wins, n - wins) >= math.log(20)).any(axis=1).mean()
    assert 0.23 <= decided <= 0.35


@pytest.mark.parametrize(
    ("limit", "half", "nearly_all"),
    [(0.01, 2000, 6000), (0.005, 600, 2200), (0.001, 200, 800)],
    ids=["limit-1-percent", "limit-half-percent", "limit-1-permille"],
)
def test_two_percent_of_flips_are_found(limit: float, half: int, nearly_all: int) -> None:
    """With the default limit of 1 %: within 2,000 pairs in half of the runs, 6,000 in 99 of 100."""
    hits = np.random.default_rng(43).random((500, 10_000)) < 0.02
    first = first_breach(hits, np.full(500, limit), alpha=0.05)

    assert np.median(first) <= half
    assert np.quantile(first, 0.99) <= nearly_all


def test_two_percent_of_flips_are_found_above_noise() -> None:
    """A model that flips .5 % by itself: after 20,000 A/A records, within 8,000 pairs."""
    random = np.random.default_rng(44)
    alone = random.binomial(20_000, 0.005, 300)
    floors = [NoiseFloor({"o": (int(k), 20_000)}).bounds("o", 0.025).high for k in alone]
    hits = (random.random((300, 10_000)) < 0.005) ^ (random.random((300, 10_000)) < 0.02)
    first = first_breach(hits, 0.005 + np.array(floors), alpha=0.025)

    assert np.median(first) <= 2200
    assert np.quantile(first, 0.99) <= 8000
