"""The life of a rollout: every state, everything that can happen in it, and what comes of that.

This table is the whole of it, and nothing here knows of time, traffic or databases. What is not in
the table is refused, whoever asks.

    pending ─ready▶ running ─advance▶ running … ─finish▶ promoting ─arrive▶ completed
                     │  ▲                          ▲
                wait ▼  │ advance          finish  │
                     holding ──────────────────────┘
    running, holding ─pause▶ paused ─resume▶ running
    pending … promoting, and completed while the old version is warm ─break▶ rolled_back
    pending … completed ─roll_back▶ rolled_back
    pending … promoting ─displace▶ aborted

`break` is a gate, a candidate that does not come up or has no replica left, or one that may not serve
any more. `displace`: somebody set the model's traffic by hand, so there is nothing left to conduct.
Traffic belongs to a state and a step, never to the way that led there: see `share_in`.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from serving.errors import TransitionRefused


class RolloutState(StrEnum):
    """Where a rollout is."""

    PENDING = "pending"
    """The candidate comes up; nobody gets its answers."""
    RUNNING = "running"
    HOLDING = "holding"
    """Its time is over, and there is too little to judge by."""
    PAUSED = "paused"
    PROMOTING = "promoting"
    """The candidate is to answer everything."""
    COMPLETED = "completed"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"


class Turn(StrEnum):
    """What can happen to a rollout."""

    READY = "ready"
    ADVANCE = "advance"
    WAIT = "wait"
    FINISH = "finish"
    ARRIVE = "arrive"
    BREAK = "break"
    DISPLACE = "displace"
    PAUSE = "pause"
    RESUME = "resume"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"


_Row = Mapping[Turn, RolloutState]

_ENDS: Final = {
    Turn.BREAK: RolloutState.ROLLED_BACK,
    Turn.ROLL_BACK: RolloutState.ROLLED_BACK,
    Turn.DISPLACE: RolloutState.ABORTED,
}
_MOVES: Final = {
    Turn.ADVANCE: RolloutState.RUNNING,
    Turn.FINISH: RolloutState.PROMOTING,
    Turn.PROMOTE: RolloutState.PROMOTING,
    Turn.PAUSE: RolloutState.PAUSED,
}

TABLE: Final[Mapping[RolloutState, _Row]] = {
    RolloutState.PENDING: {Turn.READY: RolloutState.RUNNING, **_ENDS},
    RolloutState.RUNNING: {Turn.WAIT: RolloutState.HOLDING, **_MOVES, **_ENDS},
    RolloutState.HOLDING: {**_MOVES, **_ENDS},
    RolloutState.PAUSED: {
        Turn.RESUME: RolloutState.RUNNING,
        Turn.PROMOTE: RolloutState.PROMOTING,
        **_ENDS,
    },
    RolloutState.PROMOTING: {Turn.ARRIVE: RolloutState.COMPLETED, **_ENDS},
    RolloutState.COMPLETED: {
        Turn.BREAK: RolloutState.ROLLED_BACK,
        Turn.ROLL_BACK: RolloutState.ROLLED_BACK,
    },
    RolloutState.ROLLED_BACK: {},
    RolloutState.ABORTED: {},
}
"""From a state, by what happens, to a state."""

ACTIVE: Final = frozenset(
    {
        RolloutState.PENDING,
        RolloutState.RUNNING,
        RolloutState.HOLDING,
        RolloutState.PAUSED,
        RolloutState.PROMOTING,
    }
)
"""At most one rollout of a model is in one of these."""

SHARING: Final = ACTIVE - {RolloutState.PROMOTING}
"""The candidate answers its step's share; before it is up the snapshot leaves it out."""

WORDS: Final[Mapping[Turn, str]] = {
    Turn.PAUSE: "pause",
    Turn.RESUME: "resume",
    Turn.PROMOTE: "promote",
    Turn.ROLL_BACK: "rollback",
}
"""What people can ask for, by the verbs they use."""


def turned(state: RolloutState, turn: Turn) -> RolloutState:
    """What comes of it. Raises TransitionRefused."""
    row = TABLE[state]
    if turn not in row:
        possible = ", ".join(word for each, word in WORDS.items() if each in row) or "nothing"
        raise TransitionRefused(
            f"a rollout that is {state} cannot {WORDS.get(turn, turn)}; possible: {possible}"
        )
    return row[turn]


def share_in(state: RolloutState, weight: float) -> float:
    """What the candidate should answer. weight: of the step that the rollout is at."""
    if state in (RolloutState.PROMOTING, RolloutState.COMPLETED):
        return 1.0
    return weight if state in SHARING else 0.0
