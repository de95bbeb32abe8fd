"""Empties the outbox of notifications: due ones are tried, failures come again later, then give up.

At least once: a try whose outcome could not be written down is made again, with the same id. Nothing
waits for it: a receiver that hangs costs its own deliveries and a few seconds of the others'.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import structlog
from sqlalchemy import Connection, delete, select, update

from serving.core.clock import Clock
from serving.errors import RegistryUnavailable
from serving.governance.notifications import PENDING
from serving.governance.sending import Message, Sent, send
from serving.governance.tables import deliveries, webhooks
from serving.governance.webhooks import secret_of
from serving.governance_settings import WebhookSettings
from serving.storage.database import Database

logger = structlog.get_logger()

PERIOD_S: Final = 1.0
MOST_AT_ONCE: Final = 20
MAX_PAUSE_S: Final = 3600.0
KEPT_S: Final = 30 * 86_400

Result = TypeVar("Result")
Sender = Callable[..., Awaitable[Sent]]


class Thread(Protocol):
    """`storage.worker.Worker`."""

    async def run(self, work: Callable[[], Result]) -> Result: ...


@dataclass(frozen=True, slots=True)
class _Due:
    """One delivery that is to be tried."""

    id: str
    webhook: str
    url: str
    body: str
    attempts: int


class Deliveries:
    """The sender of one control process."""

    def __init__(
        self,
        database: Database,
        thread: Thread,
        *,
        settings: WebhookSettings,
        secret: bytes,
        clock: Clock,
        sender: Sender = send,
    ) -> None:
        self.counts = {"delivered": 0, "retried": 0, "given_up": 0}
        self._database = database
        self._thread = thread
        self._settings = settings
        self._secret = secret
        self._clock = clock
        self._send = sender

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                while await self.turn() == MOST_AT_ONCE:
                    pass
            except RegistryUnavailable as error:
                logger.warning("notifications wait for the database", error=error.message)
            await asyncio.sleep(PERIOD_S)

    async def turn(self) -> int:
        """Tries what is due, at most so many at once; how many that were."""
        due: Sequence[_Due] = await self._thread.run(lambda: self._database.read(self._due))
        if due:
            ends = await asyncio.gather(*(self._try(each) for each in due))
            await self._thread.run(
                lambda: self._database.run(
                    lambda c: self._note(c, list(zip(due, ends, strict=True)))
                )
            )
        return len(due)

    # -- inside ----------------------------------------------------------------------------------

    async def _try(self, due: _Due) -> Sent:
        message = Message(due.id, self._clock.wall_ns() // 1_000_000_000, due.body.encode())
        secret = secret_of(self._secret, due.webhook)
        return await self._send(due.url, message, secret=secret, settings=self._settings)

    def _due(self, connection: Connection) -> list[_Due]:
        columns = deliveries.c
        query = (
            select(columns.id, columns.webhook, webhooks.c.url, columns.body, columns.attempts)
            .join(webhooks, webhooks.c.id == columns.webhook)
            .where(columns.state == PENDING, columns.next_ns <= self._clock.wall_ns())
            .order_by(columns.next_ns)
            .limit(MOST_AT_ONCE)
        )
        return [_Due(*row) for row in connection.execute(query)]

    def _note(self, connection: Connection, tries: Sequence[tuple[_Due, Sent]]) -> None:
        now_ns = self._clock.wall_ns()
        for due, sent in tries:
            change = update(deliveries).where(deliveries.c.id == due.id)
            connection.execute(change.values(self._outcome(due, sent, now_ns)))
        old = now_ns - KEPT_S * 1_000_000_000
        connection.execute(
            delete(deliveries).where(deliveries.c.state != PENDING, deliveries.c.made_ns < old)
        )

    def _outcome(self, due: _Due, sent: Sent, now_ns: int) -> dict[str, Any]:
        attempts = due.attempts + 1
        known = {"attempts": attempts, "outcome": sent.outcome}
        if sent.delivered:
            self.counts["delivered"] += 1
            return {**known, "state": "delivered", "next_ns": 0}
        if attempts >= self._settings.attempts:
            self.counts["given_up"] += 1
            logger.warning("a notification was given up", webhook=due.webhook, outcome=sent.outcome)
            return {**known, "state": "failed", "next_ns": 0}
        self.counts["retried"] += 1
        pause_s = min(self._settings.retry_s * 2 ** (attempts - 1), MAX_PAUSE_S)
        pause_s *= 1 + random.random() / 5  # noqa: S311 - spreads retries, no secret
        return {**known, "state": PENDING, "next_ns": now_ns + round(pause_s * 1e9)}
