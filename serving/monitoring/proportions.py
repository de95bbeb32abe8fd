"""Proportions and wins: everything here is a function of counts.

Hence no result depends on how records were cut into batches, and counts of two streams may be added.
The mixture is beta(1/2, 1/2) over the unknown proportion, in logarithms (Robbins 1970; Howard, Ramdas,
McAuliffe, Sekhon 2021, "Time-uniform, nonparametric, nonasymptotic confidence sequences", the
beta-binomial boundary). Functions take arrays and give one element for each.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving.monitoring.gammas import Floats, log_beta, log_beta_tail
from serving.monitoring.intervals import Interval, State

BISECTIONS: Final = 60
LOG_ARCSINE: Final = math.log(math.pi)
"""log B(1/2, 1/2)."""


def log_mixture(hits: ArrayLike, misses: ArrayLike) -> Floats:
    """Log of the likelihood averaged over beta(1/2, 1/2)."""
    a, b = np.asarray(hits, np.float64), np.asarray(misses, np.float64)
    return log_beta(a + 0.5, b + 0.5) - LOG_ARCSINE


def log_e_fair(wins: ArrayLike, losses: ArrayLike) -> Floats:
    """Two-sided evidence that wins and losses are not equally likely.

    E = 2^n B(a + 1/2, b + 1/2) / B(1/2, 1/2): a martingale of mean 1 if each is won with probability
    1/2 given the past, so P(E ever reaches 1/alpha) <= alpha (Ville).
    """
    n = np.asarray(wins, np.float64) + np.asarray(losses, np.float64)
    return log_mixture(wins, losses) + n * math.log(2.0)


def log_e_above(hits: ArrayLike, misses: ArrayLike, limit: ArrayLike) -> Floats:
    """One-sided evidence that the probability of a hit exceeds `limit`.

    The mixture over q > limit only, against the likelihood at `limit`. For every q > limit the ratio's
    conditional mean p q/limit + (1-p)(1-q)/(1-limit) grows with p and is 1 at p = limit: so it is a
    supermartingale under the whole composite null, even where p changes from record to record as long
    as it stays at or below the limit (Robbins & Siegmund 1974; Ramdas, Grünwald, Vovk, Shafer 2023,
    "Game-theoretic statistics and safe anytime-valid inference", section on one-sided nulls). The
    mass of q <= limit is given away, so that evidence at 1/alpha only falls as the limit rises.
    """
    a, b = np.asarray(hits, np.float64), np.asarray(misses, np.float64)
    at = np.asarray(limit, np.float64)
    inside = np.clip(at, 1e-12, 1.0 - 1e-12)
    null = a * np.log(inside) + b * np.log1p(-inside)
    evidence = log_mixture(a, b) + log_beta_tail(a + 0.5, b + 0.5, inside) - null
    # At a limit of 0 one hit is proof; nothing ever exceeds a limit of 1.
    evidence = np.where(at >= 1.0, 0.0, np.where((at <= 0.0) & (a > 0), np.inf, evidence))
    return np.where((at <= 0.0) & (a <= 0), 0.0, evidence)


def rate_span(hits: int, trials: int, alpha: float) -> tuple[float, float]:
    """The confidence sequence: every rate that the two-sided mixture has not rejected at alpha.

    For records of one constant probability it covers that at all times together with 1 - alpha.
    hits: 0 to trials. alpha: above 0.
    """
    if not trials:
        return 0.0, 1.0
    misses = trials - hits
    mixture = math.lgamma(hits + 0.5) + math.lgamma(misses + 0.5) - math.lgamma(trials + 1.0)
    threshold = mixture - LOG_ARCSINE - math.log(1.0 / alpha)

    def kept(rate: float) -> bool:
        # The middle of a bracket next to 0 or 1 may be rounded to that, where nothing is kept.
        if not 0.0 < rate < 1.0:
            return False
        return hits * math.log(rate) + misses * math.log1p(-rate) >= threshold

    peak = hits / trials
    low = _crossing(kept, peak, 0.0) if hits else 0.0
    high = _crossing(kept, peak, 1.0) if misses else 1.0
    return low, high


def rate_bounds(hits: ArrayLike, trials: ArrayLike, alpha: float) -> tuple[Floats, Floats]:
    """`rate_span` of each element: all low ends, all high ends."""
    pairs = np.broadcast_arrays(np.asarray(hits, np.int64), np.asarray(trials, np.int64))
    spans = [
        rate_span(a, n, alpha) for a, n in zip(*(p.ravel().tolist() for p in pairs), strict=True)
    ]
    ends = np.array(spans, np.float64).reshape(*pairs[0].shape, 2)
    return ends[..., 0], ends[..., 1]


def _crossing(kept: Callable[[float], bool], inside: float, outside: float) -> float:
    """The outer end of the last bracket around the end of what is kept."""
    for _ in range(BISECTIONS):
        middle = (inside + outside) / 2.0
        if middle in (inside, outside):
            break
        inside, outside = (middle, outside) if kept(middle) else (inside, middle)
    return outside


class RateInterval:
    """The proportion of records for which something holds. Counts only: mergeable."""

    def __init__(self) -> None:
        self._hits = 0
        self._n = 0

    @property
    def n(self) -> int:
        return self._n

    @property
    def hits(self) -> int:
        return self._hits

    def update(self, flags: NDArray[np.bool_]) -> None:
        self.add(int(np.count_nonzero(flags)), len(flags))

    def add(self, hits: int, trials: int) -> None:
        self._hits += hits
        self._n += trials

    def merge(self, other: "RateInterval") -> None:
        self.add(other.hits, other.n)

    def interval(self, alpha: float) -> Interval:
        estimate = self._hits / self._n if self._n else math.nan
        return Interval(estimate, *rate_span(self._hits, self._n, alpha))

    def log_e_above(self, limit: float) -> float:
        return float(log_e_above(self._hits, self._n - self._hits, limit))

    def state(self) -> State:
        return {"hits": self._hits, "n": self._n}

    def restore(self, state: Mapping[str, Any]) -> Self:
        self._hits, self._n = int(state["hits"]), int(state["n"])
        return self


class WinEvidence:
    """Which of two is better, from the records on which exactly one of them is: the discordant ones.

    Ties tell nothing and are not counted. `log_e` is two-sided: read the direction from `leads`.
    One-sided: `log_e_inferior` is evidence that the candidate wins less than 1/2 - margin,
    `log_e_noninferior` that it wins more than that. Each is valid alone, at any time.
    """

    def __init__(self, margin: float = 0.0) -> None:
        self._margin = margin
        self._wins = 0
        self._losses = 0

    @property
    def wins(self) -> int:
        return self._wins

    @property
    def losses(self) -> int:
        return self._losses

    @property
    def n(self) -> int:
        return self._wins + self._losses

    @property
    def leads(self) -> int:
        """1: the candidate has won more often, -1: the primary, 0: neither."""
        return (self._wins > self._losses) - (self._wins < self._losses)

    def update(self, difference: Floats) -> None:
        """difference: positive where the candidate is better, negative where the primary is."""
        self.add(int(np.count_nonzero(difference > 0)), int(np.count_nonzero(difference < 0)))

    def add(self, wins: int, losses: int) -> None:
        self._wins += wins
        self._losses += losses

    def merge(self, other: "WinEvidence") -> None:
        self.add(other.wins, other.losses)

    def log_e(self) -> float:
        return float(log_e_fair(self._wins, self._losses))

    def log_e_noninferior(self) -> float:
        limit = 0.5 - self._margin
        return float(log_e_above(self._wins, self._losses, limit)) - _log_mass_above(limit)

    def log_e_inferior(self) -> float:
        limit = 0.5 + self._margin
        return float(log_e_above(self._losses, self._wins, limit)) - _log_mass_above(limit)

    def interval(self, alpha: float) -> Interval:
        """Of the candidate's probability to win a discordant record."""
        estimate = self._wins / self.n if self.n else math.nan
        return Interval(estimate, *rate_span(self._wins, self.n, alpha))

    def state(self) -> State:
        return {"wins": self._wins, "losses": self._losses}

    def restore(self, state: Mapping[str, Any]) -> Self:
        self._wins, self._losses = int(state["wins"]), int(state["losses"])
        return self


def _log_mass_above(limit: float) -> float:
    """What `log_e_above` gives away; returned where the limit never moves."""
    return math.log1p(-2.0 / math.pi * math.asin(math.sqrt(limit)))
