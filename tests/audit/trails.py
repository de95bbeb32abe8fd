"""Trails for tests: a real database with events, checkpoints and an anchor, and ways to damage it."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, text

from serving.audit.chain import Chain, Entry, Link
from serving.audit.checkpoints import Checkpoints
from serving.audit.events import Event, EventName
from serving.audit.findings import Report
from serving.audit.log import AuditLog
from serving.audit.reading import trail_of
from serving.audit.spool import Spooled
from serving.audit.verification import verify
from serving.core.clock import ManualClock
from serving.storage.database import Database
from serving.storage_settings import RegistrySettings
from serving.trust.installation import installation_key, read_trusted

_numbers = itertools.count()


def event(number: int = 0, **other: Any) -> Event:
    """Any event; those of different numbers differ."""
    return Event(
        name=EventName.KEY_MADE,
        actor="ada",
        object=f"key:{number}",
        **{"after": {"number": number}, "source": "127.0.0.1", **other},
    )


class Trail:
    """A trail in a folder, as a control process keeps it."""

    def __init__(
        self,
        folder: Path,
        *,
        keys: Path | None = None,
        settings: RegistrySettings | None = None,
    ) -> None:
        self.clock = ManualClock()
        self.folder = folder
        self.keys = keys or folder / "keys"
        self.anchor = folder / "anchor.txt"
        folder.mkdir(mode=0o700, exist_ok=True)
        self.database = Database.open(settings or RegistrySettings(), folder, clock=self.clock)
        self.log = AuditLog(self.clock)
        self.key = installation_key(self.keys)
        self.checkpoints = self.resumed()

    def resumed(self) -> Checkpoints:
        """What signs, as after a restart."""
        return Checkpoints(
            self.database,
            key=installation_key(self.keys),
            trusted=lambda: read_trusted(self.keys),
            anchor=self.anchor,
            clock=self.clock,
        )

    def append(self, count: int = 1) -> list[Link]:
        """So many events in one transaction, with times of their own."""

        def change(connection: Connection) -> list[Link]:
            links = []
            for _ in range(count):
                self.clock.advance(0.001)
                links.append(self.log.append(connection, event(next(_numbers))))
            return links

        return self.database.run(change)

    def absorb(self, spooled: Sequence[Spooled]) -> int:
        """In a transaction of its own."""
        return self.database.run(lambda connection: self.log.absorb(connection, spooled))

    def sign(self) -> None:
        self.clock.advance(1)
        self.checkpoints.write()

    def verify(self, *, anchored: bool = True) -> Report:
        anchor = self.anchor if anchored else None
        return verify(trail_of(self.database, anchor=anchor), read_trusted(self.keys))

    def sql(self, *statements: str, **values: Any) -> None:
        """What an administrator of the database could do."""

        def change(connection: Connection) -> None:
            for statement in statements:
                connection.execute(text(statement), values)

        self.database.run(change)

    def rewrite(self, position: int, edit: Callable[[Event], Event]) -> None:
        """Changes one event and makes every later hash fit again, head included."""

        def change(connection: Connection) -> None:
            rows = connection.execute(
                text("SELECT position, body FROM audit_events ORDER BY position")
            ).all()
            head = connection.execute(text("SELECT log_id FROM audit_head")).one()
            chain = Chain(head.log_id)
            for row in rows:
                _relink(connection, chain, row.body, edit if row.position == position else None)
            connection.execute(text("UPDATE audit_head SET last = :last"), {"last": chain.last})

        self.database.run(change)


def _relink(
    connection: Connection, chain: Chain, body: str, edit: Callable[[Event], Event] | None
) -> None:
    entry = msgspec.json.decode(body, type=Entry)
    kept = Event(
        name=EventName(entry.name),
        actor=entry.actor,
        object=entry.object,
        before=entry.before,
        after=entry.after,
        reason=entry.reason,
        source=entry.source,
        request_id=entry.request_id,
        tenant=entry.tenant,
    )
    link = chain.link(edit(kept) if edit else kept, event_id=entry.id, at_ns=int(entry.at_ns))
    connection.execute(
        text(
            "UPDATE audit_events SET body = :body, hash = :hash, actor = :actor WHERE position = :p"
        ),
        {
            "body": link.body.decode(),
            "hash": link.hash,
            "p": link.entry.position,
            "actor": link.entry.actor,
        },
    )
