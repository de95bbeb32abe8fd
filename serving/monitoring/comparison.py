"""A running comparison of one candidate with one primary.

Fed with pairs, losses and counts in the order in which they were recorded, it gives its figures and
its decision at any time. Everything it knows is in `state()`, which is JSON: a comparison restored
from it goes on as if it had never stopped. No figure depends on how records were cut into batches,
but for which values an open slice distinguishes when one batch brings too many.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from serving.core.tensors import TensorSpecification
from serving.monitoring.deciding import decide, judge
from serving.monitoring.figures import ALL, Decision, Figure
from serving.monitoring.measures import BinMeasure, Measure, OutputMeasure, floor_alpha, plan
from serving.monitoring.noise import NoiseFloor
from serving.monitoring.observations import Flags, LossBatch, PairBatch, PairCounts
from serving.monitoring.reading import Draft, read
from serving.monitoring.selecting import CANDIDATE, PRIMARY, feed_selection, ratio_drafts
from serving.monitoring.slicing import Cut, Slicer
from serving.monitoring.specification import ComparisonSpecification
from serving.monitoring.tally import Tally

__all__ = ["Comparison", "Decision", "Figure", "LossBatch", "NoiseFloor", "PairBatch", "PairCounts"]


US_PER_MS: Final = 1000.0


class Comparison:
    """outputs: as the model declares them. floor: of an A/A comparison, `noise()` of it."""

    def __init__(
        self,
        specification: ComparisonSpecification,
        outputs: tuple[TensorSpecification, ...],
        *,
        floor: NoiseFloor | None = None,
    ) -> None:
        """Raises SpecificationInvalid where the specification names an unknown output."""
        self._specification = specification
        self._plan = plan(specification, outputs, floor)
        self._alpha = floor_alpha(specification, floor)
        self._slicer = Slicer(specification.slices)
        self._tally = Tally()
        self._pairs = 0
        self._outcomes = 0

    @property
    def pairs(self) -> int:
        """Rows (with unit `request`: requests) that the primary answered."""
        return self._pairs

    @property
    def outcomes(self) -> int:
        return self._outcomes

    def add_pairs(self, batch: PairBatch) -> None:
        firsts = batch.firsts
        counted = (
            batch.primary_ok if self._specification.unit == "row" else batch.primary_ok & firsts
        )
        cuts = list(self._slicer.cuts(batch.features))
        self._pairs += int(np.count_nonzero(counted))
        both = counted & batch.candidate_ok
        for each in self._plan.outputs:
            self._compare(each, batch, both=both, cuts=cuts)
        for bins in self._plan.bins:
            self._bin(bins, batch, both=both, cuts=cuts)
        self._count_requests(batch, asked=batch.primary_ok & firsts, cuts=cuts)
        if self._specification.selection is not None:
            feed_selection(
                self._specification.selection, batch, tally=self._tally, ok=both, cuts=cuts
            )

    def add_losses(self, batch: LossBatch) -> None:
        """Of rows whose pairs were added before or will be; each row once."""
        cuts = list(self._slicer.cuts(batch.features))
        difference = np.asarray(batch.candidate - batch.primary, np.float64)
        everywhere = np.ones(batch.rows, bool)
        self._outcomes += batch.rows
        self._tally.feed(self._plan.loss, [difference], where=everywhere, cuts=cuts)
        self._tally.feed(self._plan.wins, [-difference], where=everywhere, cuts=cuts)

    def add_counts(self, counts: PairCounts) -> None:
        self._tally.of(self._plan.missing, ALL).add(counts.missing, counts.expected)

    def figures(self) -> tuple[Figure, ...]:
        """Of all records first, then by slice."""
        sliced, missing = self._plan.sliced, self._plan.missing
        slices = [draft for measure in sliced for draft in self._slices(measure)]
        selection = self._specification.selection
        if selection is not None:
            slices += [draft for m in (PRIMARY, CANDIDATE) for draft in self._slices(m)]
            slices += ratio_drafts(selection, self._tally, slicer=self._slicer, alpha=self._alpha)
        whole = [self._whole(measure) for measure in sliced]
        if self._tally.of(missing, ALL).n:
            whole.append(self._whole(missing))
        families = self._families()
        return judge(whole, slices, alpha=self._alpha, families=families)

    def decide(self) -> Decision:
        return decide(
            self.figures(), self._specification, pairs=self._pairs, outcomes=self._outcomes
        )

    def noise(self) -> NoiseFloor:
        """Disagreements of this comparison, for one that was fed the primary against itself."""
        found = {}
        for each in self._plan.outputs:
            rate = self._tally.of(each.disagreement, ALL)
            found[each.disagreement.name] = (rate.hits, rate.n)
        return NoiseFloor(found)

    def state(self) -> dict[str, Any]:
        return {
            "specification": self._specification.digest(),
            "pairs": self._pairs,
            "outcomes": self._outcomes,
            "values": self._slicer.seen(),
            "statistics": self._tally.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError for the state of another specification."""
        if state["specification"] != self._specification.digest():
            raise ValueError("this is the state of a comparison with another specification")
        self._pairs, self._outcomes = int(state["pairs"]), int(state["outcomes"])
        self._slicer.resume(state["values"])
        measures = (*self._plan.sliced, self._plan.missing, CANDIDATE, PRIMARY)
        self._tally.restore(measures, state["statistics"])

    def _compare(
        self, each: OutputMeasure, batch: PairBatch, *, both: Flags, cuts: Sequence[Cut]
    ) -> None:
        if each.output not in batch.primary or each.output not in batch.candidate:
            return
        found = each.comparator.compare(
            batch.primary[each.output][both], batch.candidate[each.output][both]
        )
        self._tally.feed(each.disagreement, [found.disagrees], where=both, cuts=cuts)
        if each.score is not None:
            self._tally.feed(each.score, [found.score], where=both, cuts=cuts)

    def _bin(self, each: BinMeasure, batch: PairBatch, *, both: Flags, cuts: Sequence[Cut]) -> None:
        if each.output not in batch.primary or each.output not in batch.candidate:
            return
        sides = (batch.primary[each.output][both], batch.candidate[each.output][both])
        bins = [each.comparator.bins(side) for side in sides]
        self._tally.feed(each.measure, bins, where=both, cuts=cuts)

    def _count_requests(self, batch: PairBatch, *, asked: Flags, cuts: Sequence[Cut]) -> None:
        """asked: the first row of each request that the primary answered."""
        failed = ~batch.candidate_ok[asked]
        self._tally.feed(self._plan.failure, [failed], where=asked, cuts=cuts)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.log(batch.candidate_us / batch.primary_us)
        timed = asked & batch.candidate_ok & np.isfinite(ratio)
        self._tally.feed(self._plan.latency, [ratio[timed]], where=timed, cuts=cuts)
        delay_ms = (batch.candidate_us - batch.primary_us)[timed] / US_PER_MS
        self._tally.feed(self._plan.delay, [delay_ms], where=timed, cuts=cuts)

    def _whole(self, measure: Measure) -> Draft:
        statistic = self._tally.of(measure, ALL)
        return read(measure, statistic, on=ALL, protected=False, alpha=self._alpha)

    def _slices(self, measure: Measure) -> Iterator[Draft]:
        for name, statistic in self._tally.slices(measure):
            protected = self._slicer.protects(name)
            yield read(measure, statistic, on=name, protected=protected, alpha=self._alpha)

    def _families(self) -> tuple[int, int]:
        """How many limits there are to break: on all records, and on slices."""
        limited = [m for m in self._plan.sliced if m.limit is not None]
        ratios = 0 if self._specification.selection is None else self._slicer.family_of_protected
        missing = self._plan.missing.limit is not None
        return len(limited) + missing, len(limited) * self._slicer.family + ratios
