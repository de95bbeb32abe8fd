"""Selection rates on protected slices, and their ratios to a reference slice."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from serving.core.tensors import Array, numbers
from serving.monitoring.comparators import column_of
from serving.monitoring.fairness import Selected, anytime_interval, judge, log_e_below
from serving.monitoring.figures import Figure, bounded_exp
from serving.monitoring.measures import EXACT_RATE, Measure
from serving.monitoring.observations import Flags, PairBatch
from serving.monitoring.reading import Draft, known
from serving.monitoring.sequential import RateInterval
from serving.monitoring.slicing import Cut, Slicer
from serving.monitoring.specification import Selection
from serving.monitoring.tally import Tally

CANDIDATE: Final = Measure("selection_rate.candidate", RateInterval, EXACT_RATE)
PRIMARY: Final = Measure("selection_rate.primary", RateInterval, EXACT_RATE)
METHOD: Final = (
    "Katz interval of the ratio with asymptotic anytime-valid width; guard of four fifths"
)


def feed_selection(
    selection: Selection, batch: PairBatch, *, tally: Tally, ok: Flags, cuts: Sequence[Cut]
) -> None:
    """ok: rows that both versions answered. The shares of both are kept, the candidate's judged."""
    protected = [cut for cut in cuts if cut.protected]
    for measure, outputs in ((CANDIDATE, batch.candidate), (PRIMARY, batch.primary)):
        if selection.output in outputs:
            chosen = _selected(selection, outputs[selection.output][ok])
            tally.feed(measure, [chosen], where=ok, cuts=protected)


def ratio_drafts(
    selection: Selection, tally: Tally, *, slicer: Slicer, alpha: float
) -> Iterator[Draft]:
    """Of each protected slice with a reference slice of the same feature, other than itself."""
    rates = {name: rate for name, rate in tally.slices(CANDIDATE) if isinstance(rate, RateInterval)}
    references = {slicer.feature_of(name): name for name in selection.reference}
    for name, rate in rates.items():
        reference = references.get(slicer.feature_of(name))
        if reference is not None and reference != name and reference in rates:
            yield _draft(selection, name, rate, reference=rates[reference], alpha=alpha)


def _draft(
    selection: Selection, name: str, rate: RateInterval, *, reference: RateInterval, alpha: float
) -> Draft:
    group, other = Selected(rate.hits, rate.n), Selected(reference.hits, reference.n)
    interval = anytime_interval(group, other, alpha)
    log_e = log_e_below(group, other, selection.min_ratio)
    figure = Figure(
        name="selection_ratio",
        slice=name,
        protected=True,
        n=rate.n,
        estimate=known(interval.estimate),
        low=known(interval.low),
        high=known(interval.high),
        e_value=bounded_exp(log_e),
        limit=selection.min_ratio,
        sense="at_least",
        counts={
            "selected": group.selected,
            "n": group.n,
            "reference_selected": other.selected,
            "reference_n": other.n,
        },
        method=METHOD,
    )
    return Draft(figure, log_e, selection.min_ratio, judge(interval, selection.min_ratio))


def _selected(selection: Selection, output: Array) -> Flags:
    rows = numbers(output).reshape(len(output), -1).astype(np.float64)
    return np.asarray(column_of(rows, selection.column).astype(np.float64) >= selection.threshold)
