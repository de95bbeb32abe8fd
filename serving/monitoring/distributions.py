"""Distances between the distributions of two versions' answers over fixed bins, paired.

Both versions answered the same rows, so what moved is known row by row: of each bin, how many rows
only the candidate put there and how many only the primary. If the distributions are equal, both are
equally likely: `log_e_fair` of them is evidence against it, and the average over bins is evidence
against all of them together, exact at any time (the sequential form of Stuart and Maxwell's test).
The distance is bounded by bounding each bin's difference, asymptotically and at alpha / bins: every
distance here grows with the difference of each bin while their mean stays, and the mean is taken as
estimated. Counts only: mergeable, independent of cuts.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from serving.monitoring.gammas import Floats
from serving.monitoring.intervals import EVERYTHING, Interval, State
from serving.monitoring.means import MIN_ASYMPTOTIC, boundary
from serving.monitoring.multiplicity import average
from serving.monitoring.proportions import log_e_fair

Statistic = Literal["js", "psi", "w1"]
Bins = NDArray[np.int64]


class BinShift:
    """statistic: `js`, `psi` or `w1`; see `comparators.DistributionDistance` for their units."""

    def __init__(self, statistic: Statistic, bins: int) -> None:
        self._statistic = statistic
        self._counts: NDArray[np.int64] = np.zeros((4, bins), np.int64)

    @property
    def n(self) -> int:
        return int(self._counts[0].sum())

    def update(self, primary: Bins, candidate: Bins) -> None:
        """primary, candidate: the bin of each row."""
        bins = self._counts.shape[1]
        before, after = primary, candidate
        if self._statistic == "w1":  # moves across each edge instead of into each bin
            edges = np.arange(bins)
            gained = (after[:, None] <= edges) & (before[:, None] > edges)
            lost = (after[:, None] > edges) & (before[:, None] <= edges)
            moves = [gained.sum(axis=0), lost.sum(axis=0)]
        else:
            moved = before != after
            moves = [np.bincount(side[moved], minlength=bins) for side in (after, before)]
        totals = [np.bincount(side, minlength=bins) for side in (before, after)]
        self._counts = self._counts + np.array([*totals, *moves], np.int64)

    def interval(self, alpha: float) -> Interval:
        differences = self._differences()
        apart = np.abs(differences)
        if self.n < MIN_ASYMPTOTIC:
            estimate = self._distance(apart) if self.n else math.nan
            return Interval(estimate, 0.0, EVERYTHING.high)
        moves = self._counts[2:].sum(axis=0)
        variance = (moves + 1.0) / (self.n + 1.0) - differences**2  # one move more: never certain
        level = alpha / self._counts.shape[1]
        half = np.sqrt(np.maximum(variance, 0.0)) * boundary(self.n, level) / self.n
        low, high = np.maximum(apart - half, 0.0), apart + half
        return Interval(*(self._distance(each) for each in (apart, low, high)))

    def log_e(self) -> float:
        """Evidence that the distributions differ at all."""
        gained, lost = self._counts[2], self._counts[3]
        return average(log_e_fair(gained, lost).tolist())

    def log_e_above(self, limit: float) -> float:
        """Evidence of a change, if the distance is beyond the limit: significance and effect."""
        beyond = self.n > 0 and self._distance(np.abs(self._differences())) > limit
        return self.log_e() if beyond else min(self.log_e(), 0.0)

    def _differences(self) -> Floats:
        gained, lost = self._counts[2], self._counts[3]
        return np.asarray((gained - lost) / max(self.n, 1), np.float64)

    def _distance(self, apart: Floats) -> float:
        """apart: absolute difference of each bin's (for w1: each edge's cumulative) share."""
        bins = len(apart)
        if self._statistic == "w1":
            return float(np.minimum(apart, 1.0).sum() / max(bins - 1, 1))
        floor = 0.5 if self._statistic == "psi" else 0.0
        total = self.n + floor * bins
        middle = (self._counts[:2].mean(axis=0) + floor) / total
        half = np.minimum(apart * self.n / total / 2.0, middle - floor / total)
        return _psi(middle, half) if self._statistic == "psi" else _jensen_shannon(middle, half)

    def state(self) -> State:
        return {"counts": self._counts.ravel().tolist()}

    def restore(self, state: Mapping[str, Any]) -> Self:
        self._counts = np.asarray(state["counts"], np.int64).reshape(4, -1)
        return self


def _psi(middle: Floats, half: Floats) -> float:
    return float((2.0 * half * np.log((middle + half) / (middle - half))).sum())


def _jensen_shannon(middle: Floats, half: Floats) -> float:
    """Root of the divergence in bits of middle + half from middle - half."""
    total = 0.0
    for side in (middle + half, middle - half):
        held = side > 0
        total += 0.5 * float((side[held] * np.log2(side[held] / middle[held])).sum())
    return math.sqrt(max(total, 0.0))
