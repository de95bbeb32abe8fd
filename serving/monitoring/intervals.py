"""The one form in which every sequential statistic says what it knows."""

import math
from dataclasses import dataclass

State = dict[str, float | int | list[float] | list[int]]
"""What JSON holds; floats come back with the same bits."""


@dataclass(frozen=True, slots=True)
class Interval:
    """low, high: anytime-valid at the level asked for; the whole range where nothing is known."""

    estimate: float
    low: float
    high: float

    def contains(self, value: float) -> bool:
        return self.low <= value <= self.high


EVERYTHING = Interval(math.nan, -math.inf, math.inf)
