"""What a specification makes a comparison measure: each measure's statistic, limit and method."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from serving.core.tensors import TensorSpecification
from serving.errors import SpecificationInvalid
from serving.monitoring.comparators import (
    DistributionDistance,
    LabelFlip,
    RowComparator,
    default_for,
)
from serving.monitoring.distributions import BinShift
from serving.monitoring.figures import Sense
from serving.monitoring.losses import BOUNDED
from serving.monitoring.noise import NoiseFloor
from serving.monitoring.sequential import (
    AsymptoticInterval,
    MeanInterval,
    RateInterval,
    WinEvidence,
)
from serving.monitoring.specification import ComparisonSpecification, OutputComparison

Statistic = RateInterval | MeanInterval | AsymptoticInterval | WinEvidence | BinShift

EXACT_RATE: Final = "beta-binomial confidence sequence and one-sided mixture; exact"
BOUNDED_MEAN: Final = "empirical-Bernstein confidence sequence; exact for bounded values"
UNBOUNDED_MEAN: Final = "asymptotic confidence sequence; finite variance, 100 records or more"
DISCORDANT: Final = "e-process on discordant outcomes, beta(1/2,1/2) mixture; exact"
BINNED: Final = "e-values per bin averaged (exact); interval asymptotic"


@dataclass(frozen=True, slots=True)
class Measure:
    """limit: beyond it lies a breach. safe: within it lies "ok"; they differ by the noise floor.

    logarithmic: the statistic holds logarithms of what the figure shows.
    """

    name: str
    new: Callable[[], Statistic]
    method: str
    limit: float | None = None
    safe: float | None = None
    sense: Sense = "at_most"
    logarithmic: bool = False


@dataclass(frozen=True, slots=True)
class OutputMeasure:
    """score: None for a comparator whose score says the same as its disagreement."""

    output: str
    comparator: RowComparator
    disagreement: Measure
    score: Measure | None


@dataclass(frozen=True, slots=True)
class BinMeasure:
    output: str
    comparator: DistributionDistance
    measure: Measure


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a comparison measures on every slice; `missing` on the whole only."""

    outputs: tuple[OutputMeasure, ...]
    bins: tuple[BinMeasure, ...]
    failure: Measure
    latency: Measure
    delay: Measure
    loss: Measure
    wins: Measure
    missing: Measure

    @property
    def sliced(self) -> tuple[Measure, ...]:
        rows = [m for o in self.outputs for m in (o.disagreement, o.score) if m is not None]
        rest = (self.failure, self.latency, self.delay, self.loss, self.wins)
        return (*rows, *(bins.measure for bins in self.bins), *rest)


def plan(
    specification: ComparisonSpecification,
    declared: tuple[TensorSpecification, ...],
    floor: NoiseFloor | None,
) -> Plan:
    """Raises SpecificationInvalid where the specification names an output that is not declared."""
    limits = specification.limits
    outputs, bins = _outputs(specification, declared, floor)
    return Plan(
        outputs=outputs,
        bins=bins,
        failure=_limited("failure", RateInterval, EXACT_RATE, limits.max_failure),
        latency=_latency(limits.max_latency_ratio),
        delay=_limited(
            "latency_difference_ms",
            AsymptoticInterval,
            UNBOUNDED_MEAN,
            limits.max_latency_difference_ms,
        ),
        loss=_loss(specification),
        wins=_wins(limits.win_margin),
        missing=_limited("missing", RateInterval, EXACT_RATE, limits.max_missing),
    )


def floor_alpha(specification: ComparisonSpecification, floor: NoiseFloor | None) -> float:
    """What of alpha is left for the tests: half, where the floor's interval takes the other."""
    used = floor is not None and specification.noise_floor
    return specification.alpha / 2.0 if used else specification.alpha


def _limited(name: str, new: Callable[[], Statistic], method: str, limit: float | None) -> Measure:
    return Measure(name, new, method, limit, limit)


def _latency(limit: float | None) -> Measure:
    measure = _limited("latency_ratio", AsymptoticInterval, UNBOUNDED_MEAN, limit)
    return replace(measure, logarithmic=True)


def _wins(margin: float | None) -> Measure:
    limit = None if margin is None else 0.5 - margin
    measure = _limited("wins", lambda: WinEvidence(margin or 0.0), DISCORDANT, limit)
    return replace(measure, sense="at_least")


def _loss(specification: ComparisonSpecification) -> Measure:
    limit = specification.limits.max_loss_difference
    if specification.loss in BOUNDED:
        return _limited("loss_difference", lambda: MeanInterval(-1.0, 1.0), BOUNDED_MEAN, limit)
    return _limited("loss_difference", AsymptoticInterval, UNBOUNDED_MEAN, limit)


def _outputs(
    specification: ComparisonSpecification,
    declared: tuple[TensorSpecification, ...],
    floor: NoiseFloor | None,
) -> tuple[tuple[OutputMeasure, ...], tuple[BinMeasure, ...]]:
    known = {output.name: output for output in declared}
    named = [s.output for s in specification.outputs]
    named += [specification.selection.output] if specification.selection is not None else []
    for output in named:
        if output not in known:
            raise SpecificationInvalid(
                f"comparison: the model has no output {output!r}; it has: {', '.join(known)}"
            )
    _check_selection(specification, known)
    chosen = specification.outputs or tuple(OutputComparison(output=name) for name in known)
    rows, bins = [], []
    for each in chosen:
        comparator = each.comparator or default_for(known[each.output])
        if isinstance(comparator, DistributionDistance):
            bins.append(_bins(each.output, comparator))
        else:
            rows.append(_rows(each, comparator, specification, floor))
    return tuple(rows), tuple(bins)


def _check_selection(
    specification: ComparisonSpecification, known: Mapping[str, TensorSpecification]
) -> None:
    selection = specification.selection
    if selection is not None and known[selection.output].datatype == "BYTES":
        raise SpecificationInvalid(
            f"comparison: selection needs numbers, and output {selection.output!r} is text"
        )


def _bins(output: str, comparator: DistributionDistance) -> BinMeasure:
    statistic, bins = comparator.statistic, len(comparator.edges) + 1
    name = f"{output}.{statistic}"
    measure = _limited(name, lambda: BinShift(statistic, bins), BINNED, comparator.limit)
    return BinMeasure(output, comparator, measure)


def _rows(
    each: OutputComparison,
    comparator: RowComparator,
    specification: ComparisonSpecification,
    floor: NoiseFloor | None,
) -> OutputMeasure:
    name = f"{each.output}.{comparator.__struct_config__.tag}"
    limit = specification.limits.max_disagreement
    if each.max_disagreement is not None:
        limit = each.max_disagreement
    safe = limit
    if limit is not None and floor is not None and specification.noise_floor:
        noise = floor.bounds(name, specification.alpha / 2.0)
        limit, safe = min(limit + noise.high, 1.0), min(limit + noise.low, 1.0)
    disagreement = Measure(name, RateInterval, EXACT_RATE, limit, safe)
    score = None
    if not isinstance(comparator, LabelFlip):
        mean = each.max_mean_score
        score = _limited(f"{name}.score", MeanInterval, BOUNDED_MEAN, mean)
    return OutputMeasure(each.output, comparator, disagreement, score)


def in_units(measure: Measure, value: float) -> float:
    """A limit in the statistic's own units."""
    return math.log(value) if measure.logarithmic else value
