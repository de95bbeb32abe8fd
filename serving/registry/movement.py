"""Moves versions through their life and traffic between them: the rules around the table.

Traffic and state change together: a version that gets traffic is promoted or shadowed by that, one
that loses it stands down. A version that is rejected, retired or whose approval is revoked loses its
traffic in the same transaction.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import Connection

from serving.audit.events import EventName
from serving.core.actors import Actor
from serving.errors import ParameterInvalid, RevisionStale, TransitionRefused
from serving.registry import rows
from serving.registry.entities import RegisteredModel, RegisteredVersion, Traffic
from serving.registry.journal import Claim, Journal
from serving.registry.lifecycle import (
    SERVING,
    TRAFFIC_STEPS,
    Demand,
    State,
    Step,
    Transition,
    step,
)
from serving.registry.orders import StateOrder, TrafficOrder
from serving.registry.shares import Shares, check_shares

EVENTS: Final[Mapping[Step, EventName]] = {
    Step.VALIDATE: EventName.VERSION_VALIDATED,
    Step.APPROVE: EventName.VERSION_APPROVED,
    Step.SHADOW: EventName.VERSION_SHADOWED,
    Step.CANARY: EventName.VERSION_CANARIED,
    Step.PROMOTE: EventName.VERSION_PROMOTED,
    Step.RESTORE: EventName.VERSION_RESTORED,
    Step.STAND_DOWN: EventName.VERSION_STOOD_DOWN,
    Step.DEPRECATE: EventName.VERSION_DEPRECATED,
    Step.REINSTATE: EventName.VERSION_REINSTATED,
    Step.RETIRE: EventName.VERSION_RETIRED,
    Step.REJECT: EventName.VERSION_REJECTED,
    Step.REVOKE: EventName.VERSION_REVOKED,
}

LOSING: Final = frozenset({State.VALIDATED, State.REJECTED, State.RETIRED})
"""States in which a version gets no traffic, whatever it got before."""


class Movement:
    """One change, in one transaction, of one model by one actor."""

    def __init__(
        self, journal: Journal, connection: Connection, *, model: RegisteredModel, actor: Actor
    ) -> None:
        self._journal = journal
        self._connection = connection
        self._model = model
        self._actor = actor

    def take(self, version: RegisteredVersion, order: StateOrder) -> RegisteredVersion:
        """One step. Raises TransitionRefused, ParameterInvalid."""
        if order.step in TRAFFIC_STEPS:
            raise TransitionRefused(f"{order.step}: change the model's traffic instead")
        return self._move(version, order)

    def route(self, order: TrafficOrder, if_revision: int, *, restoring: bool = False) -> Traffic:
        """restoring: the stable version of the order has answered before. Raises RevisionStale,
        TransitionRefused, ParameterInvalid."""
        before = rows.traffic_of(self._connection, self._model.name)
        if before.revision != if_revision:
            raise RevisionStale(
                f"the traffic of {self._model.name} has revision {before.revision}, not "
                f"{if_revision}: look again, then name the one that you saw (If-Match)"
            )
        check_shares(order)
        known = {
            each.version: each for each in rows.versions_of(self._connection, self._model.name)
        }
        for name in (*order.versions, *(each.version for each in order.warm)):
            if name not in known:
                raise ParameterInvalid(f"{self._model.name} has no version {name!r}")
        for version in known.values():
            now = version
            for needed in _steps(version, order, before):
                back = restoring and needed is Step.PROMOTE
                taken = Step.RESTORE if back else needed
                now = self._move(now, StateOrder(step=taken, reason=order.reason))
        shares = {name: getattr(order, name) for name in Shares.__struct_fields__}
        shares["warm"] = tuple(each for each in order.warm if each.version not in order.versions)
        wanted = msgspec.structs.replace(before, **shares, scale=order.scale or before.scale)
        return self._write(before, wanted, reason=order.reason)

    # -- inside ----------------------------------------------------------------------------------

    def _move(self, version: RegisteredVersion, order: StateOrder) -> RegisteredVersion:
        transition = step(version.state, order.step)
        self._check(transition, version, order)
        if transition.target in LOSING:
            self._take_traffic(version, order)
        moved = self._dated(version, transition, order)
        rows.change_version(self._connection, moved)
        self._journal.record(
            self._connection,
            self._actor,
            name=EVENTS[order.step],
            about=f"version:{version.key}",
            before={"state": version.state, "revision": version.revision},
            after=_told(moved, order),
            reason=order.reason,
        )
        return moved

    def _dated(
        self, version: RegisteredVersion, transition: Transition, order: StateOrder
    ) -> RegisteredVersion:
        """The version in its new state, with the dates and the successor that the step sets."""
        now_ns = self._journal.now_ns()
        changes: dict[str, Any] = {
            "state": transition.target,
            "changed_ns": now_ns,
            "revision": version.revision + 1,
            "reason": order.reason,
        }
        if order.step is Step.DEPRECATE:
            changes |= {"deprecated_ns": now_ns, "sunset_ns": order.sunset_ns}
            changes["successor"] = self._successor(version, order)
        elif order.step is Step.RETIRE:
            changes["retired_ns"] = now_ns
            changes["successor"] = self._successor(version, order) or version.successor
        elif order.step in (Step.REINSTATE, Step.REVOKE):
            changes |= {"deprecated_ns": 0, "sunset_ns": 0, "successor": ""}
        return msgspec.structs.replace(version, **changes)

    def _check(self, transition: Transition, version: RegisteredVersion, order: StateOrder) -> None:
        if Demand.REASON in transition.demands and not order.reason.strip():
            raise ParameterInvalid(f"to {order.step} a version takes a reason")
        if Demand.NO_TRAFFIC in transition.demands and not order.override:
            user = self._serving_ensemble(version)
            if user:
                raise TransitionRefused(
                    f"{version.key} is a stage of {user}, which gets traffic: take that away first, "
                    "or override with a reason"
                )
            now = rows.traffic_of(self._connection, version.model)
            if version.version in now.versions:
                raise TransitionRefused(
                    f"{version.key} still gets traffic: take it away first, or override with a reason"
                )
        claim = Claim(
            transition=transition,
            model=self._model,
            version=version,
            actor=self._actor,
            reason=order.reason,
            override=order.override,
        )
        self._journal.guard.check(self._connection, claim)

    def _serving_ensemble(self, version: RegisteredVersion) -> str:
        """An ensemble with traffic that has the version as a stage; empty when there is none."""
        for traffic in rows.all_traffic(self._connection):
            for name in traffic.versions:
                found = rows.find_version(self._connection, traffic.model, name)
                stages = () if found is None else found.definition.stages
                if any(stage.key == version.key for stage in stages):
                    return f"{traffic.model}@{name}"
        return ""

    def _successor(self, version: RegisteredVersion, order: StateOrder) -> str:
        """`version` or `model@version`, which must be there."""
        if not order.successor:
            return ""
        model, _, name = order.successor.rpartition("@")
        found = rows.find_version(self._connection, model or version.model, name)
        if found is None or found.key == version.key:
            raise ParameterInvalid(f"there is no other version {order.successor[:130]!r}")
        return order.successor

    def _take_traffic(self, version: RegisteredVersion, order: StateOrder) -> None:
        now = rows.traffic_of(self._connection, version.model)
        name = version.version
        if name not in (*now.versions, *(each.version for each in now.warm)):
            return
        left = msgspec.structs.replace(
            now,
            stable="" if now.stable == name else now.stable,
            shadows=tuple(each for each in now.shadows if each.version != name),
            arms=tuple(each for each in now.arms if each.version != name),
            warm=tuple(each for each in now.warm if each.version != name),
        )
        self._write(now, left, reason=order.reason)

    def _write(self, before: Traffic, wanted: Traffic, *, reason: str) -> Traffic:
        after = msgspec.structs.replace(
            wanted,
            updated_ns=self._journal.now_ns(),
            updated_by=self._actor.subject,
            revision=before.revision + 1,
        )
        rows.write_traffic(self._connection, after)
        self._journal.record(
            self._connection,
            self._actor,
            name=EventName.TRAFFIC_SET,
            about=f"model:{before.model}",
            before=before,
            after=after,
            reason=reason,
        )
        self._tell_experiment(before, after, reason=reason)
        return after

    def _tell_experiment(self, before: Traffic, after: Traffic, *, reason: str) -> None:
        """An event of its own, however it came about that an experiment began or ended."""
        if before.experiment == after.experiment:
            return
        for traffic, name in (
            (before, EventName.EXPERIMENT_ENDED),
            (after, EventName.EXPERIMENT_STARTED),
        ):
            if traffic.experiment:
                said = ("experiment", "stable", "sticky")
                told = {each: getattr(traffic, each) for each in said}
                self._journal.record(
                    self._connection,
                    self._actor,
                    name=name,
                    about=f"model:{after.model}",
                    after={**told, "arms": traffic.arms},
                    reason=reason,
                )


def _steps(version: RegisteredVersion, order: TrafficOrder, before: Traffic) -> tuple[Step, ...]:
    """What it takes for the version to get what the order gives it, and no more than that."""
    name, state = version.version, version.state
    if name == order.stable:
        return () if _answers(version, before) else (Step.PROMOTE,)
    if name in {arm.version for arm in order.arms}:
        if state is State.CANARY:
            return ()
        return (Step.CANARY,) if state is State.SHADOW else (Step.SHADOW, Step.CANARY)
    if name in {shadow.version for shadow in order.shadows}:
        return () if state is State.SHADOW else (Step.SHADOW,)
    return (Step.STAND_DOWN,) if state in SERVING else ()


def _answers(version: RegisteredVersion, now: Traffic) -> bool:
    """Whether it is the stable version already; a deprecated one stays it until it is replaced."""
    is_stable = now.stable == version.version
    return version.state is State.STABLE or (is_stable and version.state is State.DEPRECATED)


def _told(version: RegisteredVersion, order: StateOrder) -> dict[str, object]:
    told: dict[str, object] = {
        "state": version.state,
        "revision": version.revision,
        "digest": version.digest,
    }
    if version.sunset_ns:
        told["sunset_ns"] = version.sunset_ns
    if version.successor:
        told["successor"] = version.successor
    if order.override:
        told["override"] = True
    return told
