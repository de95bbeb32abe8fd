"""Champion and challenger over months: a figure for each period, and what they come to together.

A challenger that stands as a shadow is asked what the champion is asked, so rows are paired. Each
period (a day, week or month) is shown by itself, without an interval: it is part of a whole. What has
been gathered up to the end of a period is a sequence that may be looked at whenever one likes:

    e_value     that the two do not decide rightly equally often; exact, of the rows that only one of
                them decided rightly (`wins` of the challenger, `losses`); 1/alpha is significant
    low, high   of the mean loss difference, challenger less champion; in the limit of many rows

Rows of one request count one by one: where they depend on each other the evidence is overstated.
"""

import math
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Final, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from serving.monitoring.figures import bounded_exp
from serving.monitoring.means import AsymptoticInterval
from serving.monitoring.proportions import WinEvidence

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

US_PER_MS: Final = 1000.0
_EPOCH: Final = date(1970, 1, 1)


class Rows(Protocol):
    """What the champion answered, in the order of arrival: `ledger.standing.StandingRows`."""

    @property
    def period(self) -> NDArray[np.int64]: ...
    @property
    def paired(self) -> Flags: ...
    @property
    def ok(self) -> Flags: ...
    @property
    def primary_score(self) -> Floats: ...
    @property
    def candidate_score(self) -> Floats: ...
    @property
    def primary_us(self) -> Floats: ...
    @property
    def candidate_us(self) -> Floats: ...
    @property
    def truth(self) -> Floats: ...


class Standing(Struct, frozen=True, kw_only=True):
    """One period. asked: rows that the champion answered; paired: of them those that the challenger
    was asked too; failed: and did not answer. agreement: share of the same decisions. Losses are means
    over the rows whose truth is known (`outcomes`), None without any; times are of the model alone.

    total: since the first period, with the evidence of the module.
    """

    period: str
    asked: int
    paired: int
    failed: int
    agreement: float | None
    distance: float | None
    outcomes: int
    champion_loss: float | None
    challenger_loss: float | None
    champion_ms: float | None
    challenger_ms: float | None
    wins: int
    losses: int
    total: "Evidence"


class Evidence(Struct, frozen=True, kw_only=True):
    """Up to the end of a period. leads: who is shown to decide rightly more often, or empty."""

    outcomes: int
    difference: float | None
    low: float | None
    high: float | None
    wins: int
    losses: int
    e_value: float
    leads: str


@dataclass(slots=True)
class _Sums:
    """Of the period that is being read."""

    asked: int = 0
    paired: int = 0
    failed: int = 0
    agreed: int = 0
    both: int = 0
    distance: float = 0.0
    outcomes: int = 0
    losses: list[float] = field(default_factory=lambda: [0.0, 0.0])
    times_us: list[float] = field(default_factory=lambda: [0.0, 0.0])
    wins: int = 0
    lost: int = 0


class Challenge:
    """Takes rows in the order of arrival; `standings` may be asked at any time."""

    def __init__(
        self, *, squared: bool = True, threshold: float = 0.5, alpha: float = 0.05
    ) -> None:
        """squared: the loss is the squared difference of score and truth (of a probability: the Brier
        score); else whether the decision was wrong. A score from `threshold` on decides 1."""
        self._squared = squared
        self._threshold = threshold
        self._alpha = alpha
        self._wins = WinEvidence()
        self._difference = AsymptoticInterval()
        self._day: int | None = None
        self._sums = _Sums()
        self._done: list[Standing] = []

    def add(self, rows: Rows) -> None:
        for day in np.unique(rows.period):
            if self._day is not None and day != self._day:
                self._done.append(self._standing())
                self._sums = _Sums()
            self._day = int(day)
            self._take(rows, rows.period == day)

    def standings(self) -> tuple[Standing, ...]:
        """Oldest first; the last period may not be over."""
        return (*self._done, *(() if self._day is None else (self._standing(),)))

    # -- inside ----------------------------------------------------------------------------------

    def _take(self, rows: Rows, here: Flags) -> None:
        sums = self._sums
        sums.asked += int(here.sum())
        sums.paired += int((here & rows.paired).sum())
        sums.failed += int((here & rows.paired & ~rows.ok).sum())
        both = here & rows.paired & rows.ok
        first, second = rows.primary_score[both], rows.candidate_score[both]
        decided = (first >= self._threshold, second >= self._threshold)
        sums.both += len(first)
        sums.agreed += int((decided[0] == decided[1]).sum())
        sums.distance += float(np.abs(first - second).sum())
        for place, times_us in enumerate((rows.primary_us[both], rows.candidate_us[both])):
            sums.times_us[place] += float(np.nansum(times_us))
        known = ~np.isnan(rows.truth[both])
        self._judge(first[known], second[known], rows.truth[both][known])

    def _judge(self, first: Floats, second: Floats, truth: Floats) -> None:
        right = truth >= self._threshold
        wrong = [(score >= self._threshold) != right for score in (first, second)]
        losses = wrong
        if self._squared:
            losses = [(first - truth) ** 2, (second - truth) ** 2]
        better = wrong[0].astype(np.int64) - wrong[1].astype(np.int64)
        sums = self._sums
        sums.outcomes += len(truth)
        sums.wins += int((better > 0).sum())
        sums.lost += int((better < 0).sum())
        for place, loss in enumerate(losses):
            sums.losses[place] += float(loss.sum())
        self._wins.update(better)
        self._difference.update(losses[1].astype(np.float64) - losses[0].astype(np.float64))

    def _standing(self) -> Standing:
        sums = self._sums
        return Standing(
            period=(_EPOCH + timedelta(days=self._day or 0)).isoformat(),
            asked=sums.asked,
            paired=sums.paired,
            failed=sums.failed,
            agreement=_mean(sums.agreed, sums.both),
            distance=_mean(sums.distance, sums.both),
            outcomes=sums.outcomes,
            champion_loss=_mean(sums.losses[0], sums.outcomes),
            challenger_loss=_mean(sums.losses[1], sums.outcomes),
            champion_ms=_mean(sums.times_us[0] / US_PER_MS, sums.both),
            challenger_ms=_mean(sums.times_us[1] / US_PER_MS, sums.both),
            wins=sums.wins,
            losses=sums.lost,
            total=self._evidence(),
        )

    def _evidence(self) -> Evidence:
        interval = self._difference.interval(self._alpha)
        e_value = bounded_exp(self._wins.log_e())
        leads = ""
        if e_value >= 1 / self._alpha:
            leads = "challenger" if self._wins.leads > 0 else "champion"
        return Evidence(
            outcomes=self._difference.n,
            difference=_finite(interval.estimate),
            low=_finite(interval.low),
            high=_finite(interval.high),
            wins=self._wins.wins,
            losses=self._wins.losses,
            e_value=e_value,
            leads=leads,
        )


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
