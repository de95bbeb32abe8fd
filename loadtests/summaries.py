"""The figures of a case, out of its repetitions.

Rates, latencies and ratios: the median. CPU per request: the minimum, because interference only
adds to it. A ratio is taken inside each repetition; its interval is the 95 % bootstrap interval of
the median (Efron, 1979), and no interval at all below three repetitions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np

from loadtests.cases import Side
from loadtests.windows import CaseResult, Window

RESAMPLES: Final = 10_000
FEWEST: Final = 3


@dataclass(frozen=True, slots=True)
class SideSummary:
    """One side. cpu_s_per_1000: of the server; cores: server and generator together, on average."""

    side: Side
    rate_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_s_per_1000: float
    generator_cpu_s_per_1000: float
    cores: float
    errors: int


@dataclass(frozen=True, slots=True)
class Ratio:
    """First side over second, by requests per second. low and high: None for too few."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class CaseSummary:
    """A case as it is reported. others: share of the machine that others used; the median."""

    name: str
    sides: tuple[SideSummary, ...]
    ratio: Ratio | None
    repetitions: int
    dropped: int
    disturbed: int
    others: float


def summarise(result: CaseResult) -> CaseSummary:
    by_side = list(zip(*(each.windows for each in result.repetitions), strict=True))
    return CaseSummary(
        name=result.case.name,
        sides=tuple(
            _side_summary(side, windows)
            for side, windows in zip(result.case.sides, by_side, strict=True)
        ),
        ratio=_ratio(*by_side) if len(by_side) > 1 else None,
        repetitions=len(result.repetitions),
        dropped=result.dropped,
        disturbed=result.disturbed,
        others=median(each.others for each in result.repetitions),
    )


def _side_summary(side: Side, windows: Sequence[Window]) -> SideSummary:
    return SideSummary(
        side=side,
        rate_per_s=median(window.rate_per_s for window in windows),
        p50_ms=median(window.p50_ms for window in windows),
        p99_ms=median(window.p99_ms for window in windows),
        cpu_s_per_1000=min(window.cpu_s_per_1000 for window in windows),
        generator_cpu_s_per_1000=min(
            1000 * window.generator_cpu_s / max(window.requests, 1) for window in windows
        ),
        cores=median((each.cpu_s + each.generator_cpu_s) / each.seconds for each in windows),
        errors=sum(window.errors for window in windows),
    )


def _ratio(first: Sequence[Window], second: Sequence[Window]) -> Ratio:
    ratios = np.array([a.rate_per_s / b.rate_per_s for a, b in zip(first, second, strict=True)])
    value = float(np.median(ratios))
    if len(ratios) < FEWEST:
        return Ratio(value, None, None)
    drawn = np.random.default_rng(seed=0).choice(ratios, size=(RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    return Ratio(value, float(low), float(high))
