"""Means of numbers: bounded ones without assumption, unbounded ones in the limit of many.

Sums are accumulated record by record in float64, so that the same records in the same order give the
same bits however they were cut into batches.
"""

import math
import sys
from collections.abc import Mapping
from typing import Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike

from serving.monitoring.gammas import Floats
from serving.monitoring.intervals import EVERYTHING, Interval, State

MAX_BET: Final = 0.5
"""Upper end of lambda, as the paper advises (1/2 or 3/4)."""
ROUNDING: Final = 1e-12
FAR_TAIL: Final = -30.0
MAX_STANDARD: Final = 1e6
"""A standardised sum beyond this is evidence without end; its square must stay a number."""
DESIGN_ALPHA: Final = 0.05
"""The level for which the bets are tuned; every level is valid with them."""
MIN_ASYMPTOTIC: Final = 100
"""Below that many records an asymptotic statement says nothing."""
FULL_MIXTURE_AT: Final = 1000
"""The number of records at which the asymptotic interval is tightest."""


def running(start: float, values: Floats) -> Floats:
    """The sum before each value, and after the last one: one element more than `values`."""
    return np.add.accumulate(np.concatenate(([start], values)))


class MeanInterval:
    """Mean of numbers within [low, high]: the predictable plug-in empirical-Bernstein sequence.

    Waudby-Smith & Ramdas 2023, "Estimating means of bounded random variables by betting", theorem 2.
    Nothing is assumed but the bounds: if conditional means change, the interval covers their mean
    weighted by the bets. Depends on the order of records; not mergeable. Coverage at all times
    together is at least 1 - alpha; each side alone at least 1 - alpha/2.
    """

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        self._low = low
        self._width = high - low
        self._n = 0
        self._sum = 0.5
        self._squares = 0.25
        self._bets = 0.0
        self._won = 0.0
        self._paid = 0.0

    @property
    def n(self) -> int:
        return self._n

    def update(self, values: ArrayLike) -> None:
        """Raises ValueError for a number outside the bounds: the guarantee would be void."""
        x = (np.asarray(values, np.float64) - self._low) / self._width
        if not len(x):
            return
        if not (np.abs(x - 0.5) <= 0.5 + ROUNDING).all():
            raise ValueError(f"values must lie within {self._low}..{self._low + self._width}")
        counts = np.arange(self._n + 1, self._n + len(x) + 1, dtype=np.float64)
        sums = running(self._sum, x)
        # Means and variance before each record bet on it; the one after enters the variance.
        squares = running(self._squares, (x - sums[1:] / (counts + 1.0)) ** 2)
        variance = squares[:-1] / counts
        bets = np.sqrt(2.0 * math.log(2.0 / DESIGN_ALPHA) / (variance * counts * np.log1p(counts)))
        bets = np.minimum(bets, MAX_BET)
        surprise = (x - sums[:-1] / counts) ** 2
        # v psi = 4 (x - mean)^2 (-log(1 - bet) - bet) / 4
        self._paid = float(running(self._paid, surprise * (-np.log1p(-bets) - bets))[-1])
        self._won = float(running(self._won, bets * x)[-1])
        self._bets = float(running(self._bets, bets)[-1])
        self._sum, self._squares = float(sums[-1]), float(squares[-1])
        self._n += len(x)

    def interval(self, alpha: float) -> Interval:
        """The estimate is the plain mean, which may lie off the middle."""
        if not self._n:
            return Interval(math.nan, self._low, self._low + self._width)
        middle = self._won / self._bets
        half = (math.log(2.0 / alpha) + self._paid) / self._bets
        low, high = max(middle - half, 0.0), min(middle + half, 1.0)
        mean = (self._sum - 0.5) / self._n
        return Interval(*(self._low + self._width * at for at in (mean, low, high)))

    def log_e_above(self, limit: float) -> float:
        """Supermartingale while every conditional mean is at most `limit`; falls as it rises."""
        return self._won - self._bets * (limit - self._low) / self._width - self._paid

    def state(self) -> State:
        sums = [self._sum, self._squares, self._bets, self._won, self._paid]
        return {"n": self._n, "sums": sums}

    def restore(self, state: Mapping[str, Any]) -> Self:
        self._n = int(state["n"])
        self._sum, self._squares, self._bets, self._won, self._paid = map(float, state["sums"])
        return self


class AsymptoticInterval:
    """Mean of numbers without bounds, such as paired differences of log latencies.

    Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas 2024, "Time-uniform central limit theory and
    asymptotic confidence sequences", theorem 2.2: coverage at all times together tends to 1 - alpha as
    the first look moves out; before `MIN_ASYMPTOTIC` records nothing is said. Needs a finite variance
    (heavier tails: bound the values and take `MeanInterval`). Sums only: mergeable.
    """

    def __init__(self) -> None:
        self._n = 0
        self._shift = 0.0
        self._sum = 0.0
        self._squares = 0.0

    @property
    def n(self) -> int:
        return self._n

    @property
    def mean(self) -> float:
        return self._shift + self._sum / self._n if self._n else math.nan

    @property
    def variance(self) -> float:
        if not self._n:
            return math.nan
        return max(self._squares / self._n - (self._sum / self._n) ** 2, 0.0)

    def update(self, values: ArrayLike) -> None:
        """Raises ValueError for what is no finite number."""
        x = np.asarray(values, np.float64)
        if not len(x):
            return
        if not np.isfinite(x).all():
            raise ValueError("values must be finite")
        if not self._n:  # sums about the first value keep their digits
            self._shift = float(x[0])
        x = x - self._shift
        self._sum = float(running(self._sum, x)[-1])
        self._squares = float(running(self._squares, x * x)[-1])
        self._n += len(x)

    def merge(self, other: "AsymptoticInterval") -> None:
        if not other.n:
            return
        shift = self._shift if self._n else other.mean
        apart = other.mean - shift
        self._shift = shift
        self._sum += other.n * apart
        self._squares += other.n * (other.variance + apart * apart)
        self._n += other.n

    def interval(self, alpha: float) -> Interval:
        if self._n < MIN_ASYMPTOTIC:
            return Interval(self.mean, EVERYTHING.low, EVERYTHING.high)
        half = math.sqrt(self.variance) * boundary(self._n, alpha) / self._n
        return Interval(self.mean, self.mean - half, self.mean + half)

    def log_e_above(self, limit: float) -> float:
        if self._n < MIN_ASYMPTOTIC:
            return 0.0
        return one_sided(self._n * (self.mean - limit), self._n, self.variance)

    def state(self) -> State:
        return {"n": self._n, "sums": [self._shift, self._sum, self._squares]}

    def restore(self, state: Mapping[str, Any]) -> Self:
        self._n = int(state["n"])
        self._shift, self._sum, self._squares = map(float, state["sums"])
        return self


def mixing_variance(alpha: float) -> float:
    """rho^2 that makes the interval tightest at `FULL_MIXTURE_AT` records (appendix B.2)."""
    level = -2.0 * math.log(alpha)
    return (level + math.log(level + 1.0)) / FULL_MIXTURE_AT


def boundary(n: float, alpha: float) -> float:
    """What |sum of standardised values| stays below at all n together, with 1 - alpha (Robbins)."""
    rho = mixing_variance(alpha)
    scale = n * rho + 1.0
    return math.sqrt(2.0 * scale / rho * math.log(math.sqrt(scale) / alpha))


def one_sided(excess: float, n: float, variance: float) -> float:
    """Log of the evidence that the mean of n values exceeds a limit; falls as the limit rises.

    excess: the sum of values less n times the limit. The mixture over positive means of the normal
    likelihood ratio, half-normal with variance rho^2 (the same paper's one-sided form).
    """
    rho = mixing_variance(DESIGN_ALPHA)
    scale = n * rho + 1.0
    # Values that are all the same leave nothing uncertain but whether it stays so.
    deviation = math.sqrt(max(variance, sys.float_info.min))
    at = max(min(excess / deviation, MAX_STANDARD), -MAX_STANDARD) * math.sqrt(rho / scale)
    return math.log(2.0 / math.sqrt(scale)) + _log_tilted_normal(at)


def _log_tilted_normal(z: float) -> float:
    """Log of exp(z^2 / 2) times the standard normal distribution function."""
    if z > FAR_TAIL:
        return z * z / 2.0 + math.log(0.5 * math.erfc(-z / math.sqrt(2.0)))
    return -math.log(-z * math.sqrt(2.0 * math.pi))
