"""Selection rates of two groups, divided: how likely each is to be selected, beside the other.

Needs no outcomes, and says nothing about who deserved what. The interval is Katz's on the logarithm;
looked at any time, its width comes from the asymptotic confidence sequence of `monitoring.means`
instead of a normal quantile, at the same standard error. Small groups give false alarms on the point
value (30 of a minority: 13 to 42 % at equal rates), hence the guard: see `judge`.
"""

import math
from dataclasses import dataclass
from typing import Final

from serving.monitoring.figures import Status
from serving.monitoring.intervals import Interval
from serving.monitoring.means import MIN_ASYMPTOTIC, boundary, one_sided

MAX_WIDTH: Final = 0.4
"""An interval of the ratio wider than this says too little."""


@dataclass(frozen=True, slots=True)
class Selected:
    """selected of n were."""

    selected: int
    n: int


def ratio_interval(group: Selected, reference: Selected, deviations: float) -> Interval:
    """Katz: exp(ln ratio ± deviations x standard error); 1.96 for one look at 95 %.

    Half a count is added to both where one of them selected nobody or everybody.
    """
    ratio, error = _log_ratio(group, reference)
    spread = deviations * error
    return Interval(math.exp(ratio), math.exp(ratio - spread), math.exp(min(ratio + spread, 700.0)))


def anytime_interval(group: Selected, reference: Selected, alpha: float) -> Interval:
    """At all times together with 1 - alpha; nothing before `MIN_ASYMPTOTIC` records of both."""
    total = group.n + reference.n
    if not (group.n and reference.n) or total < MIN_ASYMPTOTIC:
        return Interval(math.nan, 0.0, math.inf)
    return ratio_interval(group, reference, boundary(total, alpha) / math.sqrt(total))


def log_e_below(group: Selected, reference: Selected, limit: float) -> float:
    """Evidence that the ratio lies below the limit."""
    total = group.n + reference.n
    if not (group.n and reference.n) or total < MIN_ASYMPTOTIC:
        return 0.0
    ratio, error = _log_ratio(group, reference)
    return one_sided(total * (math.log(limit) - ratio), total, total * error * error)


def judge(interval: Interval, limit: float) -> Status:
    """Breach only if the whole interval is below; of a wide one, that it is too wide."""
    if interval.high < limit:
        return "breach"
    if math.isnan(interval.estimate) or interval.high - interval.low > MAX_WIDTH:
        return "insufficient"
    return "warn" if interval.estimate < limit else "ok"


def _log_ratio(group: Selected, reference: Selected) -> tuple[float, float]:
    """Logarithm of the ratio, and its standard error."""
    extreme = any(each.selected in (0, each.n) for each in (group, reference))
    add = 0.5 if extreme else 0.0
    rates = [(each.selected + add) / (each.n + 2 * add) for each in (group, reference)]
    variance = sum(
        (1.0 - rate) / ((each.n + 2 * add) * rate)
        for rate, each in zip(rates, (group, reference), strict=True)
    )
    return math.log(rates[0] / rates[1]), math.sqrt(variance)
