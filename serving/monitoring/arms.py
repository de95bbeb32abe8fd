"""Statistics of an experiment whose arms see different records: nothing is paired."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving.monitoring.gammas import log_gamma
from serving.monitoring.intervals import EVERYTHING, Interval, State
from serving.monitoring.means import MIN_ASYMPTOTIC, AsymptoticInterval, boundary, one_sided
from serving.monitoring.proportions import rate_span

CONCENTRATION: Final = 100.0
"""Weight of the planned shares in the prior, in records: deviations of some 5 points show first."""


class SampleRatio:
    """Whether assignment keeps to its planned shares: the sequential sample-ratio test.

    Lindon & Malek 2022, "Anytime-valid inference for multinomial count data": the Dirichlet-multinomial
    Bayes factor against the plan, a martingale of mean 1 under it. Counts only: mergeable.
    """

    def __init__(self, shares: Sequence[float]) -> None:
        """shares: planned, positive, in any unit. Raises ValueError otherwise."""
        if not shares[1:] or min(shares) <= 0:
            raise ValueError("planned shares must be two positive numbers or more")
        self._shares = np.asarray(shares, np.float64) / math.fsum(shares)
        self._counts: NDArray[np.int64] = np.zeros(len(shares), np.int64)

    @property
    def n(self) -> int:
        return int(self._counts.sum())

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(self._counts.tolist())

    def update(self, arms: NDArray[np.integer[Any]]) -> None:
        """arms: index of the arm that each record was assigned to."""
        self.add(np.bincount(arms, minlength=len(self._counts)))

    def add(self, counts: ArrayLike) -> None:
        self._counts = self._counts + np.asarray(counts, np.int64)

    def merge(self, other: "SampleRatio") -> None:
        self.add(other.counts)

    def log_e(self) -> float:
        prior = CONCENTRATION * self._shares
        seen = log_gamma(prior + self._counts) - log_gamma(prior)
        total = float(log_gamma(CONCENTRATION) - log_gamma(CONCENTRATION + self.n))
        return total + float((seen - self._counts * np.log(self._shares)).sum())

    def state(self) -> State:
        return {"counts": list(self.counts)}

    def restore(self, state: Mapping[str, Any]) -> Self:
        self._counts = np.asarray(state["counts"], np.int64)
        return self


class ArmDifference:
    """Difference of two means, second less first, of records that only one of the arms saw.

    Asymptotic, as `AsymptoticInterval`; the randomised experiment of the same paper (section 3): with
    t records in all, each weighs as if it had variance t (v1/n1 + v2/n2). Needs `MIN_ASYMPTOTIC`
    records in each arm. Sums only: mergeable.
    """

    def __init__(self) -> None:
        self._arms = (AsymptoticInterval(), AsymptoticInterval())

    @property
    def n(self) -> tuple[int, int]:
        return self._arms[0].n, self._arms[1].n

    @property
    def means(self) -> tuple[float, float]:
        return self._arms[0].mean, self._arms[1].mean

    def update(self, first: ArrayLike, second: ArrayLike) -> None:
        """Either may be empty. Raises ValueError for what is no finite number."""
        self._arms[0].update(first)
        self._arms[1].update(second)

    def merge(self, other: "ArmDifference") -> None:
        for mine, theirs in zip(self._arms, other.arms, strict=True):
            mine.merge(theirs)

    @property
    def arms(self) -> tuple[AsymptoticInterval, AsymptoticInterval]:
        return self._arms

    def interval(self, alpha: float) -> Interval:
        difference = self.means[1] - self.means[0]
        if min(self.n) < MIN_ASYMPTOTIC:
            return Interval(difference, EVERYTHING.low, EVERYTHING.high)
        total = sum(self.n)
        half = math.sqrt(self._variance()) * boundary(total, alpha) / total
        return Interval(difference, difference - half, difference + half)

    def log_e_above(self, limit: float) -> float:
        """Evidence that the second mean exceeds the first by more than `limit`."""
        if min(self.n) < MIN_ASYMPTOTIC:
            return 0.0
        total = sum(self.n)
        difference = self.means[1] - self.means[0]
        return one_sided(total * (difference - limit), total, self._variance())

    def _variance(self) -> float:
        first, second = self._arms
        return sum(self.n) * (first.variance / first.n + second.variance / second.n)

    def state(self) -> dict[str, Any]:
        return {"first": self._arms[0].state(), "second": self._arms[1].state()}

    def restore(self, state: Mapping[str, Any]) -> Self:
        for arm, name in zip(self._arms, ("first", "second"), strict=True):
            arm.restore(state[name])
        return self


def rate_difference(first: tuple[int, int], second: tuple[int, int], alpha: float) -> Interval:
    """Second rate less first, of (hits, trials) each, at all times together with 1 - alpha.

    Exact: each rate has its confidence sequence at alpha/2. For failures of a canary beside the
    stable version, whose counts are all that is needed.
    """
    low, high = zip(*(rate_span(*arm, alpha / 2.0) for arm in (first, second)), strict=True)
    rates = [hits / trials if trials else math.nan for hits, trials in (first, second)]
    return Interval(rates[1] - rates[0], low[1] - high[0], high[1] - low[0])
