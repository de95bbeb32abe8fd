"""Gates: from counts and figures to ok, breach or insufficient, with every number shown. Pure.

A breach is significant and large: the estimate is beyond the limit, and the anytime-valid intervals of
candidate and stable version do not touch (for a figure of a comparison: its interval lies beyond the
limit). A gate is ok when there are enough requests and the estimate is within the limit. Anything
between is insufficient: a rollout neither advances nor ends on it, it waits. Intervals hold at the
error rate that is asked for however often they are looked at (`monitoring.proportions`), so reading a
gate every second costs nothing.

Latency is judged by the whole distribution: slower is significant where, below some bound of the
histogram, the candidate has surely a smaller share of its requests than the stable version; the error
rate is divided among the bounds. The limit is for the ratio of the 95th percentiles, interpolated.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.governance.rollout_plans import FIGURES
from serving.monitoring.comparators import RowComparator
from serving.monitoring.distributions import Statistic
from serving.monitoring.figures import ALL, Figure
from serving.monitoring.proportions import rate_bounds

Status = Literal["ok", "breach", "insufficient"]

QUANTILE: Final = 0.95
LEAST_ROWS: Final = 100
"""A figure of fewer, such as that of a small slice, holds nobody up; it can only break a gate."""
LEAST_SLOWER_S: Final = 0.001
"""What nobody waits for is no harm, whatever the ratio."""
COMPARISON: Final = "comparison"
"""The gate that every comparison answers: whether it rejects the candidate."""
_LOSS: Final = "loss_difference"
_RATIO: Final = "selection_ratio"
_DRIFT: Final = frozenset(get_args(Statistic))
_ANSWERS: Final = frozenset(kind.__struct_config__.tag for kind in get_args(RowComparator))
"""Measures of distributions, and of rows that are answered otherwise, as figures name them."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What a version did for callers over some time. failed: for a reason of ours. buckets: how many
    answers took at most each of the bounds, and how many there were."""

    ok: int = 0
    failed: int = 0
    buckets: tuple[int, ...] = ()

    @property
    def n(self) -> int:
        return self.ok + self.failed


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One gate as it was read. value: the estimate that is held against the limit. low, high: its
    interval. n: what the candidate was judged by, beside: the same of the stable version."""

    gate: str
    status: Status
    limit: float
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    beside: int = 0
    detail: str = ""


def read_errors(
    candidate: Counts, stable: Counts, *, limit: float, least: int, alpha: float
) -> Reading:
    """Failure rate of the candidate minus that of the stable version. least: requests to be ok."""
    if not candidate.n or not stable.n:
        return _nothing("errors", limit, candidate, stable)
    hits, trials = np.array([candidate.failed, stable.failed]), np.array([candidate.n, stable.n])
    low, high = rate_bounds(hits, trials, alpha / 2)
    value = candidate.failed / candidate.n - stable.failed / stable.n
    surely = float(low[0] - high[1])
    return Reading(
        gate="errors",
        status=_status(beyond=value > limit, sure=surely > 0, enough=candidate.n >= least),
        limit=limit,
        value=value,
        low=surely,
        high=float(high[0] - low[1]),
        n=candidate.n,
        beside=stable.n,
        detail=f"{candidate.failed} of {candidate.n} failed, beside {stable.failed} of {stable.n}",
    )


def read_latency(
    candidate: Counts,
    stable: Counts,
    bounds_s: Sequence[float],
    *,
    limit: float,
    least: int,
    alpha: float,
) -> Reading:
    """95th percentile of the candidate over that of the stable version."""
    mine, theirs = np.array(candidate.buckets, int), np.array(stable.buckets, int)
    if not candidate.ok or not stable.ok or len(mine) <= len(bounds_s):
        return _nothing("latency", limit, candidate, stable)
    own_s, their_s = _quantile(mine, bounds_s), _quantile(theirs, bounds_s)
    share = alpha / (2 * len(bounds_s))
    _, at_most = rate_bounds(mine[:-1], np.full(len(bounds_s), mine[-1]), share)
    at_least, _ = rate_bounds(theirs[:-1], np.full(len(bounds_s), theirs[-1]), share)
    value = own_s / their_s
    return Reading(
        gate="latency",
        status=_status(
            beyond=value > limit and own_s - their_s > LEAST_SLOWER_S,
            sure=bool((at_most < at_least).any()),
            enough=int(mine[-1]) >= least,
        ),
        limit=limit,
        value=value,
        n=int(mine[-1]),
        beside=int(theirs[-1]),
        detail=f"95th percentile {own_s * 1e3:.3g} ms beside {their_s * 1e3:.3g} ms",
    )


def read_figure(gate: str, figures: Iterable[Figure], *, limit: float) -> Reading:
    """The worst figure that the gate is about. gate: one of `rollout_plans.FIGURES`."""
    about = [figure for figure in figures if _is_about(gate, figure)]
    held = [_held(gate, figure, limit) for figure in about]
    readings = [each for each in held if each.status == "breach" or each.n >= LEAST_ROWS]
    if not readings:
        return Reading(
            gate=gate,
            status="insufficient",
            limit=limit,
            detail="no comparison says anything of it",
        )
    return worst(readings)


def read_comparison(figures: Iterable[Figure]) -> Reading:
    """Whether a figure is beyond the limit that the comparison itself has for it."""
    broken = [figure for figure in figures if figure.status == "breach"]
    if not broken:
        return Reading(gate=COMPARISON, status="ok", limit=0.0)
    first = broken[0]
    return Reading(
        gate=COMPARISON,
        status="breach",
        limit=0.0 if first.limit is None else first.limit,
        value=first.estimate,
        low=first.low,
        high=first.high,
        n=first.n,
        detail=_called(first),
    )


def worst(readings: Sequence[Reading]) -> Reading:
    """A breach before what is insufficient, that before what is ok; then by how close it is."""
    order = {"breach": 0, "insufficient": 1, "ok": 2}
    return min(readings, key=lambda each: (order[each.status], -_closeness(each)))


def read_figures(limits: Mapping[str, float], figures: Sequence[Figure]) -> list[Reading]:
    """Every gate that a comparison answers, of those that have a limit."""
    return [read_figure(gate, figures, limit=limits[gate]) for gate in FIGURES if gate in limits]


def _status(*, beyond: bool, sure: bool, enough: bool) -> Status:
    if beyond:
        return "breach" if sure else "insufficient"
    return "ok" if enough else "insufficient"


def _nothing(gate: str, limit: float, candidate: Counts, stable: Counts) -> Reading:
    detail = f"{candidate.n} requests beside {stable.n}"
    return Reading(
        gate=gate,
        status="insufficient",
        limit=limit,
        n=candidate.n,
        beside=stable.n,
        detail=detail,
    )


def _quantile(buckets: NDArray[np.int_], bounds: Sequence[float]) -> float:
    """Interpolated within its bucket; beyond the last bound, that bound."""
    wanted = QUANTILE * int(buckets[-1])
    index = int(np.searchsorted(buckets, wanted))
    if index >= len(bounds):
        return float(bounds[-1])
    low = float(bounds[index - 1]) if index else 0.0
    below = int(buckets[index - 1]) if index else 0
    within = float(wanted - below) / max(int(buckets[index]) - below, 1)
    return low + (float(bounds[index]) - low) * within


def _held(gate: str, figure: Figure, limit: float) -> Reading:
    """A figure against the plan's limit; of one that must be large enough, its shortfall."""
    turned = figure.sense == "at_least"
    value, low, high = (
        None if each is None else (1.0 - each if turned else each)
        for each in (
            figure.estimate,
            figure.high if turned else figure.low,
            figure.low if turned else figure.high,
        )
    )
    if value is None or not math.isfinite(value):
        status: Status = "insufficient"
    elif value > limit:
        status = "breach" if low is not None and low > limit else "insufficient"
    else:
        # A ratio of few people has an interval that says nothing, whatever its value.
        status = "insufficient" if turned and figure.status == "insufficient" else "ok"
    return Reading(
        gate=gate,
        status=status,
        limit=limit,
        value=value,
        low=low,
        high=high,
        n=figure.n,
        detail=_called(figure),
    )


def _is_about(gate: str, figure: Figure) -> bool:
    measure = figure.name.rpartition(".")[2]
    if gate == "fairness":
        return figure.slice != ALL and measure in {_RATIO, *_ANSWERS}
    if figure.slice != ALL:
        return False
    if gate == "loss":
        return measure == _LOSS
    return measure in (_DRIFT if gate == "drift" else _ANSWERS)


def _called(figure: Figure) -> str:
    return figure.name if figure.slice == ALL else f"{figure.name} where {figure.slice}"


def _closeness(reading: Reading) -> float:
    if reading.value is None:
        return 0.0
    return reading.value / reading.limit if reading.limit else reading.value
