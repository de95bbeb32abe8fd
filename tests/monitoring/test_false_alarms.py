"""Equal versions, looked at after every record: how often they are told apart. 1,000 runs each.

A true error rate of 5 % shows up as at most 6.6 % of 1,000 runs in 99 of 100 experiments; with the
fixed seeds the bound can be alpha itself.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serving.monitoring.means import MIN_ASYMPTOTIC, boundary
from serving.monitoring.noise import NoiseFloor
from serving.monitoring.proportions import log_e_above, log_e_fair, log_mixture
from tests.monitoring.paths import bernstein_paths

RUNS: Final = 1000
ALPHA: Final = 0.05
THRESHOLD: Final = math.log(1.0 / ALPHA)


def ever_above(hits: NDArray[np.bool_], limit: NDArray[np.float64], threshold: float) -> float:
    """Share of runs in which evidence ever reaches the threshold; it can do so at a hit only."""
    run, record = np.nonzero(hits)
    seen = np.cumsum(hits, axis=1)[run, record]
    evidence = log_e_above(seen, record + 1 - seen, limit[run])
    return len(np.unique(run[evidence >= threshold])) / len(hits)


def test_peeking_at_mcnemar_is_what_this_replaces() -> None:
    """Looked at every 50 discordant pairs, a fixed-sample test rejects a third of true nulls."""
    random = np.random.default_rng(31)
    pairs = np.arange(50, 5001, 50)
    wins = np.cumsum(random.binomial(50, 0.5, (RUNS, 100)), axis=1)
    rejects = (np.abs(2 * wins - pairs) / np.sqrt(pairs) > 1.96).any(axis=1).mean()

    assert 0.30 <= rejects <= 0.40


def test_equal_versions_are_not_told_apart_by_wins() -> None:
    """Two-sided, 5,000 discordant pairs, a look after each: at most alpha (the literature: 4 %)."""
    random = np.random.default_rng(32)
    n = np.arange(1, 5001)
    alarms = 0
    for _ in range(10):
        wins = np.cumsum(random.random((RUNS // 10, 5000)) < 0.5, axis=1)
        alarms += int((log_e_fair(wins, n - wins) >= THRESHOLD).any(axis=1).sum())

    assert 0.02 <= alarms / RUNS <= ALPHA


def test_a_rate_at_its_limit_is_no_breach() -> None:
    """The worst case of the null: disagreements exactly as often as permitted, 3,000 records."""
    hits = np.random.default_rng(33).random((RUNS, 3000)) < 0.01

    assert ever_above(hits, np.full(RUNS, 0.01), THRESHOLD) <= ALPHA


def test_a_candidate_at_the_limit_is_not_promoted() -> None:
    """The interval lies wholly below the true rate at any of 2,000 records in alpha of the runs."""
    random = np.random.default_rng(39)
    n = np.arange(1, 2001)
    hits = np.cumsum(random.random((RUNS, 2000)) < 0.03, axis=1)
    likelihood = hits * math.log(0.03) + (n - hits) * math.log(0.97)
    excluded = log_mixture(hits, n - hits) - likelihood >= THRESHOLD

    assert (excluded & (hits < 0.03 * n)).any(axis=1).mean() <= ALPHA


def test_a_rate_that_wanders_below_its_limit_is_no_breach() -> None:
    """The null is composite: any rates that stay at or below the limit, in bursts, are covered."""
    random = np.random.default_rng(34)
    rates = np.where(np.arange(3000) % 500 < 250, 0.05, 0.0)
    hits = random.random((RUNS, 3000)) < rates

    assert ever_above(hits, np.full(RUNS, 0.05), THRESHOLD) <= ALPHA


def test_a_noisy_model_is_not_told_apart_from_itself() -> None:
    """No margin at all: the limit is the floor that 2,000 A/A records showed, anew in each run."""
    random = np.random.default_rng(35)
    measured = random.binomial(2000, 0.02, RUNS)
    floors = [NoiseFloor({"o": (int(hits), 2000)}).bounds("o", ALPHA / 2).high for hits in measured]
    hits = random.random((RUNS, 3000)) < 0.02

    assert ever_above(hits, np.array(floors), math.log(2.0 / ALPHA)) <= ALPHA


def test_equal_losses_are_not_told_apart() -> None:
    """Bounded paired differences of mean zero, the bound looked at after each of 2,000 records."""
    random = np.random.default_rng(36)
    values = random.choice([-1.0, 0.0, 1.0], p=[0.1, 0.8, 0.1], size=(RUNS, 2000))
    low, high = bernstein_paths(values, low=-1.0, high=1.0, alpha=ALPHA)

    assert ((low > 0.0) | (high < 0.0)).any(axis=1).mean() <= ALPHA


def test_equal_latencies_are_not_told_apart() -> None:
    """Skewed log ratios of mean zero, looked at from the 100th to the 3,000th record."""
    random = np.random.default_rng(37)
    values = random.gumbel(size=(RUNS, 3000)) - np.euler_gamma
    n = np.arange(1, 3001)
    means = np.cumsum(values, axis=1) / n
    deviations = np.sqrt(np.cumsum(values**2, axis=1) / n - means**2)
    reach = np.array([boundary(k, ALPHA) / k for k in range(1, 3001)])
    beyond = np.abs(means) > deviations * reach

    assert beyond[:, MIN_ASYMPTOTIC - 1 :].any(axis=1).mean() <= ALPHA


def test_ten_slices_together_keep_alpha() -> None:
    """Each of ten slices exactly at its limit: the e-BH threshold for the first is 10/alpha."""
    random = np.random.default_rng(38)
    hits = random.random((RUNS * 10, 500)) < 0.02
    run, record = np.nonzero(hits)
    seen = np.cumsum(hits, axis=1)[run, record]
    evidence = log_e_above(seen, record + 1 - seen, 0.02)
    # e-BH needs k slices at 10/(alpha k) at once; to count their highest ever only adds alarms.
    highest = np.full(RUNS * 10, -math.inf)
    np.maximum.at(highest, run, evidence)
    per_run = np.sort(highest.reshape(RUNS, 10), axis=1)[:, ::-1]
    needed = np.log(10.0 / (ALPHA * np.arange(1, 11)))

    assert (per_run >= needed).any(axis=1).mean() <= ALPHA
