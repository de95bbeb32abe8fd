"""Conducts rollouts: every second it looks at each, asks `canary` what is next, and does that.

One task of the control process. It holds nothing that is not in the database, in the overlay or told
again by the gateways within a second, so that a process killed at any instant goes on where it was;
counts of a step then begin anew, which makes it wait, never advance.

A rollback is laid over the desired state first and told to gateways at once; the registry, the audit
trail and webhooks follow in one transaction, as soon as there is a database (`overlay`).
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Literal

import structlog
from sqlalchemy import Connection

from serving.control.canary import FAULT_GATES, Next, Sight, decide
from serving.control.lookout import Known, Lookout, Senses
from serving.control.overlay import Overlay, Retreat
from serving.core.actors import Actor, product
from serving.core.clock import Clock
from serving.core.principals import Action
from serving.errors import Forbidden, NotFound, RegistryUnavailable, ServingError, StateConflict
from serving.governance import rollout_book as book
from serving.governance.rollout_book import Rollout
from serving.governance.rollout_states import RolloutState, Turn
from serving.governance.rollout_traffic import is_displaced
from serving.governance.rollouts import Cause, Rollouts
from serving.registry import rows
from serving.registry.lifecycle import State
from serving.rollout_settings import RolloutSettings
from serving.storage.database import Database
from serving.storage.worker import Worker

logger = structlog.get_logger()

OURS: Final = product("rollouts")
OPEN_S: Final = 0.1
LOST: Final = frozenset({State.VALIDATED, State.REGISTERED, State.REJECTED, State.RETIRED})
"""States that take a version its traffic."""


@dataclass(frozen=True, slots=True)
class RolloutOffice:
    """What there is once the database was reached."""

    database: Database
    rollouts: Rollouts


@dataclass(frozen=True, slots=True)
class Seen:
    """A rollout and what was seen of it last."""

    rollout: Rollout
    sight: Sight


class Conductor:
    """See the module docstring. Owned by one event loop; `seen` may be read from any thread."""

    def __init__(
        self,
        office: Callable[[], RolloutOffice | None],
        worker: Worker,
        *,
        senses: Senses,
        overlay: Overlay,
        settings: RolloutSettings,
        clock: Clock,
    ) -> None:
        """office: None until the database was reached."""
        self.seen: dict[str, Seen] = {}
        self.rollbacks: Counter[tuple[str, str]] = Counter()
        self._office = office
        self._worker = worker
        self._senses = senses
        self._overlay = overlay
        self._settings = settings
        self._clock = clock
        self._known: tuple[Known, ...] | None = None
        self._lookout = Lookout(senses, settings, clock)
        self._stuck: set[str] = set()
        self._nudged = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        while (office := self._office()) is None:  # noqa: ASYNC110 - opened by another thread
            await asyncio.sleep(OPEN_S)
        while True:
            try:
                await self.turn(office)
            except ServingError as error:
                logger.warning("rollouts wait", code=error.code, reason=error.message)
            except Exception:  # A fault in judging must not take what serves with it.
                logger.exception("rollouts wait")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._nudged.wait(), self._settings.tick_s)

    def nudge(self) -> None:
        """A rollout was started or turned by somebody."""
        self._nudged.set()

    async def turn(self, office: RolloutOffice) -> None:
        """Everything that is due now."""
        for retreat in self._overlay.entries:
            await self._carry_out(office, retreat)
        await self._refresh(office)
        for known in self._known or ():
            sight = self._lookout.look(known)
            self.seen[known.rollout.model] = Seen(known.rollout, sight)
            # A series that is there before it grows: increases are seen from the first one on.
            gates = (*known.rollout.plan.limits, *FAULT_GATES)
            self.rollbacks.update({(known.rollout.model, gate): 0 for gate in gates})
            found = decide(known.rollout, sight, start_s=self._settings.start_s)
            if found is not None:
                await self._take(office, known.rollout, found)

    def retreat(self, model: str, *, actor: Actor, reason: str) -> Rollout | None:
        """A rollback that somebody wants while the registry is away; None when nothing is known to
        roll back. Raises Forbidden."""
        for known in self._known or ():
            rollout = known.rollout
            if rollout.model == model:
                if not actor.may(Action.OPERATE, model, rollout.tenant):
                    raise Forbidden("this credential may not operate this model")
                self._lay(rollout, "roll_back", Cause(reason=reason), by=actor.subject)
                self.nudge()
                return rollout
        return None

    # -- turns -----------------------------------------------------------------------------------

    async def _refresh(self, office: RolloutOffice) -> None:
        if self._known is not None and not self._known and not self._nudged.is_set():
            return
        self._nudged.clear()
        try:
            self._known = await self._worker.run(lambda: office.database.read(self._read))
        except RegistryUnavailable as error:
            self._known = (
                self._known or None
            )  # Whoever was announced meanwhile is looked for again.
            logger.info("rollouts go on as they are known", reason=error.message)
        rollouts = [known.rollout for known in self._known or ()]
        self._lookout.keep({each.id for each in rollouts})
        models = {each.model for each in rollouts}
        self.seen = {key: it for key, it in self.seen.items() if key in models}

    async def _take(self, office: RolloutOffice, rollout: Rollout, found: Next) -> None:
        if found.turn is Turn.BREAK:
            laid = {each.rollout for each in self._overlay.entries}
            if rollout.id in laid | self._stuck:
                return  # It waits for the registry, or nothing else may serve: said already.
            self.rollbacks[rollout.model, found.cause.gate] += 1
            await self._carry_out(office, self._lay(rollout, "break", found.cause))
            return
        logger.info("rollout", model=rollout.key, turn=found.turn, reason=found.cause.reason)
        try:
            self._note(await self._turn(office, rollout.id, found.turn, found.cause))
        except RegistryUnavailable as error:
            logger.warning("a rollout waits for the registry", reason=error.message)
        except StateConflict as error:
            if rollout.state is RolloutState.RUNNING and found.turn is Turn.FINISH:
                with contextlib.suppress(RegistryUnavailable, StateConflict):
                    cause = Cause(reason=error.message, evidence=found.cause.evidence)
                    self._note(await self._turn(office, rollout.id, Turn.WAIT, cause))
            logger.warning("a rollout waits", model=rollout.key, reason=error.message)
        else:
            await self._senses.reread()

    def _note(self, after: Rollout) -> None:
        """Knows it as it is now, in case the registry cannot be asked at the next look."""
        self._known = tuple(
            replace(known, rollout=after) if known.rollout.id == after.id else known
            for known in self._known or ()
        )

    def _lay(
        self, rollout: Rollout, turn: Literal["break", "roll_back"], cause: Cause, *, by: str = ""
    ) -> Retreat:
        """Gateways are told now."""
        retreat = Retreat(
            rollout=rollout.id,
            model=rollout.model,
            candidate=rollout.candidate,
            stable=rollout.stable,
            turn=turn,
            cause=cause,
            at_ns=self._clock.wall_ns(),
            by=by,
        )
        logger.error("rolling back", model=rollout.key, gate=cause.gate, reason=cause.reason)
        self._overlay.put(retreat)
        self._senses.floor.look()
        return retreat

    async def _carry_out(self, office: RolloutOffice, retreat: Retreat) -> None:
        """What gateways know, the registry and the trail get to know, too."""
        actor = Actor(subject=retreat.by, source="overlay") if retreat.by else OURS
        try:
            after = await self._turn(
                office, retreat.rollout, Turn(retreat.turn), retreat.cause, actor=actor
            )
            if after.settled not in ("", after.stable):
                logger.critical("the version before may not serve", answers=after.settled)
        except RegistryUnavailable as error:
            logger.warning("a rollback waits for the registry", reason=error.message)
            return
        except (StateConflict, NotFound) as error:
            # Over already, or nothing earlier may serve: then the candidate goes on.
            self._stuck.add(retreat.rollout)
            logger.error("a rollback has nothing to do", model=retreat.model, reason=error.message)  # noqa: TRY400 - expected
        if await self._senses.reread():
            self._overlay.drop(retreat.rollout)

    async def _turn(
        self,
        office: RolloutOffice,
        rollout: str,
        turn: Turn,
        cause: Cause,
        *,
        actor: Actor = OURS,
    ) -> Rollout:
        change = partial(self._change, office, rollout=rollout, turn=turn, cause=cause, actor=actor)
        return await self._worker.run(lambda: office.database.run(change))

    @staticmethod
    def _change(
        office: RolloutOffice,
        connection: Connection,
        *,
        rollout: str,
        turn: Turn,
        cause: Cause,
        actor: Actor,
    ) -> Rollout:
        return office.rollouts.turn(connection, rollout, turn, cause, actor=actor)

    def _read(self, connection: Connection) -> tuple[Known, ...]:
        found: dict[str, Known] = {}
        for rollout in book.watched(connection, now_ns=self._clock.wall_ns()):
            newest = book.newest(connection, rollout.model)
            if newest is None or newest.id != rollout.id:
                continue
            now = rows.traffic_of(connection, rollout.model)
            displaced, refusal = is_displaced(now, rollout, ends=False), ""
            version = rows.find_version(connection, rollout.model, rollout.candidate)
            if displaced and version is not None and version.state in LOST:
                displaced, refusal = False, f"it is {version.state}"
            found[rollout.model] = Known(rollout, displaced, refusal)
        return tuple(found.values())
