"""Signs what the trail is, once a second while it grows, and carries it out of the database.

Before it signs, the new events are checked against the chain and against the last checkpoint: the
tree goes on from that checkpoint's frontier, whose root must be the one that was signed. A trail that
became shorter, or that does not follow from what was signed, is not signed any more: that would
cover the change. It is logged, counted, and left as it is for a person with `serving audit verify`.

The anchor is a file that only grows; put it where whoever can write the database cannot: another
disk, a mounted bucket, a machine that pulls. What somebody may change unseen is at most what came
since the last checkpoint that left: a second.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import structlog
from sqlalchemy import Connection, insert, select

from serving.audit.chain import Chain, read_body
from serving.audit.notes import Checkpoint, Note, read_notes, signed_note
from serving.audit.tables import checkpoints, events, log_head
from serving.core.clock import Clock
from serving.errors import AuditDamaged, SignatureInvalid
from serving.trust.merkle import HASH_BYTES, Frontier, leaf_hash
from serving.trust.signatures import SigningKey, TrustedKeys

logger = structlog.get_logger()

BATCH_EVENTS: Final = 1000
TAIL_BYTES: Final = 64 * 1024
"""Of the anchor: where its newest checkpoint is looked for."""


class Transactions(Protocol):
    """`storage.database.Database`."""

    def run(self, change: Callable[[Connection], Any]) -> Any: ...
    def read(self, question: Callable[[Connection], Any]) -> Any: ...


class Checkpoints:
    """Written by the control process alone; every call blocks on the database and the disk."""

    def __init__(
        self,
        database: Transactions,
        *,
        key: SigningKey,
        trusted: Callable[[], TrustedKeys],
        anchor: Path,
        clock: Clock,
    ) -> None:
        """trusted: the trusted keys as they are now. anchor: the file; its folder is made."""
        self._database = database
        self._key = key
        self._trusted = trusted
        self._anchor = anchor
        self._clock = clock
        self._written: Checkpoint | None = None
        self._frontier = Frontier()

    @property
    def newest(self) -> Checkpoint | None:
        """The last one that was written or found."""
        return self._written

    def write(self) -> Checkpoint | None:
        """A new checkpoint when the trail has grown, else None. Raises AuditDamaged.

        Raises RegistryUnavailable as well, and OSError when the anchor cannot be written: then the
        checkpoint is in the database only, and goes to the anchor with the next call.
        """
        if self._written is None:
            self._resume()
        log_id, size = self._database.read(_head)
        if self._written is not None and size < self._written.size:
            raise AuditDamaged(
                f"the trail has {size} events, and {self._written.size} were signed already"
            )
        if not log_id or (self._written is not None and size == self._written.size):
            self._carry_out()
            return None
        self._database.read(lambda connection: self._grow(connection, log_id, size))
        written = Checkpoint(log_id, size, self._frontier.root(), self._clock.wall_ns())
        row = {
            "size": size,
            "at_ns": written.at_ns,
            "note": signed_note(written, self._key),
            "nodes": b"".join(self._frontier.nodes),
        }
        self._database.run(lambda connection: connection.execute(insert(checkpoints), row))
        self._written = written
        self._carry_out()
        return written

    # -- inside ----------------------------------------------------------------------------------

    def _resume(self) -> None:
        """Goes on from the last checkpoint. Raises AuditDamaged when that is not to be believed."""
        row = self._database.read(_last_checkpoint)
        anchored = self._anchored()
        if row is None:
            if anchored is not None:
                raise AuditDamaged("the database has no checkpoint, but the anchor holds some")
            return
        found, frontier = _believed(row, self._trusted())
        _check_anchor(anchored, found)
        self._written, self._frontier = found, frontier

    def _grow(self, connection: Connection, log_id: str, size: int) -> None:
        """Takes the events up to `size` into the tree. Raises AuditDamaged, with the tree as it was."""
        frontier = Frontier(self._frontier.size, self._frontier.nodes)
        chain = _chain_at(connection, log_id, frontier.size)
        while frontier.size < size:
            query = select(events.c.position, events.c.body, events.c.hash)
            upto = min(size, frontier.size + BATCH_EVENTS)
            wanted = events.c.position.between(frontier.size, upto - 1)
            rows = connection.execute(query.where(wanted).order_by(events.c.position)).all()
            for row in rows:
                leaf = leaf_hash(row.body.encode())
                entry = read_body(row.body.encode())
                follows = entry is not None and entry.previous == chain.last
                if row.position != frontier.size or leaf.hex() != row.hash or not follows:
                    raise AuditDamaged(f"event {frontier.size} does not follow from those before")
                frontier.append(leaf)
                chain.last = row.hash
            if frontier.size < upto:
                raise AuditDamaged(f"event {frontier.size} is missing")
        self._frontier = frontier

    def _carry_out(self) -> None:
        """Appends the newest checkpoint to the anchor, unless it ends with it."""
        if self._written is None or self._anchored() == self._written:
            return
        row = self._database.read(_last_checkpoint)
        if row is not None:
            append_note(self._anchor, row.note)

    def _anchored(self) -> Checkpoint | None:
        newest = newest_note(self._anchor)
        return newest.claimed if newest is not None else None


def _believed(row: Any, trusted: TrustedKeys) -> tuple[Checkpoint, Frontier]:
    """A checkpoint of the table, with its tree. Raises AuditDamaged."""
    nodes = [row.nodes[at : at + HASH_BYTES] for at in range(0, len(row.nodes), HASH_BYTES)]
    try:
        (note,) = read_notes(row.note)
        found, frontier = note.verified(trusted), Frontier(row.size, nodes)
    except (SignatureInvalid, ValueError) as error:
        raise AuditDamaged(f"the checkpoint of {row.size} events: {error}") from error
    if frontier.root() != found.root or found.size != row.size:
        raise AuditDamaged(f"the checkpoint of {row.size} events does not fit its tree")
    return found, frontier


def _check_anchor(anchored: Checkpoint | None, found: Checkpoint) -> None:
    """Raises AuditDamaged when the anchor knows more than the database, or something else."""
    if anchored is None:
        return
    same = (anchored.size, anchored.root) == (found.size, found.root)
    if anchored.log_id != found.log_id or (anchored.size >= found.size and not same):
        raise AuditDamaged(
            f"the anchor knows {anchored.size} events of log {anchored.log_id}, the database "
            f"{found.size} of {found.log_id}: it is an older copy, a fork or another log"
        )


def append_note(anchor: Path, note: str) -> None:
    """Adds one note to the file and returns when it is on disk. Raises OSError."""
    anchor.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(anchor, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        # An empty line first: what a crash left of an earlier note ends there.
        os.write(descriptor, f"\n{note}".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def newest_note(anchor: Path) -> Note | None:
    """The last whole note of the file. Raises OSError unless it can be read or does not exist."""
    try:
        with anchor.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            tail = file.read()
    except FileNotFoundError:
        return None
    return max(
        read_notes(tail.decode("utf-8", "replace")),
        key=lambda note: note.claimed.size,
        default=None,
    )


def _head(connection: Connection) -> tuple[str, int]:
    row = connection.execute(select(log_head)).one_or_none()
    return ("", 0) if row is None else (row.log_id, row.size)


def _last_checkpoint(connection: Connection) -> Any:
    query = select(checkpoints).order_by(checkpoints.c.size.desc()).limit(1)
    return connection.execute(query).one_or_none()


def _chain_at(connection: Connection, log_id: str, size: int) -> Chain:
    """Where event `size` has to go."""
    if not size:
        return Chain(log_id)
    found = connection.scalar(select(events.c.hash).where(events.c.position == size - 1))
    return Chain(log_id, size, found or "missing")
