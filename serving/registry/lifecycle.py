"""The life of a model version: every state, every step between two, and what a step demands.

This table is the whole of it. Code elsewhere asks `step` and never looks at states itself to decide
what may follow. A step that is not in the table is `TransitionRefused`, whoever asks.

    registered ─validate▶ validated ─approve▶ approved ─shadow▶ shadow ─canary▶ canary ─promote▶ stable
                              ▲                  │ ▲└────────────promote──────────────────────────▶ │
                              └────revoke────────┘ └──────────────stand_down────────────────────────┘
    approved, shadow, canary, stable ─deprecate▶ deprecated ─retire▶ retired
    registered … approved, shadow, canary ─reject▶ rejected ─retire▶ retired

`revoke` takes back an approval that was withdrawn or has run out, from wherever it had led.
`stand_down` takes a version's traffic away and leaves it approved, ready to come back. `restore` is
that coming back: of a version that has answered before, by a roll-back, which waits for no verdict.
`reinstate` ends a deprecation. What a tier of risk makes of a demand (how many
approvals, whether a shadow verdict is needed) is decided by the policies of `governance`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from serving.errors import TransitionRefused


class State(StrEnum):
    """Where a version is in its life."""

    REGISTERED = "registered"
    VALIDATED = "validated"
    APPROVED = "approved"
    SHADOW = "shadow"
    CANARY = "canary"
    STABLE = "stable"
    DEPRECATED = "deprecated"
    RETIRED = "retired"
    REJECTED = "rejected"


class Step(StrEnum):
    """What can be asked for."""

    VALIDATE = "validate"
    APPROVE = "approve"
    SHADOW = "shadow"
    CANARY = "canary"
    PROMOTE = "promote"
    RESTORE = "restore"
    STAND_DOWN = "stand_down"
    DEPRECATE = "deprecate"
    REINSTATE = "reinstate"
    RETIRE = "retire"
    REJECT = "reject"
    REVOKE = "revoke"


class Demand(StrEnum):
    """Evidence that a step may need. REASON and NO_TRAFFIC are looked after by the registry itself."""

    REASON = "reason"
    NO_TRAFFIC = "no_traffic"
    VALIDATION = "validation"
    """A report that the artifact was inspected and passed."""
    APPROVALS = "approvals"
    """Those of the risk tier, signed, bound to the digest, not expired."""
    VERDICT = "verdict"
    """That it is fit to answer, where the tier asks for one."""
    RETIREMENT = "retirement"
    """Consent to retire, where the tier asks for it."""


@dataclass(frozen=True, slots=True)
class Transition:
    """One step from one state."""

    state: State
    step: Step
    target: State
    demands: frozenset[Demand] = frozenset()


_Row = Mapping[Step, tuple[State, tuple[Demand, ...]]]

_REJECT: Final = {Step.REJECT: (State.REJECTED, (Demand.REASON,))}
_REVOKE: Final = {Step.REVOKE: (State.VALIDATED, (Demand.REASON,))}
_DEPRECATE: Final = {Step.DEPRECATE: (State.DEPRECATED, (Demand.REASON,))}
_RETIRE: Final = {
    Step.RETIRE: (State.RETIRED, (Demand.REASON, Demand.NO_TRAFFIC, Demand.RETIREMENT))
}
_PROMOTE: Final = {Step.PROMOTE: (State.STABLE, (Demand.APPROVALS, Demand.VERDICT))}
_RESTORE: Final = {Step.RESTORE: (State.STABLE, (Demand.APPROVALS,))}
_SHADOW: Final = {Step.SHADOW: (State.SHADOW, (Demand.APPROVALS,))}
_STAND_DOWN: Final = {Step.STAND_DOWN: (State.APPROVED, ())}
_ADMITTED: Final = {**_REVOKE, **_DEPRECATE}

TABLE: Final[Mapping[State, _Row]] = {
    State.REGISTERED: {Step.VALIDATE: (State.VALIDATED, (Demand.VALIDATION,)), **_REJECT},
    State.VALIDATED: {
        Step.APPROVE: (State.APPROVED, (Demand.VALIDATION, Demand.APPROVALS)),
        **_REJECT,
    },
    State.APPROVED: {**_SHADOW, **_PROMOTE, **_RESTORE, **_REJECT, **_ADMITTED},
    State.SHADOW: {
        Step.CANARY: (State.CANARY, (Demand.APPROVALS, Demand.VERDICT)),
        **_PROMOTE,
        **_RESTORE,
        **_STAND_DOWN,
        **_REJECT,
        **_ADMITTED,
    },
    State.CANARY: {
        **_SHADOW,
        **_PROMOTE,
        **_RESTORE,
        **_STAND_DOWN,
        **_REJECT,
        **_ADMITTED,
    },
    State.STABLE: {**_SHADOW, **_STAND_DOWN, **_ADMITTED},
    State.DEPRECATED: {
        Step.REINSTATE: (State.APPROVED, (Demand.REASON, Demand.APPROVALS)),
        **_REVOKE,
        **_RETIRE,
    },
    State.REJECTED: {**_RETIRE},
    State.RETIRED: {},
}
"""From a state, by a step, to a state, on demands."""

SERVING: Final = frozenset({State.SHADOW, State.CANARY, State.STABLE})
"""States that say: it gets traffic. A deprecated version may get some too, until its sunset."""

TRAFFIC_STEPS: Final = frozenset(
    {Step.SHADOW, Step.CANARY, Step.PROMOTE, Step.RESTORE, Step.STAND_DOWN}
)
"""Steps that traffic takes: they are made by changing it, never by asking for the state."""


def step(state: State, wanted: Step) -> Transition:
    """The transition. Raises TransitionRefused when there is none."""
    row = TABLE[state]
    if wanted not in row:
        possible = ", ".join(row) or "nothing: it is the end"
        raise TransitionRefused(
            f"a version that is {state} cannot be asked to {wanted}; possible: {possible}"
        )
    target, demands = row[wanted]
    return Transition(state, wanted, target, frozenset(demands))
