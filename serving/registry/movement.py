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

EVENTS: Final[Mapping[Step, EventName]] = {
    Step.VALIDATE: EventName.VERSION_VALIDATED,
    Step.APPROVE: EventName.VERSION_APPROVED,
    Step.SHADOW: EventName.VERSION_SHADOWED,
    Step.CANARY: EventName.VERSION_CANARIED,
    Step.PROMOTE: EventName.VERSION_PROMOTED,
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
        if order.step in TRAFFIC_STEPS - {Step.CANARY}:
            raise TransitionRefused(f"{order.step}: change the model's traffic instead")
        return self._move(version, order)

    def route(self, order: TrafficOrder, if_revision: int) -> Traffic:
        """Raises RevisionStale, TransitionRefused, ParameterInvalid."""
        before = rows.traffic_of(self._connection, self._model.name)
        if before.revision != if_revision:
            raise RevisionStale(
                f"the traffic of {self._model.name} has revision {before.revision}, not "
                f"{if_revision}: look again, then name the one that you saw (If-Match)"
            )
        wanted = [order.stable] if order.stable else []
        wanted += order.shadows
        if len(set(wanted)) != len(wanted) or (order.shadows and not order.stable):
            raise ParameterInvalid("shadows must differ from each other and from a stable version")
        known = {
            each.version: each for each in rows.versions_of(self._connection, self._model.name)
        }
        for name in wanted:
            if name not in known:
                raise ParameterInvalid(f"{self._model.name} has no version {name!r}")
        for name, version in known.items():
            if name not in wanted and version.state in SERVING:
                self._move(version, StateOrder(step=Step.STAND_DOWN, reason=order.reason))
        if order.stable and not _answers(known[order.stable], before):
            self._move(known[order.stable], StateOrder(step=Step.PROMOTE, reason=order.reason))
        for name in order.shadows:
            if known[name].state not in (State.SHADOW, State.CANARY):
                self._move(known[name], StateOrder(step=Step.SHADOW, reason=order.reason))
        wanted_row = msgspec.structs.replace(
            before,
            stable=order.stable,
            shadows=order.shadows,
            scale=order.scale or before.scale,
        )
        return self._write(before, wanted_row, reason=order.reason)

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
            now = rows.traffic_of(self._connection, version.model)
            if version.version in (now.stable, *now.shadows):
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
        if version.version not in (now.stable, *now.shadows):
            return
        left = msgspec.structs.replace(
            now,
            stable="" if now.stable == version.version else now.stable,
            shadows=tuple(each for each in now.shadows if each != version.version),
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
        return after


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
