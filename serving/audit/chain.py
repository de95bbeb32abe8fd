"""The chain of events, as bytes: what is hashed, and what links one event to the next.

An event's body is the canonical JSON (RFC 8785) of everything known about it, with its position and
the hash of the event before it. Its hash is the RFC 9162 leaf hash of the body; so the same hashes
make the chain, which shows where history was changed, and the tree, whose root says in 32 bytes what
all of history was. The first event follows a hash of the log's own id: two logs never share one.

    hash(n) = SHA-256(0x00 || body(n))          body(n) holds "position": n, "previous": hash(n-1)
    hash(-1) = SHA-256(0x00 || "serving.audit " + log id)

Nanoseconds are written as a string, since JSON numbers of that size have no canonical form.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from serving.audit.events import Event
from serving.errors import RequestInvalid
from serving.trust.canonical import canonical
from serving.trust.merkle import leaf_hash

MAX_BODY_BYTES: Final = 256 * 1024
_MOST_EXACT: Final = 2**53 - 1

_UNUSUAL: Final = re.compile(rb"[^\x20-\x7e]|\\|[:,\[]-?[0-9]+[.eE]")
"""What sorted JSON of msgspec writes otherwise than the canonical form may: text beyond ASCII,
escapes, fractions."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One event in its place: what `body` holds. Times are wall nanoseconds, in digits."""

    position: int
    previous: str
    id: str
    at_ns: str
    name: str
    actor: str
    tenant: str
    object: str
    before: Any
    after: Any
    reason: str
    source: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Link:
    """One event as it is stored: body is its canonical JSON, hash its leaf hash in hexadecimal."""

    entry: Entry
    body: bytes
    hash: str


@dataclass(slots=True)
class Chain:
    """Where the next event goes. size: events so far; last: the hash that it follows."""

    log_id: str
    size: int = 0
    last: str = ""

    def __post_init__(self) -> None:
        self.last = self.last or origin_hash(self.log_id)

    def link(self, event: Event, *, event_id: str, at_ns: int) -> Link:
        """Puts `event` at the end. Raises RequestInvalid when it is too large to be kept."""
        entry = Entry(
            position=self.size,
            previous=self.last,
            id=event_id,
            at_ns=str(at_ns),
            name=event.name.value,
            actor=event.actor,
            tenant=event.tenant,
            object=event.object,
            before=plain(event.before),
            after=plain(event.after),
            reason=event.reason,
            source=event.source,
            request_id=event.request_id,
        )
        body = canonical(plain(entry))
        if len(body) > MAX_BODY_BYTES:
            raise RequestInvalid(f"what the audit trail keeps of it exceeds {MAX_BODY_BYTES} bytes")
        link = Link(entry, body, leaf_hash(body).hex())
        self.size, self.last = self.size + 1, link.hash
        return link


def origin_hash(log_id: str) -> str:
    """What the first event of a log follows."""
    return leaf_hash(f"serving.audit {log_id}".encode()).hex()


def read_body(body: bytes) -> Entry | None:
    """The entry whose one canonical form `body` is; None when it is no such thing."""
    try:
        entry = msgspec.json.decode(body, type=Entry)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if _UNUSUAL.search(body) is None:
        return entry if msgspec.json.encode(entry, order="sorted") == body else None
    try:
        return entry if canonical(msgspec.to_builtins(entry)) == body else None
    except ValueError:
        return None


def plain(value: Any) -> Any:
    """`value` as the JSON that has a canonical form: large numbers as digits, text as UTF-8."""
    built = msgspec.to_builtins(value, str_keys=True)
    return _plain(built)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) <= _MOST_EXACT else str(value)
    if isinstance(value, Mapping):
        return {_plain(name): _plain(each) for name, each in value.items()}
    if isinstance(value, Sequence):
        return [_plain(each) for each in value]
    return value
