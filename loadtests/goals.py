"""Figures of the open-loop cases, and the goals that they must keep, as data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from serving.core.clock import SystemClock


class Figures:
    """What a case came to, in the order in which it was found."""

    def __init__(self, case: str) -> None:
        self.case = case
        self.values: dict[str, float] = {}

    def add(self, name: str, value: float) -> None:
        self.values[name] = float(value)

    def as_text(self) -> str:
        lines = [f"  {name:<32} {value:,.4g}" for name, value in self.values.items()]
        return "\n".join([self.case, *lines])


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on one figure of a case."""

    case: str
    figure: str
    bound: float
    at_most: bool = True


GOALS: Final = (
    Goal("latency-m1", "p99 ms at 75%", 10),
    Goal("latency-m1", "p99 ms at 90%", 25),
    Goal("goodput-m1", "goodput over limit", 0.9, at_most=False),
    Goal("goodput-m2", "goodput over limit", 0.9, at_most=False),
    Goal("goodput-fixed", "goodput over limit", 0.9, at_most=False),
    Goal("goodput-fixed", "within objective at 80 %", 0.9999, at_most=False),
    Goal("overload-fixed", "goodput over capacity", 0.95, at_most=False),
    Goal("overload-fixed", "goodput at 16 times", 0.8, at_most=False),
    Goal("overload-fixed", "accepted p99 ms", 100),
    Goal("overload-fixed", "refusal p99 ms", 5),
    Goal("overload-fixed", "CPU us per refusal", 15),
    Goal("overload-fixed", "normal again after s", 1),
    Goal("overload-fixed", "unanswered", 0),
    Goal("overload-fixed", "RSS growth MiB", 64),
    Goal("connections", "CPU of 5000 over that of 16", 1.3),
    Goal("connections", "bytes per connection", 30_000),
    Goal("payload", "GB per core and second at 1048576", 1, at_most=False),
    Goal("payload", "RSS over payload in flight", 3),
    Goal("checks", "us per cached check", 2),
    Goal("guesses", "valid slowed by %", 5),
    Goal("guesses", "failed requests of valid callers", 0),
    Goal("guesses", "guesses answered otherwise", 0),
    Goal("shadow", "p99 ms more with all copied", 0.5),
    Goal("shadow", "failed requests", 0),
    Goal("ledger", "append CPU of the largest log over the smallest", 1.1),
    Goal("ledger", "hot ms for the newest 100 of a model", 10),
    Goal("ledger", "cold ms for the newest 100 of a model", 10),
    Goal("ledger", "bytes per record, J1 as it is sent", 150),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a goal that was measured was kept."""

    goal: Goal
    measured: float

    @property
    def missed(self) -> bool:
        bound = self.goal.bound
        kept = self.measured <= bound if self.goal.at_most else self.measured >= bound
        return not kept  # so that a figure that is no number is a miss


def judge(measured: Sequence[Figures]) -> list[Verdict]:
    """A verdict for every goal of the cases that were measured."""
    cases = {figures.case: figures.values for figures in measured}
    return [
        Verdict(goal, cases[goal.case].get(goal.figure, float("nan")))
        for goal in GOALS
        if goal.case in cases
    ]


def conclusion(verdicts: Sequence[Verdict]) -> str:
    """One line for each goal, and one for all of them."""
    lines = []
    for each in verdicts:
        side = "at most" if each.goal.at_most else "at least"
        state = "MISSED" if each.missed else "kept"
        lines.append(
            f"{state}: {each.goal.case}, {each.goal.figure}: {each.measured:.4g}, "
            f"{side} {each.goal.bound:g} wanted"
        )
    return "\n".join([*lines, "FAILED" if any(v.missed for v in verdicts) else "passed"])


def save(
    facts: Mapping[str, Mapping[str, str]],
    measured: Sequence[Figures],
    verdicts: Sequence[Verdict],
    *,
    folder: Path,
    name: str = "overload",
) -> Path:
    """Writes the JSON to a file named after what was measured and the time, UTC."""
    folder.mkdir(exist_ok=True)
    now = datetime.fromtimestamp(SystemClock().wall_ns() / 1e9, tz=UTC)
    path = folder / f"{name}-{now:%Y%m%dT%H%M%SZ}.json"
    content = {
        "facts": facts,
        "cases": {figures.case: figures.values for figures in measured},
        "verdicts": [
            {"goal": each.goal, "measured": each.measured, "missed": each.missed}
            for each in verdicts
        ],
    }
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
    return path
