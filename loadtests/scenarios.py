"""Load scenarios as tables: how many users when, and what must hold for the run to pass.

Pure values and functions, so that they are tested without generating load; `locustfile` drives them.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a run. until: its end, and users: their number, both as shares of the whole."""

    until: float
    users: float


@dataclass(frozen=True, slots=True)
class Objective:
    """What a run must keep. max_error_share: failed requests over all. p99: from the send."""

    max_error_share: float
    max_p99_ms: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """meaning: what it shows. duration_s: unless another one is asked for."""

    meaning: str
    duration_s: int
    stages: tuple[Stage, ...]
    objective: Objective


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run measured. p99_ms is 0 when nothing was answered."""

    requests: int
    failures: int
    p99_ms: float


SCENARIOS: Final = {
    "steady": Scenario(
        meaning="the same number of users throughout",
        duration_s=60,
        stages=(Stage(until=1.0, users=1.0),),
        objective=Objective(max_error_share=0.0, max_p99_ms=250),
    ),
    "step": Scenario(
        meaning="a quarter of the users, a half, three quarters, all: where does latency bend?",
        duration_s=120,
        stages=(
            Stage(until=0.25, users=0.25),
            Stage(until=0.5, users=0.5),
            Stage(until=0.75, users=0.75),
            Stage(until=1.0, users=1.0),
        ),
        objective=Objective(max_error_share=0.0, max_p99_ms=250),
    ),
    "spike": Scenario(
        meaning="five times as many users for a fifth of the time, then as before",
        duration_s=60,
        stages=(
            Stage(until=0.4, users=0.2),
            Stage(until=0.6, users=1.0),
            Stage(until=1.0, users=0.2),
        ),
        objective=Objective(max_error_share=0.01, max_p99_ms=500),
    ),
    "soak": Scenario(
        meaning="half the users for an hour: does anything grow or slow down?",
        duration_s=3600,
        stages=(Stage(until=1.0, users=0.5),),
        objective=Objective(max_error_share=0.0, max_p99_ms=250),
    ),
}


def users_at(scenario: Scenario, *, share: float, peak: int) -> int | None:
    """Users at that share of the run, at least one; None when it is over."""
    for stage in scenario.stages:
        if share < stage.until:
            return max(1, round(stage.users * peak))
    return None


def broken_promises(objective: Objective, outcome: Outcome) -> list[str]:
    """Why the run fails, in words; empty when it passes. A run without requests never passes."""
    if outcome.requests == 0:
        return ["no request was sent"]
    found = []
    share = outcome.failures / outcome.requests
    if share > objective.max_error_share:
        found.append(
            f"{outcome.failures} of {outcome.requests} requests failed ({share:.2%}); "
            f"permitted is {objective.max_error_share:.2%}"
        )
    if outcome.p99_ms > objective.max_p99_ms:
        found.append(f"p99 was {outcome.p99_ms:.0f} ms; permitted is {objective.max_p99_ms:.0f} ms")
    return found
