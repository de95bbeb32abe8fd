"""Who decides about access: the one place where the access state changes.

Every change is checked, kept on disk with its audit event, put in force here and announced to the
gateway workers, in that order; a change that cannot be kept is not made. The event waits in that file
until the trail has it, so a change neither needs the database nor escapes the trail. API keys are in
`control.access_keys`.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import structlog

from serving.access.apikeys import new_secret
from serving.access.live import LiveAccess, principal_of
from serving.access.orders import (
    DAY_S,
    Explanation,
    Question,
    RevocationOrder,
    RuleOrder,
    check_rule,
)
from serving.access.patterns import ANY
from serving.access.policy import Policy
from serving.access.state import AccessState, ApiKey, Revocation, RevocationKind, Rule
from serving.access.store import AccessStore
from serving.access.tallies import Denial
from serving.access.tokens import Authenticator
from serving.audit.events import Event, EventName
from serving.audit.spool import Spooled
from serving.control.announcement import Announcement
from serving.core.actors import NOWHERE, Actor, Origin
from serving.core.clock import Clock
from serving.core.principals import Action, Principal
from serving.errors import NotFound, ParameterInvalid

logger = structlog.get_logger()

MOST: Final = 10_000
"""Keys, rules or revocations of one instance; each worker holds all of them."""

KEPT_S: Final = 90 * DAY_S
"""A key that has ended, and a revoked token, are listed for so long; no token lives longer."""


class AccessRegister:
    """The access state of one instance. Not for use from several threads."""

    def __init__(
        self, store: AccessStore, *, live: LiveAccess, authenticator: Authenticator, clock: Clock
    ) -> None:
        """live, authenticator: of the control port itself. Raises StartFailed."""
        self.live = live
        self._store = store
        self._authenticator = authenticator
        self._clock = clock
        self._announcement = Announcement(store.load())
        live.apply(self.state, authenticator)

    @property
    def state(self) -> AccessState:
        return self._announcement.current

    def now_s(self) -> int:
        """Wall time in whole seconds."""
        return self._clock.wall_ns() // 1_000_000_000

    async def after(self, epoch: int, *, wait_s: float) -> AccessState | None:
        """A state newer than `epoch`, None when there is none within `wait_s`."""
        if epoch > self.state.epoch:
            # A worker knows a later one: the file here is an older copy. Ours counts, so it must win.
            self._put(self.state, epoch=epoch + 1)
        return await self._announcement.after(epoch, wait_s=wait_s)

    # -- for the audit trail -----------------------------------------------------------------------

    def waiting_events(self) -> tuple[Spooled, ...]:
        """Events of changes that the trail does not have yet, oldest first."""
        return tuple(msgspec.json.decode(each, type=Spooled) for each in self._store.notices())

    def forget_events(self, count: int) -> None:
        """The first of them are in the trail. Raises NotReady; then they are told again."""
        self._store.forget(count)

    def note_denials(self, denials: Sequence[Denial]) -> None:
        """Refusals that a gateway worker tells of."""
        self.live.denials.tally.add(denials)

    # -- changes -----------------------------------------------------------------------------------

    def change(
        self,
        event: Event,
        *,
        keys: tuple[ApiKey, ...] | None = None,
        rules: tuple[Rule, ...] | None = None,
        revocations: tuple[Revocation, ...] | None = None,
    ) -> None:
        """Replaces the parts that are given. event: what the trail says of it.

        Raises NotReady, and then nothing has changed.
        """
        before, now_s = self.state, self.now_s()
        state = AccessState(
            keys=_recent_keys(before.keys if keys is None else keys, now_s),
            rules=before.rules if rules is None else rules,
            revocations=_recent(before.revocations if revocations is None else revocations, now_s),
        )
        if max(len(state.keys), len(state.rules), len(state.revocations)) > MOST:
            raise ParameterInvalid(f"there may be at most {MOST} keys, rules or revocations")
        self._put(state, epoch=before.epoch + 1, event=event)

    # -- rules and revocations ---------------------------------------------------------------------

    def rules(self) -> tuple[Rule, ...]:
        return self.state.rules

    def add_rule(self, order: RuleOrder, maker: Principal, *, origin: Origin = NOWHERE) -> Rule:
        """Raises ParameterInvalid, also for a denial that would shut its own maker out."""
        check_rule(order)
        identifier, _ = new_secret()
        rule = Rule(
            rule=identifier,
            made_by=maker.subject,
            made_s=self.now_s(),
            **msgspec.structs.asdict(order),
        )
        after = msgspec.structs.replace(self.state, rules=(*self.state.rules, rule))
        if not Policy(after).decide(maker, Action.MANAGE_ACCESS, None).allowed:
            raise ParameterInvalid("this would shut you out; name others, or an action")
        event = event_of(maker, origin, EventName.RULE_MADE, f"rule:{rule.rule}", after=rule)
        self.change(event, rules=after.rules)
        logger.info("rule made", by=maker.subject, rule=rule.rule, effect=rule.effect.value)
        return rule

    def remove_rule(self, name: str, maker: Principal, *, origin: Origin = NOWHERE) -> None:
        """Raises NotFound."""
        gone = [rule for rule in self.state.rules if rule.rule == name]
        if not gone:
            raise NotFound("there is no such rule")
        kept = tuple(rule for rule in self.state.rules if rule.rule != name)
        event = event_of(maker, origin, EventName.RULE_REMOVED, f"rule:{name}", before=gone[0])
        self.change(event, rules=kept)
        logger.info("rule removed", by=maker.subject, rule=name)

    def revocations(self) -> tuple[Revocation, ...]:
        return self.state.revocations

    def revoke(
        self, order: RevocationOrder, maker: Principal, *, origin: Origin = NOWHERE
    ) -> Revocation:
        """Replaces an earlier one of the same. Raises ParameterInvalid."""
        now_s = self.now_s()
        is_timed = order.kind is RevocationKind.ISSUED_BEFORE
        if order.value == ANY and not is_timed:
            raise ParameterInvalid("* is for issued_before: everything issued until then")
        if order.kind is RevocationKind.SUBJECT and order.value == maker.subject:
            raise ParameterInvalid("this would shut you out; somebody else has to do it")
        if order.since_s > now_s:
            raise ParameterInvalid("since_s must not lie in the future: new credentials would fail")
        revocation = Revocation(
            kind=order.kind,
            value=order.value,
            since_s=(order.since_s or now_s) if is_timed else 0,
            comment=order.comment,
            made_by=maker.subject,
            made_s=now_s,
        )
        others = self._revocations_without(order.kind, order.value)
        about = f"{order.kind}:{order.value}"
        event = event_of(maker, origin, EventName.REVOCATION_MADE, about, after=revocation)
        self.change(event, revocations=(*others, revocation))
        logger.info("revoked", by=maker.subject, kind=order.kind.value, value=order.value)
        return revocation

    def unrevoke(
        self, kind: RevocationKind, value: str, maker: Principal, *, origin: Origin = NOWHERE
    ) -> None:
        """Raises NotFound."""
        kept = self._revocations_without(kind, value)
        gone = [each for each in self.state.revocations if each not in kept]
        if not gone:
            raise NotFound("there is no such revocation")
        event = event_of(
            maker, origin, EventName.REVOCATION_WITHDRAWN, f"{kind}:{value}", before=gone[0]
        )
        self.change(event, revocations=kept)
        logger.info("revocation withdrawn", by=maker.subject, kind=kind.value, value=value)

    def explain(self, question: Question) -> Explanation:
        """What would be decided now, and why. Raises NotFound for a key that is none."""
        principal = self._whom(question)
        decision = self.live.decide(principal, question.action, question.model)
        return Explanation(
            allowed=decision.allowed,
            ground=decision.ground,
            rule=decision.rule,
            reason=decision.reason,
            epoch=self.state.epoch,
            subject=principal.subject,
            tenant=principal.tenant,
            roles=tuple(sorted(principal.roles)),
            action=question.action,
            model=question.model,
        )

    # -- inside ----------------------------------------------------------------------------------

    def _whom(self, question: Question) -> Principal:
        if not question.key:
            roles = frozenset(question.roles)
            return Principal(question.subject, roles, tenant=question.tenant)
        for key in self.state.keys:
            if key.key == question.key:
                return principal_of(key)
        raise NotFound("there is no such key")

    def _revocations_without(self, kind: RevocationKind, value: str) -> tuple[Revocation, ...]:
        return tuple(r for r in self.state.revocations if (r.kind, r.value) != (kind, value))

    def _put(self, state: AccessState, *, epoch: int, event: Event | None = None) -> None:
        state = msgspec.structs.replace(state, epoch=epoch)
        spooled = event and Spooled.new(event, at_ns=self._clock.wall_ns())
        self._store.save(state, notice=msgspec.json.encode(spooled) if spooled else None)
        self.live.apply(state, self._authenticator)
        self._announcement.announce(state)


def event_of(
    maker: Principal,
    origin: Origin,
    name: EventName,
    about: str,
    *,
    before: Any = None,
    after: Any = None,
) -> Event:
    """An event about access. What a comment says is in the thing itself."""
    actor = Actor.of(maker, source=origin.source, request_id=origin.request_id)
    reason = getattr(after if after is not None else before, "comment", "")
    return Event.by(actor, name, about, before=before, after=after, reason=reason)


def _recent_keys(keys: tuple[ApiKey, ...], now_s: int) -> tuple[ApiKey, ...]:
    return tuple(key for key in keys if now_s < key.ends_s + KEPT_S)


def _recent(revocations: tuple[Revocation, ...], now_s: int) -> tuple[Revocation, ...]:
    return tuple(
        each
        for each in revocations
        if each.kind is not RevocationKind.TOKEN or now_s < each.made_s + KEPT_S
    )
