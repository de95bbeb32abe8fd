"""Reads a trail for people and for verification: from a database, or from an exported file.

An export is one JSON value per line: a header, every event as it is chained with its hash, every
checkpoint, and the end that says how much there is. It can be verified wherever the trusted keys and
a checkpoint are known, without the product's data.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from sqlalchemy import Connection, Select, select

from serving.audit.chain import Entry, read_body
from serving.audit.notes import Note, read_notes
from serving.audit.tables import checkpoints, events, log_head
from serving.audit.verification import Stored, Trail
from serving.errors import AuditDamaged

PAGE_EVENTS: Final = 5000
"""Read at a time, each page in a transaction of its own: whoever writes waits for one page."""
FORMAT: Final = 1


class Reading(Protocol):
    """`storage.database.Database`."""

    def read(self, question: Callable[[Connection], Any]) -> Any: ...


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events are listed. name, object: `access:*` is every name that begins so; empty for all.

    since_ns, until_ns: wall time, 0 for no bound. before: position to go back from, -1 for the end.
    """

    name: str = ""
    actor: str = ""
    object: str = ""
    since_ns: int = 0
    until_ns: int = 0
    before: int = -1
    limit: int = 100


class ExportHeader(msgspec.Struct, frozen=True, tag_field="kind", tag="header"):
    """The first line of an export."""

    format: int
    log_id: str


class ExportedEvent(msgspec.Struct, frozen=True, tag_field="kind", tag="event"):
    """One event. body: the exact bytes that were hashed."""

    hash: str
    body: msgspec.Raw


class ExportedCheckpoint(msgspec.Struct, frozen=True, tag_field="kind", tag="checkpoint"):
    """One checkpoint, as C2SP writes it."""

    note: str


class ExportEnd(msgspec.Struct, frozen=True, tag_field="kind", tag="end"):
    """The last line. size, last: where the trail stood."""

    size: int
    last: str


_LINE: Final = msgspec.json.Decoder(ExportHeader | ExportedEvent | ExportedCheckpoint | ExportEnd)


def trail_of(database: Reading, *, anchor: Path | None = None) -> Trail:
    """The whole trail of a database, read page by page as it is verified."""
    # The head last: whatever is signed meanwhile lies before it.
    anchored = read_anchor(anchor)
    notes = _notes(database)
    head = database.read(_head)
    if head is None:
        known = [*anchored, *notes]
        log_id = known[0].claimed.log_id if known else ""
        return Trail(log_id, _pages(database, -1), notes, anchored)
    return Trail(
        head.log_id,
        # What is appended while we read is not part of what the head says.
        _pages(database, head.size),
        notes,
        anchored,
        size=head.size,
        last=head.last,
    )


def find(database: Reading, wanted: Filter) -> list[Entry]:
    """The newest events first."""
    found: list[Entry] = database.read(lambda connection: find_in(connection, wanted))
    return found


def find_in(connection: Connection, wanted: Filter) -> list[Entry]:
    """The same within a transaction."""
    query = _filtered(select(events.c.body), wanted)
    query = query.order_by(events.c.position.desc()).limit(wanted.limit)
    bodies = connection.scalars(query).all()
    return [entry for body in bodies if (entry := read_body(body.encode())) is not None]


def export(database: Reading) -> Iterator[bytes]:
    """The lines of an export; what is appended meanwhile is left out."""
    notes = database.read(_note_texts)
    head = database.read(_head)
    size = 0 if head is None else head.size
    yield _line(ExportHeader(FORMAT, "" if head is None else head.log_id))
    for stored in _pages(database, size):
        yield _line(ExportedEvent(stored.hash, msgspec.Raw(stored.body)))
    for text in notes:
        yield _line(ExportedCheckpoint(text))
    yield _line(ExportEnd(size, "" if head is None else head.last))


def read_export(file: Path, *, anchor: Path | None = None) -> Trail:
    """The trail in an exported file. Raises AuditDamaged when it is none, OSError."""
    header: ExportHeader | None = None
    end: ExportEnd | None = None
    notes: list[Note] = []
    with file.open("rb") as lines:
        for line in lines:
            match _decoded(line, file):
                case ExportHeader() as header if header.format != FORMAT:
                    raise AuditDamaged(f"{file} is an export of format {header.format}")
                case ExportedCheckpoint(note):
                    notes.extend(read_notes(note))
                case ExportEnd() as end:
                    pass
                case _:
                    pass
    if header is None:
        raise AuditDamaged(f"{file} is no export of an audit trail: it has no header")
    return Trail(
        header.log_id,
        _exported(file),
        notes,
        read_anchor(anchor),
        size=-1 if end is None else end.size,
        last="" if end is None else end.last,
    )


def read_anchor(anchor: Path | None) -> Sequence[Note]:
    """The checkpoints of an anchor file; none when there is no such file."""
    if anchor is None or not anchor.exists():
        return ()
    return tuple(read_notes(anchor.read_text(encoding="utf-8", errors="replace")))


# -- inside ------------------------------------------------------------------------------------------


def _pages(database: Reading, size: int) -> Iterator[Stored]:
    """Events in the order of their places; all when `size` is negative."""
    after = -(2**62)
    columns = events.c
    query = select(events).order_by(columns.position).limit(PAGE_EVENTS)
    if size >= 0:
        query = query.where(columns.position < size)
    while True:
        rows = database.read(partial(_rows, query.where(columns.position > after)))
        for position, id_, at_ns, name, actor, object_, body, hash_ in rows:
            stands = (position, id_, str(at_ns), name, actor, object_)
            yield Stored(body.encode("utf-8", "surrogateescape"), hash_, stands)
        if len(rows) < PAGE_EVENTS:
            return
        after = rows[-1].position


def _rows(query: Select[Any], connection: Connection) -> Sequence[Any]:
    return connection.execute(query).all()


def _head(connection: Connection) -> Any:
    return connection.execute(select(log_head)).one_or_none()


def _exported(file: Path) -> Iterator[Stored]:
    with file.open("rb") as lines:
        for line in lines:
            found = _decoded(line, file)
            if isinstance(found, ExportedEvent):
                yield Stored(bytes(found.body), found.hash)


def _decoded(line: bytes, file: Path) -> Any:
    try:
        return _LINE.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AuditDamaged(f"{file} is no export of an audit trail: {error}") from error


def _filtered(query: Select[Any], wanted: Filter) -> Select[Any]:
    columns = events.c
    for column, text in (
        (columns.name, wanted.name),
        (columns.actor, wanted.actor),
        (columns.object, wanted.object),
    ):
        if text.endswith("*"):
            query = query.where(column.startswith(text[:-1], autoescape=True))
        elif text:
            query = query.where(column == text)
    if wanted.since_ns:
        query = query.where(columns.at_ns >= wanted.since_ns)
    if wanted.until_ns:
        query = query.where(columns.at_ns < wanted.until_ns)
    if wanted.before >= 0:
        query = query.where(columns.position < wanted.before)
    return query


def _notes(database: Reading) -> list[Note]:
    texts: Iterable[str] = database.read(_note_texts)
    return [note for text in texts for note in read_notes(text)]


def _note_texts(connection: Connection) -> list[str]:
    return list(connection.scalars(select(checkpoints.c.note).order_by(checkpoints.c.size)))


def _line(value: object) -> bytes:
    return msgspec.json.encode(value) + b"\n"
