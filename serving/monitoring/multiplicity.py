"""Many e-values at once: one claim about all of them, or a claim about each.

E-values may depend on each other in any way. Looking again at any time is covered too: where every
null holds, the average of e-processes is an e-process, and `e_bh` names one only where that average
has reached 1/alpha.
"""

import math
from collections.abc import Sequence

import numpy as np


def average(log_e_values: Sequence[float]) -> float:
    """Log of the mean: an e-value for "every null holds" (Vovk & Wang 2021, section 3)."""
    if not len(log_e_values):
        return 0.0
    values = np.asarray(log_e_values, np.float64)
    top = float(values.max())
    if math.isinf(top):
        return top
    return top + math.log(float(np.exp(values - top).mean()))


def e_bh(log_e_values: Sequence[float], alpha: float, *, family: int | None = None) -> list[bool]:
    """Which nulls are rejected at false-discovery rate alpha (Wang & Ramdas 2022, the e-BH procedure).

    The k largest are, for the largest k whose k-th one is at least family / (alpha k). If every null
    holds, the probability that any is ever rejected is at most alpha. family: size of the family where
    it has members without evidence yet; never smaller than the number of values.
    """
    size = max(family or 0, len(log_e_values))
    order = sorted(range(len(log_e_values)), key=lambda i: -log_e_values[i])
    chosen = 0
    for k, index in enumerate(order, 1):
        if log_e_values[index] >= math.log(size / (alpha * k)):
            chosen = k
    rejected = set(order[:chosen])
    return [index in rejected for index in range(len(log_e_values))]
