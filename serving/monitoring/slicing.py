"""Which rows belong to which slice, by the features that came with them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from serving.monitoring.observations import Column, Flags
from serving.monitoring.specification import OPEN_VALUES, Slice


@dataclass(frozen=True, slots=True)
class Cut:
    """One slice of one batch. rows: which of the batch's rows are in it."""

    name: str
    by: str
    protected: bool
    rows: Flags


class Slicer:
    """Cuts batches by the slices of a specification.

    A slice without edges and values distinguishes the first `OPEN_VALUES` values it meets; the state
    keeps which. `family` is how many slices there can ever be: corrections count on it.
    """

    def __init__(self, slices: Sequence[Slice]) -> None:
        self._slices = tuple(slices)
        self._values = {s.by: [text(v) for v in s.values] for s in slices if not s.edges}
        self._open = {s.by for s in slices if not s.edges and not s.values}

    @property
    def family(self) -> int:
        return sum(self._size(cut) for cut in self._slices)

    @property
    def family_of_protected(self) -> int:
        return sum(self._size(cut) for cut in self._slices if cut.protected)

    def cuts(self, features: Mapping[str, Column]) -> Iterator[Cut]:
        """Slices without a row in this batch are left out."""
        for cut in self._slices:
            if cut.by not in features:
                continue
            column = features[cut.by]
            names, places = (
                self._by_edges(cut, column) if cut.edges else self._by_values(cut, column)
            )
            for place in np.unique(places[places >= 0]).tolist():
                yield Cut(names[place], cut.by, cut.protected, places == place)

    def feature_of(self, name: str) -> str:
        """What the slice of this name is cut by; empty for no slice of this specification."""
        for cut in self._slices:
            found = name in edge_names(cut) if cut.edges else name.startswith(f"{cut.by}=")
            if found:
                return cut.by
        return ""

    def protects(self, name: str) -> bool:
        return self.feature_of(name) in {cut.by for cut in self._slices if cut.protected}

    def seen(self) -> dict[str, list[str]]:
        """The values that open slices have met, for the state."""
        return {by: list(self._values[by]) for by in sorted(self._open)}

    def resume(self, seen: Mapping[str, Sequence[str]]) -> None:
        self._values.update({by: list(values) for by, values in seen.items() if by in self._open})

    def _size(self, cut: Slice) -> int:
        if cut.edges:
            return len(cut.edges) + 1
        return len(cut.values) or OPEN_VALUES

    def _by_edges(self, cut: Slice, column: Column) -> tuple[list[str], NDArray[np.int64]]:
        values = column.astype(np.float64)
        places = np.searchsorted(np.asarray(cut.edges), values, side="right")
        return edge_names(cut), np.where(np.isnan(values), -1, places)

    def _by_values(self, cut: Slice, column: Column) -> tuple[list[str], NDArray[np.int64]]:
        met, inverse = np.unique(
            column.astype(str) if column.dtype == object else column, return_inverse=True
        )
        known = self._values[cut.by]
        spelled = [text(value) for value in met.tolist()]
        if cut.by in self._open:
            new = [value for value in spelled if value not in known]
            known.extend(new[: OPEN_VALUES - len(known)])
        places = np.array([known.index(v) if v in known else -1 for v in spelled], np.int64)
        return [f"{cut.by}={value}" for value in known], places[inverse.reshape(-1)]


def edge_names(cut: Slice) -> list[str]:
    edges = [text(edge) for edge in cut.edges]
    between = [f"{low}<={cut.by}<{high}" for low, high in pairwise(edges)]
    return [f"{cut.by}<{edges[0]}", *between, f"{cut.by}>={edges[-1]}"]


def text(value: object) -> str:
    """How a value stands in a slice's name: whole numbers without a point."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.15g}" if isinstance(value, float) else str(value)
