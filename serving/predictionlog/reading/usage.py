"""Who used what, for charging it back: sums over the records of the prediction log.

A caller's compute time is its share, by rows, of the runs that its rows were in: the shares of all
records of a batch add up to the batch's run. Copies for candidates are nobody's use.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from serving.core.predictions import Fate, PredictionRecord

DIMENSIONS: Final = ("principal", "model", "version")
"""What sums can be kept apart by."""


@dataclass(slots=True)
class Usage:
    """Sums of one group. requests: admitted ones, whatever their fate. rows: answered ones."""

    group: tuple[str, ...]
    requests: int = 0
    answered: int = 0
    rows: int = 0
    compute_ms: float = 0.0

    def add(self, record: PredictionRecord) -> None:
        self.requests += 1
        if record.batch_size:
            self.compute_ms += record.run_us / 1e3 * record.rows / record.batch_size
        if record.fate is Fate.OK:
            self.answered += 1
            self.rows += record.rows


def usage(records: Iterable[PredictionRecord], by: Sequence[str]) -> list[Usage]:
    """The sums of `records` by `by`, some of `DIMENSIONS`; the group with most compute first."""
    found: dict[tuple[str, ...], Usage] = {}
    for record in records:
        if not record.asked:
            continue
        group = tuple([getattr(record, dimension) for dimension in by])
        known = found.get(group)
        if known is None:
            known = found[group] = Usage(group)
        known.add(record)
    return sorted(found.values(), key=lambda each: (-each.compute_ms, each.group))
