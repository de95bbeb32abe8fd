"""What the monitor process says about itself, for `serving status` and Prometheus."""

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from serving.governance.comparisons import ComparisonReport
from serving.monitoring.figures import ALL
from serving.telemetry import comparison_families as names
from serving.telemetry.metrics import Labels, MetricFamilies

OUTCOMES: Final = ("promote", "hold", "reject")
NO_SHARES: Final = (".score", ".js", ".psi", ".w1")
"""Figures of an output that are no share of rows."""


class ComparedPair(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate, in short. disagreement: the largest share of rows over the outputs, None before
    there is one."""

    model: str
    primary: str
    candidate: str
    pairs: int
    disagreement: float | None
    gap: float | None
    share: float
    outcome: str
    final: bool
    reason: str


class MonitorStatus(msgspec.Struct, frozen=True, kw_only=True):
    """comparisons: everything that is compared. waiting: answers that wait for outcomes."""

    comparisons: tuple[ComparedPair, ...]
    lag_seconds: float
    lag_records: int
    waiting: int
    connected: bool
    error: str = ""


def compared(report: ComparisonReport) -> ComparedPair:
    reasons = report.decision.reasons
    return ComparedPair(
        model=report.model,
        primary=report.primary,
        candidate=report.candidate,
        pairs=report.counts.pairs,
        disagreement=disagreement_of(report),
        gap=report.gap,
        share=report.share,
        outcome=report.decision.outcome,
        final=report.decision.final,
        reason=reasons[0] if reasons else "",
    )


def disagreement_of(report: ComparisonReport) -> float | None:
    """Of all rows, the output that disagrees most."""
    shares = [
        each.estimate
        for each in report.figures
        if each.slice == ALL and each.estimate is not None and "." in each.name
        and not each.name.endswith(NO_SHARES)
    ]  # fmt: skip
    return max(shares, default=None)


def monitor_families(
    reports: Callable[[], Iterable[ComparisonReport]],
    *,
    lag_s: Callable[[], float],
    waiting: Callable[[], int],
    unjudged: Callable[[], int],
    skipped: Callable[[], dict[str, int]],
) -> MetricFamilies:
    families = MetricFamilies()

    def each(
        value: Callable[[ComparisonReport], float | None],
    ) -> Callable[[], dict[Labels, float]]:
        def read() -> dict[Labels, float]:
            found = {(r.model, r.candidate): value(r) for r in reports()}
            return {labels: number for labels, number in found.items() if number is not None}

        return read

    families.read(names.COMPARISON_PAIRS, each(lambda r: r.counts.pairs))
    families.read(names.COMPARISON_FAILURES, each(lambda r: r.counts.failures))
    families.read(names.COMPARISON_DISAGREEMENT, each(disagreement_of))
    families.read(names.COMPARISON_GAP, each(lambda r: r.gap))
    families.read(names.COMPARISON_SHARE, each(lambda r: r.share))
    families.read(names.COMPARISON_UNPAIRED, lambda: _unpaired(reports()))
    families.read(names.COMPARISON_DECISION, lambda: _decisions(reports()))
    families.read(
        names.COMPARISON_SKIPPED, lambda: {(model,): count for model, count in skipped().items()}
    )
    families.read_one(names.COMPARISON_LAG, lag_s)
    families.read_one(names.COMPARISON_WAITING, waiting)
    families.read_one(names.COMPARISON_UNJUDGED, unjudged)
    return families


def _unpaired(reports: Iterable[ComparisonReport]) -> dict[Labels, float]:
    return {
        (report.model, report.candidate, reason): count
        for report in reports
        for reason, count in report.counts.unpaired.items()
    }


def _decisions(reports: Iterable[ComparisonReport]) -> dict[Labels, float]:
    return {
        (report.model, report.candidate, outcome): float(report.decision.outcome == outcome)
        for report in reports
        for outcome in OUTCOMES
    }
