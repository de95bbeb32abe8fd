"""Webhooks: whom notifications go to. The secret of each is shown once, when it is added.

A webhook's secret is derived from one secret of the installation and the webhook's id, so that none
is in the database; removing a webhook and adding it again gives another.
"""

import base64
import hashlib
import hmac
import secrets
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from sqlalchemy import Connection, Row, delete, insert, select

from serving.audit.events import Event, EventName
from serving.core.actors import Actor
from serving.errors import NotFound, ParameterInvalid
from serving.governance.addresses import Destination
from serving.governance.entities import Order
from serving.governance.journal import Journal, new_id
from serving.governance.notifications import PENDING, TELLING, TEST
from serving.governance.tables import deliveries, webhooks
from serving.governance_settings import WebhookSettings
from serving.trust.privatefiles import read_or_create

SECRET_NAME: Final = "webhooks"  # noqa: S105 - a file, no password
SECRET_BYTES: Final = 32
ALL_EVENTS: Final = ("governance:*", "rollout:*")


class WebhookOrder(Order, frozen=True, kw_only=True):
    """A webhook to be added. events: names or patterns such as `governance:request:*`."""

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]
    events: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=64)], ...],
        msgspec.Meta(min_length=1, max_length=20),
    ] = ALL_EVENTS


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """One webhook. waiting, failed: deliveries that wait, or were given up; last: how the newest that
    was tried ended."""

    id: str
    url: str
    events: tuple[str, ...]
    made_by: str
    made_ns: int
    waiting: int = 0
    failed: int = 0
    last: str = ""


class MadeWebhook(msgspec.Struct, frozen=True, kw_only=True):
    """A new one; the only time that its secret is shown."""

    webhook: Webhook
    secret: str


class Webhooks:
    """Each method works in the caller's transaction."""

    def __init__(self, settings: WebhookSettings, journal: Journal, *, secret: bytes) -> None:
        """secret: of the installation, that those of webhooks are derived from."""
        self._settings = settings
        self._journal = journal
        self._secret = secret

    def add(self, connection: Connection, order: WebhookOrder, *, actor: Actor) -> MadeWebhook:
        """Raises ParameterInvalid, also for an address that must not be called."""
        Destination.of(order.url, self._settings)
        unknown = [each for each in order.events if not _means_something(each)]
        if unknown:
            raise ParameterInvalid(f"there is no event {unknown[0]!r} that webhooks are told")
        if len(self.listed(connection)) >= self._settings.max_webhooks:
            raise ParameterInvalid(f"there may be at most {self._settings.max_webhooks} webhooks")
        made = Webhook(
            id=new_id(),
            url=order.url,
            events=order.events,
            made_by=actor.subject,
            made_ns=self._journal.now_ns(),
        )
        row = {
            "id": made.id,
            "url": made.url,
            "events": list(made.events),
            "made_by": made.made_by,
            "made_ns": made.made_ns,
        }
        connection.execute(insert(webhooks).values(row))
        self._journal.record(
            connection,
            Event.by(actor, EventName.WEBHOOK_ADDED, f"webhook:{made.id}", after=row),
        )
        return MadeWebhook(webhook=made, secret=shown(secret_of(self._secret, made.id)))

    def listed(self, connection: Connection) -> tuple[Webhook, ...]:
        """All, oldest first."""
        rows = connection.execute(select(webhooks).order_by(webhooks.c.made_ns)).all()
        return tuple(self._viewed(connection, row) for row in rows)

    def remove(self, connection: Connection, webhook: str, *, actor: Actor) -> None:
        """With what waits for it. Raises NotFound."""
        found = self._find(connection, webhook)
        connection.execute(delete(deliveries).where(deliveries.c.webhook == webhook))
        connection.execute(delete(webhooks).where(webhooks.c.id == webhook))
        event = Event.by(
            actor, EventName.WEBHOOK_REMOVED, f"webhook:{webhook}", before={"url": found.url}
        )
        self._journal.record(connection, event)

    def test(self, connection: Connection, webhook: str, *, actor: Actor) -> str:
        """Queues a delivery that says who tries; its identifier. Raises NotFound."""
        self._find(connection, webhook)
        return self._journal.notifications.queue(
            connection, webhook, TEST, {"asked_by": actor.subject}
        )

    # -- inside ----------------------------------------------------------------------------------

    def _find(self, connection: Connection, webhook: str) -> Webhook:
        for each in self.listed(connection):
            if each.id == webhook:
                return each
        raise NotFound("there is no such webhook")

    def _viewed(self, connection: Connection, row: Row[Any]) -> Webhook:
        of_it = select(deliveries.c.state).where(deliveries.c.webhook == row.id)
        states = Counter(connection.scalars(of_it))
        newest = (
            select(deliveries.c.outcome)
            .where(deliveries.c.webhook == row.id, deliveries.c.attempts > 0)
            .order_by(deliveries.c.made_ns.desc())
            .limit(1)
        )
        return Webhook(
            id=row.id,
            url=row.url,
            events=tuple(row.events),
            made_by=row.made_by,
            made_ns=row.made_ns,
            waiting=states[PENDING],
            failed=states["failed"],
            last=connection.scalar(newest) or "",
        )


def webhook_secret(keys_dir: Path) -> bytes:
    """The installation's, made on first use. Raises StartFailed."""
    return read_or_create(keys_dir / SECRET_NAME, lambda: secrets.token_bytes(SECRET_BYTES))


def secret_of(installation: bytes, webhook: str) -> bytes:
    """What deliveries to a webhook are signed with."""
    return hmac.new(installation, f"webhook {webhook}".encode(), hashlib.sha256).digest()


def shown(secret: bytes) -> str:
    """As Standard Webhooks writes a secret."""
    return f"whsec_{base64.b64encode(secret).decode()}"


def _means_something(pattern: str) -> bool:
    names = [event.value for event in TELLING]
    if pattern.endswith("*"):
        return any(name.startswith(pattern[:-1]) for name in names)
    return pattern in names
