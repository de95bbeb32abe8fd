"""Rollouts: started, turned and ended, each turn with its traffic and its audit event at once.

Every method works in the caller's transaction. Whatever happens to a rollout goes through `turn`: the
table of `rollout_states` says what comes of it, the traffic of the model is set to what that state
means, the row is written, the event appended and webhooks are queued. A process that is killed leaves
all of that or nothing.

Traffic that somebody set by hand meanwhile is theirs: the rollout is aborted and leaves it alone. A
rollback goes to the version that answered before, or, when that may not serve any more, to the last
good one that may; the audit trail and webhooks are told of that.
"""

from typing import Final

import msgspec
from sqlalchemy import Connection

from serving.audit.events import Event, EventName
from serving.core.actors import Actor
from serving.core.principals import Action
from serving.errors import AlreadyThere, Forbidden, NotFound, TransitionRefused
from serving.governance import rollout_book as book
from serving.governance.entities import Order
from serving.governance.gates import Reading
from serving.governance.journal import Journal, new_id
from serving.governance.retreat import last_good
from serving.governance.rollout_book import MOST_TURNS, Rollout, RolloutTurn
from serving.governance.rollout_plans import FIGURES, RolloutPlan, check_plan
from serving.governance.rollout_states import ACTIVE, RolloutState, Turn, turned
from serving.governance.rollout_traffic import (
    Deployable,
    checked,
    is_displaced,
    promoted,
    shared,
    without,
)
from serving.registry.entities import Traffic
from serving.registry.orders import TrafficOrder
from serving.registry.service import Registry

EVENTS: Final = {
    Turn.READY: EventName.ROLLOUT_READY,
    Turn.ADVANCE: EventName.ROLLOUT_ADVANCED,
    Turn.WAIT: EventName.ROLLOUT_HELD,
    Turn.FINISH: EventName.ROLLOUT_PROMOTED,
    Turn.PROMOTE: EventName.ROLLOUT_PROMOTED,
    Turn.ARRIVE: EventName.ROLLOUT_COMPLETED,
    Turn.BREAK: EventName.ROLLOUT_ROLLED_BACK,
    Turn.ROLL_BACK: EventName.ROLLOUT_ROLLED_BACK,
    Turn.DISPLACE: EventName.ROLLOUT_ABORTED,
    Turn.PAUSE: EventName.ROLLOUT_PAUSED,
    Turn.RESUME: EventName.ROLLOUT_RESUMED,
}


class RolloutOrder(Order, frozen=True, kw_only=True):
    """A rollout to be started."""

    candidate: str
    plan: RolloutPlan = RolloutPlan()
    reason: str = ""


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """Why a rollout takes a turn. gate: that broke, empty for none; evidence: what it was judged by."""

    reason: str = ""
    gate: str = ""
    evidence: tuple[Reading, ...] = ()


class Rollouts:
    """The rollouts of one installation."""

    def __init__(
        self, registry: Registry, journal: Journal, *, warm_s: float, deployable: Deployable
    ) -> None:
        """deployable: raises ReleaseRefused for a version that must not run. warm_s: where a plan
        says nothing."""
        self._registry = registry
        self._journal = journal
        self._warm_s = warm_s
        self._deployable = deployable

    def start(
        self, connection: Connection, model: str, order: RolloutOrder, *, actor: Actor
    ) -> Rollout:
        """Raises ModelNotFound, NotFound, Forbidden, ParameterInvalid, AlreadyThere and, where
        approvals or a verdict are missing or it cannot be deployed, TransitionRefused."""
        check_plan(order.plan)
        tenant = self._operated(connection, model, actor)
        version = self._registry.version(connection, model, order.candidate, actor=actor)
        before = book.newest(connection, model)
        if before is not None and before.is_active:
            raise AlreadyThere(
                f"version {before.candidate} is being rolled out ({before.state}): one at a time"
            )
        now = self._registry.traffic(connection, model, actor=actor)
        _check_ground(now, version.version)
        _check_copies(now, version.version, order.plan)
        now_ns = self._journal.now_ns()
        made = Rollout(
            id=new_id(),
            model=model,
            tenant=tenant,
            candidate=version.version,
            stable=now.stable,
            plan=order.plan,
            state=RolloutState.PENDING,
            since_ns=now_ns,
            created_ns=now_ns,
            created_by=actor.subject,
            reason=order.reason,
        )
        self._set(connection, shared(now, made, order.reason), now=now, actor=actor)
        checked(self._deployable, connection, version)
        book.add(connection, made)
        self._tell(connection, made, EventName.ROLLOUT_STARTED, actor=actor)
        return made

    def turn(
        self, connection: Connection, rollout: str, turn: Turn, cause: Cause, *, actor: Actor
    ) -> Rollout:
        """What happens to a rollout, and what is left of it. Raises NotFound, Forbidden,
        TransitionRefused."""
        found = book.find(connection, rollout)
        if found is None:
            raise NotFound("there is no such rollout")
        self._operated(connection, found.model, actor)
        now = self._registry.traffic(connection, found.model, actor=actor)
        ends = turn in (Turn.BREAK, Turn.ROLL_BACK)
        if is_displaced(now, found, ends=ends):
            if not found.is_active:
                raise TransitionRefused(f"{now.stable} answers now: there is nothing to roll back")
            who = now.updated_by or "somebody"
            turn, cause = Turn.DISPLACE, Cause(reason=f"{who} set the traffic of {found.model}")
        after = self._after(found, turn, cause, actor)
        if turn in (Turn.ADVANCE, Turn.FINISH, Turn.PROMOTE):
            after = self._move(connection, after, now, actor)
        elif ends and turn is not Turn.DISPLACE:
            after = self._retreat(connection, found, after, now=now, actor=actor)
        book.change(connection, after)
        self._tell(connection, after, EVENTS[turn], actor=actor, before=found)
        return after

    def of_model(self, connection: Connection, model: str, *, actor: Actor) -> tuple[Rollout, ...]:
        """Newest first. Raises ModelNotFound."""
        self._registry.model(connection, model, actor=actor)
        return book.listed(connection, model=model)

    def newest(self, connection: Connection, model: str, *, actor: Actor) -> Rollout:
        """Raises ModelNotFound, NotFound."""
        found = self.of_model(connection, model, actor=actor)
        if not found:
            raise NotFound(f"{model} had no rollout yet")
        return found[0]

    # -- inside ----------------------------------------------------------------------------------

    def _operated(self, connection: Connection, model: str, actor: Actor) -> str:
        """The tenant of a model that the actor operates."""
        found = self._registry.model(connection, model, actor=actor)
        if not actor.may(Action.OPERATE, model, found.tenant):
            raise Forbidden("this credential may not operate this model")
        return found.tenant

    def _after(self, found: Rollout, turn: Turn, cause: Cause, actor: Actor) -> Rollout:
        """The rollout as the turn leaves it, before its traffic is moved."""
        state, now_ns = turned(found.state, turn), self._journal.now_ns()
        step = found.step + (turn is Turn.ADVANCE)
        if step == len(found.plan.steps):
            raise TransitionRefused("there is no step after the last one: promote it")
        after = msgspec.structs.replace(
            found,
            state=state,
            step=step,
            # A step that waits for requests is the same step still.
            since_ns=found.since_ns if turn is Turn.WAIT else now_ns,
            ended_ns=0 if state in ACTIVE else now_ns,
            reason=cause.reason,
            gate=cause.gate,
            evidence=cause.evidence,
        )
        told = RolloutTurn(
            at_ns=now_ns,
            turn=turn,
            state=state,
            step=step,
            weight=after.weight,
            actor=actor.subject,
            reason=cause.reason,
        )
        history = (*found.history, told)[-MOST_TURNS:]
        return msgspec.structs.replace(after, history=history)

    def _move(self, connection: Connection, after: Rollout, now: Traffic, actor: Actor) -> Rollout:
        """More traffic for the candidate, or all of it."""
        if after.state is not RolloutState.PROMOTING:
            self._set(connection, shared(now, after, after.reason), now=now, actor=actor)
            return after
        warm_s = self._warm_s if after.plan.warm_s is None else after.plan.warm_s
        until_ns = self._journal.now_ns() + round(warm_s * 1e9)
        self._set(connection, promoted(now, after, until_ns), now=now, actor=actor)
        return msgspec.structs.replace(after, warm_until_ns=until_ns)

    def _retreat(
        self,
        connection: Connection,
        before: Rollout,
        after: Rollout,
        *,
        now: Traffic,
        actor: Actor,
    ) -> Rollout:
        """No traffic for the candidate. Raises TransitionRefused when nothing else may answer."""
        target = last_good(connection, before, now, deployable=self._deployable)
        if not target:
            if now.stable in ("", before.candidate):
                raise TransitionRefused(
                    f"no earlier version of {before.model} may serve: there is nothing to go back to"
                )
            target = now.stable
        settled = msgspec.structs.replace(after, settled=target, warm_until_ns=0)
        order = without(now, settled, target)
        if order is not None:
            is_new = target != now.stable
            self._set(connection, order, now=now, actor=actor, restoring=is_new)
        if target != before.stable:
            reason = f"{before.stable} may not serve any more; {target} answers instead"
            told = msgspec.structs.replace(settled, reason=reason)
            self._tell(connection, told, EventName.ROLLOUT_TARGET_REFUSED, actor=actor)
        return settled

    def _set(
        self,
        connection: Connection,
        order: TrafficOrder,
        *,
        now: Traffic,
        actor: Actor,
        restoring: bool = False,
    ) -> None:
        self._registry.set_traffic(
            connection,
            now.model,
            order=order,
            actor=actor,
            if_revision=now.revision,
            restoring=restoring,
        )

    def _tell(
        self,
        connection: Connection,
        rollout: Rollout,
        name: EventName,
        *,
        actor: Actor,
        before: Rollout | None = None,
    ) -> None:
        facts = {
            "rollout": rollout.id,
            "state": rollout.state.value,
            "step": rollout.step,
            "weight": rollout.weight,
            "gate": rollout.gate,
            "evidence": msgspec.to_builtins(rollout.evidence),
        }
        facts |= {"plan": msgspec.to_builtins(rollout.plan)} if before is None else {}
        facts |= {"settled": rollout.settled} if rollout.settled else {}
        event = Event.by(
            actor,
            name,
            f"version:{rollout.key}",
            before=None
            if before is None
            else {"state": before.state.value, "step": before.step, "weight": before.weight},
            after=facts,
            reason=rollout.reason,
        )
        self._journal.record(connection, event, facts=facts)


def _check_copies(now: Traffic, candidate: str, plan: RolloutPlan) -> None:
    """Raises TransitionRefused where gates would wait for a comparison that nobody makes."""
    blind = [gate for gate in plan.gates if gate in FIGURES]
    if blind and all(each.version != candidate for each in now.shadows):
        raise TransitionRefused(
            f"gate {', '.join(blind)} reads the comparison, and version {candidate} gets no copies: "
            f"make it a shadow first (serving traffic set {now.model} --stable {now.stable} "
            f"--shadow {candidate})"
        )


def _check_ground(now: Traffic, candidate: str) -> None:
    """Raises TransitionRefused where a rollout would have to share its traffic."""
    if not now.stable or now.stable == candidate:
        raise TransitionRefused("a rollout needs another version that answers now")
    if now.arms or now.experiment:
        raise TransitionRefused(
            "the traffic is divided already: end that first (serving traffic set, serving experiment)"
        )
