"""The A/A noise floor: how often the primary disagrees with itself.

A model on several threads or a GPU need not answer the same row twice alike. The same `Comparison`,
fed the primary against a second run of itself, counts that; the floor is added to the limit of the
candidate's disagreement, so that nondeterminism is not called a difference.

The floor is an estimate too. Half of alpha goes to its confidence sequence: a breach is judged against
the limit plus its upper end, "ok" against the limit plus its lower end. Both statements keep their
error rate at alpha however short the A/A run was; a short one only decides later.
"""

from msgspec import Struct

from serving.monitoring.intervals import Interval
from serving.monitoring.proportions import RateInterval


class NoiseFloor(Struct, frozen=True):
    """Of each `output.comparator`: disagreements and records of the A/A comparison."""

    counts: dict[str, tuple[int, int]] = {}

    def bounds(self, name: str, alpha: float) -> Interval:
        """Zero where nothing was measured: what was never looked at is no excuse."""
        if name not in self.counts:
            return Interval(0.0, 0.0, 0.0)
        rate = RateInterval()
        rate.add(*self.counts[name])
        return rate.interval(alpha)
