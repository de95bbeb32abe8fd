"""Learns which batch size runs a model fastest.

The cost of a run is not affine in its rows (caches, tiles), and the largest batch is often not the
best: so the table S(rows) is kept, measured at warm-up and refreshed from real runs. The choice is
the size with the most rows per second among those whose two runs (one waited for, one's own) fit
the latency objective; it changes only for a gain that is worth a change.
"""

from typing import Final

from serving.core.models import BatchLimits

SIZES: Final = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_SMOOTHING: Final = 0.02
_WORTHWHILE: Final = 1.1
_OUTLIER: Final = 2.0
"""A run that took longer than this many times the known cost says something about the machine."""


class BatchProfile:
    """The table of one model version. Times are seconds."""

    def __init__(self, limits: BatchLimits) -> None:
        self.sizes = tuple(size for size in SIZES if size <= limits.max_batch_size)
        self._limits = limits
        self._per_row_s: dict[int, float] = {}
        self._best = limits.max_batch_size

    @property
    def best_rows(self) -> int:
        """How many rows a batch should have when that many wait."""
        return self._best

    @property
    def table(self) -> dict[int, float]:
        """Measured seconds per run by batch size."""
        return {size: cost * size for size, cost in sorted(self._per_row_s.items())}

    def fits(self, size: int) -> bool:
        """Whether two runs of this size fit the latency objective; True while unmeasured."""
        cost = self._per_row_s.get(size)
        return cost is None or 2 * cost * size <= self._limits.latency_objective_ms / 1000

    def measured(self, rows: int, seconds: float) -> None:
        """Takes the best of several warm-up runs of one size as its cost."""
        self._per_row_s[rows] = seconds / rows
        self._choose()

    def ran(self, rows: int, seconds: float) -> None:
        """Refreshes the nearest size below `rows` from a real run."""
        size = max((size for size in self.sizes if size <= rows), default=1)
        old = self._per_row_s.get(size)
        if old is None:
            return
        cost = min(seconds / rows, _OUTLIER * old)
        self._per_row_s[size] = old + _SMOOTHING * (cost - old)
        if size >= self._best:
            self._choose()

    def _choose(self) -> None:
        candidates = [size for size in self._per_row_s if size == 1 or self.fits(size)]
        best = min(candidates, key=lambda size: self._per_row_s[size], default=self._best)
        present = self._per_row_s.get(self._best)
        keep = present is not None and self.fits(self._best)
        if not keep or self._per_row_s[best] * _WORTHWHILE < (present or 0.0):
            self._best = best
