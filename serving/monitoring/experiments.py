"""The readout of an A/B test: what each arm's answers were worth, and how sure that is.

Arms see different callers, so nothing is paired. What is compared is the mean over units (whom chance put
on a side, see `serving.ledger.trials`), the candidate's less the stable version's, in confidence
sequences: look as often as you like, stop when you like. All candidates together keep alpha, and all
slices together once more; the sample-ratio test has an alpha of its own. Where it breaks, or callers
were on both sides, no difference is believed: something other than chance decided who came here.

    loss_difference       in the limit of many units; nothing is said below 100 in an arm
    latency_difference    the same, in milliseconds, of answered requests
    failure_difference    exact, of requests
    sample_ratio          exact, of units
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from serving.monitoring.arms import ArmDifference, SampleRatio, rate_difference
from serving.monitoring.figures import ALL, Figure, bounded_exp
from serving.monitoring.intervals import Interval

Floats = NDArray[np.float64]
Better = Literal["lower", "higher"]

IN_THE_LIMIT: Final = "asymptotic confidence sequence of two unpaired means"
EXACT: Final = "exact confidence sequences of two rates"
RATIO: Final = "sequential sample-ratio test"
US_PER_MS: Final = 1000.0


class Units(Protocol):
    """Units of several arms, as long as each other: `ledger.trials.TrialUnits`."""

    @property
    def arm(self) -> NDArray[np.int64]: ...
    @property
    def slice(self) -> NDArray[np.object_]: ...
    @property
    def loss(self) -> Floats: ...
    @property
    def total_us(self) -> Floats: ...


class Totals(Protocol):
    """Of one arm: `ledger.trials.ArmTotals`."""

    @property
    def version(self) -> str: ...
    @property
    def units(self) -> int: ...
    @property
    def requests(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def labelled(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def p50_us(self) -> float: ...
    @property
    def p99_us(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Design:
    """What was planned. shares: of the units, by arm, the stable one first; they come to 1. better:
    which mean is. alpha: the chance that all differences together ever show one that is not there."""

    shares: tuple[float, ...]
    better: Better = "lower"
    alpha: float = 0.05


class ArmSummary(Struct, frozen=True, kw_only=True):
    """One arm. mean: of the units' losses, with its interval; None without any. Times in ms."""

    version: str
    share: float
    units: int
    requests: int
    rows: int
    labelled: int
    failed: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None


class Contrast(Struct, frozen=True, kw_only=True):
    """A candidate beside the stable version. leads: the version that is shown to be better on all
    rows, empty while none is. figures: see the module."""

    version: str
    leads: str
    figures: tuple[Figure, ...]


class Readout(Struct, frozen=True, kw_only=True):
    """What there is to read. doubts: why no difference is to be believed, in words."""

    arms: tuple[ArmSummary, ...]
    contrasts: tuple[Contrast, ...]
    sample_ratio: Figure
    doubts: tuple[str, ...] = ()


@dataclass(slots=True)
class _Differences:
    """Of one slice: each candidate beside the stable version."""

    loss: list[ArmDifference]
    latency: list[ArmDifference]


@dataclass(slots=True)
class Experiment:
    """Takes what was measured, and says what it shows. both_sides: units that several arms answered."""

    design: Design
    totals: Sequence[Totals]
    both_sides: int = 0
    _found: dict[str, _Differences] = field(default_factory=dict, init=False)

    def add(self, units: Iterable[Units]) -> None:
        """All units, once."""
        for batch in units:
            self._add(ALL, batch, np.ones(len(batch.arm), bool))

    def add_slices(self, feature: str, units: Iterable[Units]) -> None:
        """All units once more, cut by a feature."""
        for batch in units:
            for name in sorted(set(batch.slice.tolist())):
                self._add(f"{feature}={name}", batch, batch.slice == name)

    def readout(self) -> Readout:
        versions = [each.version for each in self.totals]
        ratio = self._sample_ratio()
        doubts = self._doubts(ratio)
        contrasts = tuple(
            self._contrast(place, version, believed=not doubts)
            for place, version in enumerate(versions[1:])
        )
        return Readout(arms=self._arms(), contrasts=contrasts, sample_ratio=ratio, doubts=doubts)

    # -- inside ----------------------------------------------------------------------------------

    def _add(self, name: str, batch: Units, chosen: NDArray[np.bool_]) -> None:
        count = len(self.totals) - 1
        into = self._found.setdefault(
            name,
            _Differences(
                [ArmDifference() for _ in range(count)], [ArmDifference() for _ in range(count)]
            ),
        )
        for values, differences in (
            (batch.loss, into.loss),
            (batch.total_us / US_PER_MS, into.latency),
        ):
            usable = chosen & ~np.isnan(values)
            stable = values[usable & (batch.arm == 0)]
            for place, difference in enumerate(differences, 1):
                difference.update(stable, values[usable & (batch.arm == place)])

    def _arms(self) -> tuple[ArmSummary, ...]:
        losses = self._found[ALL].loss if ALL in self._found else []
        means = [losses[0].arms[0], *(each.arms[1] for each in losses)] if losses else []
        summaries = []
        for place, (total, share) in enumerate(zip(self.totals, self.design.shares, strict=True)):
            mean = means[place] if means and means[place].n else None
            interval = mean.interval(self.design.alpha / len(self.totals)) if mean else None
            summaries.append(
                ArmSummary(
                    version=total.version,
                    share=share,
                    units=total.units,
                    requests=total.requests,
                    rows=total.rows,
                    labelled=total.labelled,
                    failed=total.failed,
                    mean=mean.mean if mean else None,
                    low=_finite(interval.low) if interval else None,
                    high=_finite(interval.high) if interval else None,
                    p50_ms=_finite(total.p50_us / US_PER_MS),
                    p99_ms=_finite(total.p99_us / US_PER_MS),
                )
            )
        return tuple(summaries)

    def _contrast(self, place: int, version: str, *, believed: bool) -> Contrast:
        candidates = len(self.totals) - 1
        alpha = self.design.alpha / candidates
        slices = sorted(name for name in self._found if name != ALL)
        figures = []
        for name in [ALL, *slices] if ALL in self._found else []:
            level = alpha if name == ALL else alpha / len(slices)
            loss = self._found[name].loss[place]
            figures.append(_mean_figure("loss_difference", loss, level, name))
        leads = ""
        if figures and believed:
            leads = self._leader(figures[0], version)
        if ALL in self._found:
            latency = self._found[ALL].latency[place]
            figures.append(_mean_figure("latency_difference", latency, alpha, ALL))
        figures.append(_failures(self.totals[0], self.totals[place + 1], alpha))
        return Contrast(version=version, leads=leads, figures=tuple(figures))

    def _leader(self, figure: Figure, version: str) -> str:
        if figure.low is None or figure.high is None or figure.low <= 0 <= figure.high:
            return ""
        is_higher = figure.low > 0
        return version if is_higher == (self.design.better == "higher") else self.totals[0].version

    def _sample_ratio(self) -> Figure:
        planned = [
            (share, total)
            for share, total in zip(self.design.shares, self.totals, strict=True)
            if share > 0
        ]
        counts = {total.version: total.units for _, total in planned}
        e_value = 1.0
        if len(planned) > 1:
            test = SampleRatio([share for share, _ in planned])
            test.add(list(counts.values()))
            e_value = bounded_exp(test.log_e())
        every = sum(counts.values())
        return Figure(
            name="sample_ratio",
            n=every,
            estimate=counts.get(self.totals[0].version, 0) / every if every else None,
            e_value=e_value,
            limit=self.design.shares[0],
            status="breach" if e_value >= 1 / self.design.alpha else "ok",
            counts=counts,
            method=RATIO,
        )

    def _doubts(self, ratio: Figure) -> tuple[str, ...]:
        doubts = []
        if ratio.status == "breach":
            planned = ", ".join(f"{share:.1%}" for share in self.design.shares)
            came = ", ".join(f"{version}: {count}" for version, count in ratio.counts.items())
            doubts.append(f"planned shares are {planned}, but came {came}")
        if self.both_sides:
            doubts.append(f"{self.both_sides} callers were answered by more than one arm")
        return tuple(doubts)


def _mean_figure(name: str, difference: ArmDifference, alpha: float, slice_: str) -> Figure:
    first, second = difference.n
    interval = difference.interval(alpha) if first and second else None
    return Figure(
        name=name,
        n=first + second,
        estimate=_finite(interval.estimate) if interval else None,
        low=_finite(interval.low) if interval else None,
        high=_finite(interval.high) if interval else None,
        e_value=_two_sided(difference),
        status="shown" if _is_known(interval) else "insufficient",
        slice=slice_,
        counts={"stable": first, "candidate": second},
        method=IN_THE_LIMIT,
    )


def _two_sided(difference: ArmDifference) -> float:
    """Evidence that the means differ at all: the average of both directions is an e-value too."""
    state = difference.state()
    turned = ArmDifference().restore({"first": state["second"], "second": state["first"]})
    both = (bounded_exp(each.log_e_above(0.0)) for each in (difference, turned))
    return sum(both) / 2


def _failures(stable: Totals, candidate: Totals, alpha: float) -> Figure:
    pairs = [(each.failed, each.requests) for each in (stable, candidate)]
    interval = rate_difference(pairs[0], pairs[1], alpha)
    return Figure(
        name="failure_difference",
        n=stable.requests + candidate.requests,
        estimate=_finite(interval.estimate),
        low=_finite(interval.low),
        high=_finite(interval.high),
        counts={"stable": stable.failed, "candidate": candidate.failed},
        method=EXACT,
    )


def _is_known(interval: Interval | None) -> bool:
    return interval is not None and math.isfinite(interval.low)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def planned_shares(weights: Mapping[str, float]) -> tuple[float, ...]:
    """Of the stable version and then of each arm, from the arms' weights."""
    return (1 - math.fsum(weights.values()), *weights.values())
