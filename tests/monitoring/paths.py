"""Sequential statistics written a second time: as paths over many runs at once, for simulations."""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def bernstein_paths(
    values: Floats, *, low: float, high: float, alpha: float
) -> tuple[Floats, Floats]:
    """Ends of the empirical-Bernstein sequence after each record; values: (runs, records)."""
    x = (values - low) / (high - low)
    runs, records = x.shape
    total, squares = np.full(runs, 0.5), np.full(runs, 0.25)
    bets, won, paid = np.zeros(runs), np.zeros(runs), np.zeros(runs)
    lows, highs = np.empty(x.shape), np.empty(x.shape)
    for t in range(1, records + 1):
        now = x[:, t - 1]
        mean, variance = total / t, squares / t
        bet = np.minimum(np.sqrt(2 * math.log(2 / 0.05) / (variance * t * math.log(1 + t))), 0.5)
        paid += 4 * (now - mean) ** 2 * (-np.log(1 - bet) - bet) / 4
        won += bet * now
        bets += bet
        total += now
        squares += (now - total / (t + 1)) ** 2
        reach = (math.log(2 / alpha) + paid) / bets
        lows[:, t - 1], highs[:, t - 1] = won / bets - reach, won / bets + reach
    width = high - low
    return low + width * np.maximum(lows, 0.0), low + width * np.minimum(highs, 1.0)
