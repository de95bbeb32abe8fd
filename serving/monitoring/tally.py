"""The statistics of a comparison: one for each measure and slice, made when its first record comes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from serving.monitoring.figures import ALL
from serving.monitoring.measures import Measure, Statistic
from serving.monitoring.observations import Flags
from serving.monitoring.slicing import Cut


class Tally:
    def __init__(self) -> None:
        self._statistics: dict[str, dict[str, Statistic]] = {}

    def feed(
        self,
        measure: Measure,
        values: Sequence[NDArray[Any]],
        *,
        where: Flags,
        cuts: Sequence[Cut] = (),
    ) -> None:
        """values: what the statistic's `update` takes, of the rows in `where` only."""
        self.of(measure, ALL).update(*values)
        for cut in cuts:
            inside = cut.rows[where]
            if inside.any():
                self.of(measure, cut.name).update(*(column[inside] for column in values))

    def of(self, measure: Measure, on: str) -> Any:
        """The statistic of one slice; what it is, only the measure knows."""
        slices = self._statistics.setdefault(measure.name, {})
        if on not in slices:
            slices[on] = measure.new()
        return slices[on]

    def slices(self, measure: Measure) -> Iterator[tuple[str, Statistic]]:
        """All but the whole, by name."""
        found = self._statistics.get(measure.name, {})
        return ((name, found[name]) for name in sorted(found) if name != ALL)

    def state(self) -> dict[str, Any]:
        return {
            name: {on: statistic.state() for on, statistic in slices.items()}
            for name, slices in self._statistics.items()
        }

    def restore(self, measures: Sequence[Measure], state: Mapping[str, Any]) -> None:
        known = {measure.name: measure for measure in measures}
        self._statistics = {}
        for name, slices in state.items():
            for on, kept in slices.items():
                self.of(known[name], on).restore(kept)
