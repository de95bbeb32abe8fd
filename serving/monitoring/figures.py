"""What a comparison says: figures with intervals and evidence, and the decision drawn from them.

Both are plain values that JSON holds; a verdict is made of them.
"""

import math
from typing import Final, Literal

from msgspec import Struct

Status = Literal["ok", "warn", "breach", "insufficient", "shown"]
"""ok: shown to be within its limit. breach: shown to be beyond, after the correction for looking at
many figures. insufficient: neither yet. warn: a selection-rate ratio whose value, but not whose whole
interval, is beyond. shown: a figure without a limit."""

Sense = Literal["at_most", "at_least"]
Outcome = Literal["promote", "hold", "reject"]

ALL: Final = "all"
"""The slice that holds every record."""

MAX_E_VALUE: Final = 1e300


class Figure(Struct, frozen=True, kw_only=True):
    """One measure on one slice.

    name: `measure` or `output.measure`, such as `label.label_flip`, `latency_ratio`.
    n: records it was calculated from; counts: the raw ones, to be shown beside the estimate.
    low, high: the anytime-valid interval at level 1 - alpha, or None where there is none yet.
    e_value: evidence against "within the limit"; 1 means none, 1/alpha is significant alone.
    limit: None for a figure that decides nothing. It contains the noise floor, if there is one.
    method: how interval and e-value are calculated, and what they assume.
    """

    name: str
    n: int
    estimate: float | None
    low: float | None = None
    high: float | None = None
    e_value: float = 1.0
    limit: float | None = None
    sense: Sense = "at_most"
    status: Status = "shown"
    slice: str = ALL
    protected: bool = False
    counts: dict[str, int] = {}
    method: str = ""


class Decision(Struct, frozen=True, kw_only=True):
    """Promote, hold or reject, and why: one reason for each limit that speaks.

    final: waiting changes nothing any more: decided, or the horizon is reached, or to wait is futile.
    pairs, outcomes: rows compared, and those of them whose truth is known.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    final: bool
    pairs: int
    outcomes: int


def bounded_exp(log_e: float) -> float:
    """exp for e-values: what JSON cannot hold becomes `MAX_E_VALUE`."""
    return min(math.exp(min(log_e, 700.0)), MAX_E_VALUE)
