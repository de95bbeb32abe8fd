"""From a statistic to the figure that is judged."""

import math
from dataclasses import dataclass

from serving.monitoring.distributions import BinShift
from serving.monitoring.figures import Figure, Status, bounded_exp
from serving.monitoring.intervals import Interval
from serving.monitoring.measures import Measure, Statistic, in_units
from serving.monitoring.proportions import RateInterval, WinEvidence


@dataclass(frozen=True, slots=True)
class Draft:
    """A figure before all of them are judged together.

    log_e: of its e-value, without the bound. safe: the limit that "ok" is judged by. guard: what
    the measure's own rule says, where it has one.
    """

    figure: Figure
    log_e: float
    safe: float | None = None
    guard: Status | None = None


def read(
    measure: Measure, statistic: Statistic, *, on: str, protected: bool, alpha: float
) -> Draft:
    """on: name of the slice. alpha: of the interval."""
    interval = statistic.interval(alpha)
    if measure.logarithmic:
        interval = Interval(*map(_exp, (interval.estimate, interval.low, interval.high)))
    log_e = _evidence(measure, statistic)
    figure = Figure(
        name=measure.name,
        slice=on,
        protected=protected,
        n=statistic.n,
        estimate=known(interval.estimate),
        low=known(interval.low),
        high=known(interval.high),
        e_value=bounded_exp(log_e),
        limit=measure.limit,
        sense=measure.sense,
        counts=_counts(statistic),
        method=measure.method,
    )
    return Draft(figure, log_e, measure.safe, _guard(measure, statistic, alpha))


def known(value: float) -> float | None:
    """JSON has no infinity and no NaN: None."""
    return value if math.isfinite(value) else None


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0)) if value < math.inf else value


def _evidence(measure: Measure, statistic: Statistic) -> float:
    if measure.limit is None:
        return 0.0
    if isinstance(statistic, WinEvidence):
        return statistic.log_e_inferior()
    return statistic.log_e_above(in_units(measure, measure.limit))


def _guard(measure: Measure, statistic: Statistic, alpha: float) -> Status | None:
    """One-sided evidence says sooner than an interval that a candidate is not inferior."""
    if not isinstance(statistic, WinEvidence) or measure.limit is None:
        return None
    shown = statistic.log_e_noninferior() >= math.log(1.0 / alpha)
    return "ok" if shown else "insufficient"


def _counts(statistic: Statistic) -> dict[str, int]:
    if isinstance(statistic, RateInterval):
        return {"hits": statistic.hits, "n": statistic.n}
    if isinstance(statistic, WinEvidence):
        return {"wins": statistic.wins, "losses": statistic.losses}
    return {"n": statistic.n} if isinstance(statistic, BinShift) else {}
