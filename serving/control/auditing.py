"""Keeps the audit trail: gathers what waits for it, signs it, and says when the product began and ended.

Events of registry and governance are in the trail already, written with their changes. What comes from
elsewhere is absorbed here, each exactly once: changes of access from the file that they are in,
acts of commands and of other processes from the spool. Refusals are summed up over some seconds; a
control process that is killed loses those, and nothing else.

While the database is away everything waits where it is. A trail that is not what was signed is not
signed any more, and said loudly: see `audit.checkpoints`.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from sqlalchemy import Connection

from serving.access.tallies import Denial
from serving.audit.chain import plain
from serving.audit.checkpoints import Checkpoints
from serving.audit.events import Event, EventName
from serving.audit.log import AuditLog
from serving.audit.reading import Filter, find_in
from serving.audit.spool import Spool
from serving.control.access import AccessRegister
from serving.core.actors import product
from serving.core.clock import Clock
from serving.errors import AuditDamaged, NotReady, RegistryUnavailable
from serving.governance.requests import Requests
from serving.storage.database import Database
from serving.storage.worker import Worker

logger = structlog.get_logger()

SUM_UP_S: Final = 5.0
"""How long refusals are summed up before they are written."""

OPEN_S: Final = 0.1
"""From one look for the database to the next, so that the start is signed soon."""

LOOK_S: Final = 60.0
"""From one look at approvals that end to the next."""

SOON_NS: Final = 14 * 86_400 * 1_000_000_000

OURS: Final = product("control")


@dataclass(frozen=True, slots=True)
class Trail:
    """What there is once the database was reached."""

    database: Database
    log: AuditLog
    checkpoints: Checkpoints
    requests: Requests


@dataclass(frozen=True, slots=True)
class Instance:
    """What is said of the product when it starts. settings: as they are in force, without secrets."""

    name: str
    settings: dict[str, Any]


@dataclass(slots=True)
class AuditState:
    """For metrics. events: signed so far; signed_ns: wall time of the newest checkpoint. ending:
    versions with traffic whose approvals end soon."""

    events: int = 0
    signed_ns: int = 0
    damaged: bool = False
    open_requests: int = 0
    ending: tuple[str, ...] = ()


class Auditing:
    """One task of the control process."""

    def __init__(
        self,
        trail: Callable[[], Trail | None],
        worker: Worker,
        *,
        access: AccessRegister,
        spool: Spool,
        instance: Instance,
        period_s: float,
        clock: Clock,
    ) -> None:
        """trail: None until the database was reached."""
        self.state = AuditState()
        self._trail = trail
        self._worker = worker
        self._access = access
        self._spool = spool
        self._instance = instance
        self._period_s = period_s
        self._clock = clock
        self._began = False
        self._summed_ns = clock.monotonic_ns()
        self._looked_ns = self._summed_ns - round(LOOK_S * 1e9)

    async def run(self) -> None:
        """Until cancelled."""
        while (trail := self._trail()) is None:  # noqa: ASYNC110 - opened by another thread
            await asyncio.sleep(OPEN_S)
        while True:
            await self.turn(trail)
            await asyncio.sleep(self._period_s)

    async def aclose(self) -> None:
        """Writes and signs the end, once `run` is over, if the database is there."""
        trail = self._trail()
        if trail is None:
            return
        if not self._began:
            await self.turn(trail)
        self._summed_ns -= round(SUM_UP_S * 1e9)
        about = f"instance:{self._instance.name}"

        def end(connection: Connection) -> None:
            trail.log.append(connection, Event.by(OURS, EventName.INSTANCE_STOPPED, about))

        with contextlib.suppress(RegistryUnavailable):
            await self._worker.run(lambda: trail.database.run(end))
        await self.turn(trail)

    async def turn(self, trail: Trail) -> None:
        """Everything that is due now."""
        try:
            if not self._began:
                await self._worker.run(lambda: trail.database.run(self._begin(trail)))
                self._began = True
            await self._absorb_access(trail)
            await self._write_denials(trail)
            await self._worker.run(lambda: self._keep(trail))
            self.state.damaged = False
        except (RegistryUnavailable, NotReady) as error:
            logger.info("the audit trail waits", reason=error.message)
        except AuditDamaged as error:
            if not self.state.damaged:
                logger.critical("THE AUDIT TRAIL IS DAMAGED", reason=error.message)
            self.state.damaged = True
        except OSError as error:
            logger.warning("checkpoints cannot leave the machine", error=str(error))

    # -- inside ----------------------------------------------------------------------------------

    async def _absorb_access(self, trail: Trail) -> None:
        waiting = self._access.waiting_events()
        if waiting:
            await self._worker.run(
                lambda: trail.database.run(lambda c: trail.log.absorb(c, waiting))
            )
            self._access.forget_events(len(waiting))

    async def _write_denials(self, trail: Trail) -> None:
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._summed_ns < SUM_UP_S * 1e9:
            return
        self._summed_ns = now_ns
        tally = self._access.live.denials.tally
        denials = tally.take()
        if not denials:
            return
        try:
            await self._worker.run(
                lambda: trail.database.run(lambda c: _append(trail.log, c, denials))
            )
        except RegistryUnavailable:
            tally.add(denials)
            raise

    def _keep(self, trail: Trail) -> None:
        self._spool.drain(
            lambda spooled: trail.database.run(lambda c: trail.log.absorb(c, spooled))
        )
        self.state.open_requests, overdue = trail.database.read(trail.requests.open_and_overdue)
        if overdue:
            trail.database.run(trail.requests.expire)
        self._look_ahead(trail)
        trail.checkpoints.write()
        newest = trail.checkpoints.newest
        if newest is not None:
            self.state.events, self.state.signed_ns = newest.size, newest.at_ns

    def _look_ahead(self, trail: Trail) -> None:
        """Says which approvals end soon, when these are others than before."""
        if self._clock.monotonic_ns() - self._looked_ns < LOOK_S * 1e9:
            return
        self._looked_ns = self._clock.monotonic_ns()
        ending = trail.database.read(lambda c: trail.requests.ending(c, within_ns=SOON_NS))
        if ending and ending != self.state.ending:
            logger.warning("approvals end soon, or have ended", versions=ending)
        self.state.ending = ending

    def _begin(self, trail: Trail) -> Callable[[Connection], None]:
        about = f"instance:{self._instance.name}"

        def begin(connection: Connection) -> None:
            wanted = Filter(name=EventName.CONFIGURATION_APPLIED.value, limit=1)
            known = find_in(connection, wanted)
            before = known[0].after if known else None
            trail.log.append(connection, Event.by(OURS, EventName.INSTANCE_STARTED, about))
            after = plain(self._instance.settings)
            if before != after:
                applied = Event.by(
                    OURS, EventName.CONFIGURATION_APPLIED, about, before=before, after=after
                )
                trail.log.append(connection, applied)

        return begin


def _append(log: AuditLog, connection: Connection, denials: Sequence[Denial]) -> None:
    for each in denials:
        name = EventName.ACTION_DENIED if each.action else EventName.CREDENTIAL_REFUSED
        log.append(
            connection,
            Event(
                name=name,
                actor=each.subject,
                object=f"model:{each.model}" if each.model else "product",
                after=each,
                tenant=each.tenant,
            ),
        )
