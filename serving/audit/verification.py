"""Verifies a trail from its events, checkpoints and anchor alone: no service, no clock, no network.

Events are read once, in the order in which they are stored, and compared with four things: their own
hash, the chain, the place that their body says they have, and the roots that checkpoints signed.

    found                                            is
    a body that its hash does not fit                an edit
    an event that does not follow the one before     an edit of that one, with its hash made anew
    a place that is passed over                      a deletion; a reorder, if it comes later
    a place that was there already                   a duplicate; an insertion, if it is another event
    fewer events than head, checkpoint or anchor     a truncation; a rollback, if all of it is older
    a whole chain with another root than was signed  a fork, after the last root that does fit

Checkpoints count when a key that is trusted for role `audit` at their time has signed them; others
are named in the report and change nothing. Cost: one pass, some 80 bytes of memory per event.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from serving.audit.chain import Entry, origin_hash, read_body
from serving.audit.findings import Findings, Kind, Report
from serving.audit.notes import Checkpoint, Note
from serving.errors import SignatureInvalid
from serving.trust.merkle import Frontier, leaf_hash
from serving.trust.signatures import TrustedKeys

HASH_DIGITS: Final = 64


MOST_MISSING: Final = 1_000_000
"""A place that lies further ahead is no gap but an invention."""


class Stored(NamedTuple):
    """One event as it is stored. columns: what stands beside the body, None in an export."""

    body: bytes
    hash: str
    columns: tuple[int, str, str, str, str, str] | None = None


@dataclass(frozen=True, slots=True)
class Trail:
    """What is to be verified. size, last: as the head says, -1 and empty when there is none.

    Checkpoints of the database or export, and those of the anchor, which is believed to be outside
    of the reach of whoever may have changed the rest.
    """

    log_id: str
    events: Iterable[Stored]
    notes: Sequence[Note]
    anchor: Sequence[Note] = ()
    size: int = -1
    last: str = ""


def verify(trail: Trail, trusted: TrustedKeys) -> Report:
    """Everything that is wrong with the trail; nothing when it is intact."""
    findings, refused = Findings(), list[str]()
    own = _counting(trail.notes, trusted, refused, findings, log_id=trail.log_id)
    anchor = _counting(trail.anchor, trusted, refused, findings, log_id=trail.log_id)
    wanted = sorted({each.size for each in (*own, *anchor)})
    walk = _Walk(trail.log_id, findings, wanted)
    for stored in trail.events:
        walk.take(stored)
    walk.finish()
    _check_head(trail, walk, findings)
    covered = _check_roots(walk, own, anchor, findings)
    if walk.size and not covered and not findings.count:
        findings.add(Kind.UNSIGNED, 0, "no checkpoint that counts covers these events")
    return Report(
        log_id=trail.log_id,
        events=walk.events,
        covered=covered,
        checkpoints=len(own),
        anchored=len(anchor),
        root=walk.frontier.root().hex(),
        intact=not findings.count,
        findings=findings.sorted(),
        unlisted=findings.count - len(findings.listed),
        refused=tuple(refused),
    )


class _Walk:
    """The pass over the events."""

    def __init__(self, log_id: str, findings: Findings, sizes: Sequence[int]) -> None:
        """sizes: at which a root is wanted, ascending."""
        self.frontier = Frontier()
        self.roots: dict[int, bytes] = {}
        self.events = 0
        self.size = 0
        self.last = origin_hash(log_id)
        self.sound_until: int | None = None
        self._findings = findings
        self._sizes = [size for size in sizes if size > 0][::-1]
        self._seen: list[bytes] = []
        self._missing: set[int] = set()
        if 0 in sizes:
            self.roots[0] = self.frontier.root()

    def take(self, stored: Stored) -> None:
        """One event more, as it comes."""
        self.events += 1
        leaf = leaf_hash(stored.body)
        entry = read_body(stored.body)
        if entry is not None and not 0 <= entry.position <= self.size + MOST_MISSING:
            entry = None
        if entry is None or leaf.hex() != stored.hash:
            place = entry.position if entry is not None else self.size
            self._damage(Kind.EDITED, place, "the event is not what its hash says")
        elif stored.columns is not None and stored.columns != _columns(entry):
            self._damage(Kind.EDITED, entry.position, "a column says otherwise than the event")
        self._place(entry, leaf, stored.hash)

    def finish(self) -> None:
        """Places that never came are deletions."""
        for position in sorted(self._missing):
            self._damage(Kind.DELETED, position, "the event is missing")

    # -- inside ----------------------------------------------------------------------------------

    def _place(self, entry: Entry | None, leaf: bytes, stored_hash: str) -> None:
        position = self.size if entry is None else entry.position
        if position > self.size:
            self._missing.update(range(self.size, position))
            self._seen.extend(b"" for _ in range(self.size, position))
        elif position < self.size:
            self._again(position, leaf)
            return
        elif entry is not None and entry.previous != self.last:
            self._damage(
                Kind.EDITED,
                max(0, position - 1),
                f"event {position} follows another event than this one",
            )
        self._seen.append(leaf)
        self.size, self.last = position + 1, stored_hash
        self._grow(leaf)

    def _again(self, position: int, leaf: bytes) -> None:
        """A place that was passed already."""
        if position in self._missing:
            self._missing.discard(position)
            self._seen[position] = leaf
            self._damage(Kind.REORDERED, position, "the event stands after later ones")
        elif self._seen[position] == leaf:
            self._damage(Kind.DUPLICATED, position, "the event is there twice")
        else:
            self._damage(Kind.INSERTED, position, "another event has this place already")

    def _grow(self, leaf: bytes) -> None:
        self.frontier.append(leaf)
        if self._sizes and self._sizes[-1] == self.frontier.size:
            self.roots[self._sizes.pop()] = self.frontier.root()

    def _damage(self, kind: Kind, position: int, detail: str) -> None:
        self._findings.add(kind, position, detail)
        if self.sound_until is None or position < self.sound_until:
            self.sound_until = position


def _columns(entry: Entry) -> tuple[int, str, str, str, str, str]:
    return (entry.position, entry.id, entry.at_ns, entry.name, entry.actor, entry.object)


def _counting(
    notes: Sequence[Note],
    trusted: TrustedKeys,
    refused: list[str],
    findings: Findings,
    *,
    log_id: str,
) -> list[Checkpoint]:
    """The checkpoints that count, in their order."""
    counting: list[Checkpoint] = []
    for note in notes:
        try:
            found = note.verified(trusted)
        except SignatureInvalid as error:
            refused.append(f"checkpoint of {note.claimed.size} events: {error.message}")
            continue
        if found.log_id != log_id:
            findings.add(Kind.OTHER_LOG, 0, f"a checkpoint of log {found.log_id}, not of {log_id}")
            continue
        if counting and found.size < counting[-1].size:
            refused.append(f"checkpoint of {found.size} events: its size goes back")
            continue
        counting.append(found)
    return counting


def _check_head(trail: Trail, walk: _Walk, findings: Findings) -> None:
    if trail.size > walk.size:
        detail = f"the head knows {trail.size} events"
        findings.add(Kind.TRUNCATED, walk.size, detail)
    elif 0 <= trail.size < walk.size:
        findings.add(Kind.INSERTED, trail.size, f"the head knows {trail.size} events only")
    elif trail.size == walk.size and trail.last and trail.last != walk.last:
        findings.add(Kind.EDITED, max(0, walk.size - 1), "the head follows another event")


def _check_roots(
    walk: _Walk, own: Sequence[Checkpoint], anchor: Sequence[Checkpoint], findings: Findings
) -> int:
    """Compares the roots with what was signed; how many events are covered by one that fits."""
    covered = 0
    newest_own = max((each.size for each in own), default=0)
    truncated = False
    for each in sorted({*own, *anchor}, key=lambda found: (found.size, found.at_ns)):
        if each.size > walk.size:
            if not truncated:
                truncated = True
                older = walk.size >= newest_own
                kind = Kind.ROLLED_BACK if older else Kind.TRUNCATED
                findings.add(kind, walk.size, f"{each.size} events were signed")
        elif walk.sound_until is not None and each.size > walk.sound_until:
            break  # The damage is named already; every later root differs by it.
        elif walk.roots.get(each.size) != each.root:
            detail = f"events {covered} to {each.size - 1} are others than those that were signed"
            findings.add(Kind.FORKED, covered, detail)
            break
        else:
            covered = each.size
    return covered
