"""Appends events to the audit trail, inside the transaction of the change they tell of.

Nothing here commits: the caller's transaction makes the change and its event one. When the event
cannot be written the change does not happen. Whoever appends holds the trail's head row, so events
of concurrent transactions get their places one after the other (SQLite has one writer anyway).
"""

import secrets
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, insert, select, update

from serving.audit.chain import Chain, Link
from serving.audit.events import Event, EventName
from serving.audit.spool import Spooled
from serving.audit.tables import events, log_head
from serving.core.clock import Clock

HEAD: Final = "log"
LOG_ID_BYTES: Final = 8


class AuditLog:
    """The trail of one installation."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def append(self, connection: Connection, event: Event) -> Link:
        """Writes `event` at the end of the trail; it is there when the transaction is."""
        spooled = Spooled(new_event_id(), self._clock.wall_ns(), event)
        return self._append(connection, self._chain(connection), [spooled])[0]

    def absorb(self, connection: Connection, spooled: Sequence[Spooled]) -> int:
        """Writes those of `spooled` that are not in the trail yet; how many that were."""
        identifiers = [each.id for each in spooled]
        query = select(events.c.id).where(events.c.id.in_(identifiers))
        # The head first: two that absorb the same at the same time wait for each other.
        chain = self._chain(connection)
        known = set(connection.scalars(query))
        new = [each for each in spooled if each.id not in known]
        return len(self._append(connection, chain, new))

    def open(self, connection: Connection) -> str:
        """The log's id; begins the log when there is none."""
        return self._chain(connection).log_id

    def _chain(self, connection: Connection) -> Chain:
        row = connection.execute(select(log_head).with_for_update()).one_or_none()
        if row is not None:
            return Chain(row.log_id, row.size, row.last)
        log_id = secrets.token_hex(LOG_ID_BYTES)
        connection.execute(insert(log_head).values(id=HEAD, log_id=log_id, size=0, last=""))
        chain = Chain(log_id)
        opened = Event(EventName.AUDIT_OPENED, "serving", f"audit:{log_id}")
        self._append(connection, chain, [Spooled(new_event_id(), self._clock.wall_ns(), opened)])
        return chain

    def _append(
        self, connection: Connection, chain: Chain, spooled: Sequence[Spooled]
    ) -> list[Link]:
        links = [chain.link(each.event, event_id=each.id, at_ns=each.at_ns) for each in spooled]
        if links:
            connection.execute(insert(events), [row_of(link) for link in links])
            moved = update(log_head).where(log_head.c.id == HEAD)
            connection.execute(moved.values(size=chain.size, last=chain.last))
        return links


def new_event_id() -> str:
    return secrets.token_hex(16)


def row_of(link: Link) -> dict[str, object]:
    """One row of the table."""
    entry = link.entry
    return {
        "position": entry.position,
        "id": entry.id,
        "at_ns": int(entry.at_ns),
        "name": entry.name,
        "actor": entry.actor,
        "object": entry.object,
        "body": link.body.decode(),
        "hash": link.hash,
    }
