"""Rollouts as values and as rows. No rule is here.

A row holds everything that a control process needs to go on where another one was killed: the plan,
the state, the step and since when. Times are wall nanoseconds; 0 means not yet.
"""

from typing import Any, Final

import msgspec
from sqlalchemy import Connection, insert, select, update

from serving.governance.gates import Reading
from serving.governance.rollout_plans import PlanStep, RolloutPlan
from serving.governance.rollout_states import ACTIVE, RolloutState, Turn, share_in
from serving.governance.tables import rollouts

MOST_TURNS: Final = 200
"""Of a rollout's own history; the audit trail has them all."""


class RolloutTurn(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened to a rollout, and what it was afterwards."""

    at_ns: int
    turn: Turn
    state: RolloutState
    step: int
    weight: float
    actor: str
    reason: str = ""


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout of a candidate. stable: what answered when it began. step: index of the plan's.

    since_ns: when it came to this step and state. reason, gate, evidence: of its end, or of what it
    waits for; the gate is empty where no gate broke. warm_until_ns: how long the old version stays
    deployed after the promotion. settled: the version that answered after a rollback.
    """

    id: str
    model: str
    tenant: str
    candidate: str
    stable: str
    plan: RolloutPlan
    state: RolloutState
    step: int = 0
    since_ns: int
    created_ns: int
    created_by: str
    ended_ns: int = 0
    reason: str = ""
    gate: str = ""
    evidence: tuple[Reading, ...] = ()
    warm_until_ns: int = 0
    settled: str = ""
    history: tuple[RolloutTurn, ...] = ()

    @property
    def at(self) -> PlanStep:
        return self.plan.steps[self.step]

    @property
    def is_last(self) -> bool:
        """Whether nothing but the promotion follows this step."""
        return self.step == len(self.plan.steps) - 1

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE

    @property
    def weight(self) -> float:
        """What the candidate should answer, of all requests."""
        return share_in(self.state, self.at.weight)

    @property
    def key(self) -> str:
        return f"{self.model}@{self.candidate}"


def add(connection: Connection, rollout: Rollout) -> None:
    connection.execute(insert(rollouts).values(_row(rollout)))


def change(connection: Connection, rollout: Rollout) -> None:
    connection.execute(update(rollouts).where(rollouts.c.id == rollout.id).values(_row(rollout)))


def find(connection: Connection, rollout: str) -> Rollout | None:
    body = connection.scalar(select(rollouts.c.body).where(rollouts.c.id == rollout))
    return None if body is None else msgspec.convert(body, Rollout)


def newest(connection: Connection, model: str) -> Rollout | None:
    """Of a model."""
    found = listed(connection, model=model, limit=1)
    return found[0] if found else None


def listed(connection: Connection, *, model: str = "", limit: int = 100) -> tuple[Rollout, ...]:
    """Newest first."""
    query = select(rollouts.c.body).order_by(rollouts.c.created_ns.desc()).limit(limit)
    if model:
        query = query.where(rollouts.c.model == model)
    return tuple(msgspec.convert(body, Rollout) for body in connection.scalars(query))


def watched(connection: Connection, *, now_ns: int) -> tuple[Rollout, ...]:
    """Those that are under way, and those whose old version is warm still."""
    states = [state.value for state in ACTIVE]
    over = (rollouts.c.state == RolloutState.COMPLETED.value) & (rollouts.c.warm_until_ns > now_ns)
    query = select(rollouts.c.body).where(rollouts.c.state.in_(states) | over)
    found = connection.scalars(query.order_by(rollouts.c.created_ns))
    return tuple(msgspec.convert(body, Rollout) for body in found)


def _row(rollout: Rollout) -> dict[str, Any]:
    return {
        "id": rollout.id,
        "model": rollout.model,
        "state": rollout.state.value,
        "created_ns": rollout.created_ns,
        "warm_until_ns": rollout.warm_until_ns,
        "body": msgspec.to_builtins(rollout),
    }
