"""Primaries and the copies that candidates got of them, brought together as the log is read.

    pairing = Pairing(PairingLimits())
    pairing.follow([Subject("fraud", "1", (Candidate("2"),))])
    for record in records:
        pairs += pairing.take(record)
    pairing.expire(None)

A pair is an answered primary of the version that is compared with, and the record of its copy,
whatever became of that: a candidate's failure counts. The two stand in one worker's log, the primary
nearly always first; both orders are taken. Primaries that failed, whose caller chose the version, or
that are a part of an ensemble are left out, and counted.

What has no other half after `wait_s` of the log's own time, or when there is no room for it, goes, and
is counted: `missing` (the copy was dropped, or its record is), `evicted` (no room), `orphan` (a copy
whose primary is not there). Where a candidate gets copies of a part only, the primary's sequence tells
whether it was to have one; if not, it is `unsampled`, and so it is where that cannot be told. `gap` is
the share of what is missing.

`windows` say exactly which pairs were handed out: by log, from which primary to which, how many, and a
digest over their ids that does not depend on their order, so that whoever has the log can recount them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final, NamedTuple, Protocol

import msgspec

from serving.core.predictions import Fate, NamedTensor, PredictionRecord
from serving.core.traffic import FULL

FROM_LEDGER: Final = frozenset({"live", "window"})
_RECORD_BYTES: Final = 1000
"""What a held record takes besides its tensors, about."""


PointOf = Callable[[int], int]


def at_the_front(_sequence: int) -> int:
    """Every primary is to be copied, whatever the share."""
    return 0


class Candidate(NamedTuple):
    """share: of the primaries that get a copy; None where a record does not tell which (segments, a
    budget). epoch: first snapshot that said so: what was routed before it got none."""

    version: str
    share: float | None = 1.0
    epoch: int = 0


class Subject(NamedTuple):
    """What is compared: a model's primary version with candidates."""

    model: str
    primary: str
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class PairingLimits:
    """wait_s: how long the other half is waited for. The others bound what is held meanwhile."""

    wait_s: float = 30.0
    max_records: int = 50_000
    max_bytes: int = 64 * 1024 * 1024


class Pair(NamedTuple):
    """An answered primary and what became of its copy."""

    primary: PredictionRecord
    candidate: PredictionRecord


class PairKey(NamedTuple):
    """Which comparison something belongs to."""

    model: str
    primary: str
    candidate: str


class PairWindow(msgspec.Struct):
    """The pairs of one log: primaries from and to which sequence, how many. digest: over their ids."""

    first: int
    last: int
    pairs: int = 0
    digest: str = "0" * 64

    def add(self, pair: Pair, sequence: int) -> None:
        self.first = min(self.first, sequence)
        self.last = max(self.last, sequence)
        self.pairs += 1
        self.digest = f"{int(self.digest, 16) ^ _pair_digest(pair):064x}"


class PairCounts(msgspec.Struct):
    """What became of the primaries that one candidate could have had a copy of.

    failures: pairs in which the candidate failed. unpaired, left_out: by reason.
    """

    primaries: int = 0
    pairs: int = 0
    failures: int = 0
    unpaired: dict[str, int] = {}
    left_out: dict[str, int] = {}

    def leave_out(self, reason: str) -> None:
        self.left_out[reason] = self.left_out.get(reason, 0) + 1

    def miss(self, reason: str) -> None:
        self.unpaired[reason] = self.unpaired.get(reason, 0) + 1

    def gap(self, share: float | None) -> float | None:
        """Share of the copies that should be there and are not; None where that cannot be known.

        share: of the primaries that get a copy, None where nobody can say.
        """
        lost = self.unpaired.get("missing", 0) + self.unpaired.get("evicted", 0)
        if share is None or not self.pairs + lost:
            return None
        return lost / (self.pairs + lost)


class Waiting(msgspec.Struct):
    """Ids of what is held. primaries: and the candidates whose copies are missing yet."""

    primaries: dict[str, list[str]] = {}
    copies: list[str] = []


@dataclass(slots=True)
class _Entry:
    """What is held of one primary. open: candidates whose copy is not there yet."""

    time_ns: int
    model: str
    primary: PredictionRecord | None
    open: set[str]
    copies: dict[str, PredictionRecord]
    bytes: int
    mark: int


class Pairing:
    """Not for several threads. counts, windows: since the start, or as they were put back."""

    def __init__(self, limits: PairingLimits, *, point_of: PointOf = at_the_front) -> None:
        """point_of: from a primary's sequence where in [0, `FULL`) it lies: a candidate gets copies of
        those below its share."""
        self.counts: dict[PairKey, PairCounts] = {}
        self.windows: dict[PairKey, dict[str, PairWindow]] = {}
        self.mark = 0
        """Goes with what is taken from now on: `oldest_mark` says what is still needed."""
        self._limits = limits
        self._point_of = point_of
        self._subjects: dict[str, Subject] = {}
        self._candidates: dict[PairKey, Candidate] = {}
        self._held: dict[str, _Entry] = {}
        self._held_bytes = 0
        self._newest_ns: dict[str, int] = {}

    def follow(self, subjects: Iterable[Subject]) -> None:
        """From now on these; what is held of others goes, uncounted."""
        self._subjects = {each.model: each for each in subjects}
        keys = {
            PairKey(each.model, each.primary, candidate.version): candidate
            for each in self._subjects.values()
            for candidate in each.candidates
        }
        self._candidates = keys
        self.counts = {key: self.counts.get(key) or PairCounts() for key in keys}
        self.windows = {key: self.windows.get(key) or {} for key in keys}
        for identifier, entry in list(self._held.items()):
            if not self._still_wanted(entry):
                self._drop(identifier)

    def take(self, record: PredictionRecord) -> list[Pair]:
        """The pairs that this record completes."""
        subject = self._subjects.get(record.model)
        if subject is None:
            return []
        log_id = _log_of(record.prediction_id)
        self._newest_ns[log_id] = max(self._newest_ns.get(log_id, 0), record.time_ns)
        if record.shadow_of:
            versions = {each.version for each in subject.candidates}
            return self._take_copy(record) if record.version in versions else []
        return self._take_primary(record, subject) if record.version == subject.primary else []

    def expire(self, now_ns: int | None) -> None:
        """Gives up what has waited too long: by the newest arrival in its own log, and by `now_ns`,
        the time when all that there was had been read; None when it was not."""
        wait_ns = round(self._limits.wait_s * 1e9)
        while self._held:
            identifier, entry = next(iter(self._held.items()))
            newest_ns = self._newest_ns.get(_log_of(identifier), 0)
            if entry.time_ns >= max(newest_ns, now_ns or 0) - wait_ns:
                return
            self._give_up(identifier, "missing")

    @property
    def oldest_mark(self) -> int | None:
        """The mark of the oldest record that is held; None when nothing is."""
        return min((entry.mark for entry in self._held.values()), default=None)

    def waiting(self) -> Waiting:
        """What is held, to be found again by who starts anew."""
        held = self._held.items()
        return Waiting(
            {key: sorted(entry.open) for key, entry in held if entry.primary is not None},
            [copy.prediction_id for _, entry in held for copy in entry.copies.values()],
        )

    def hold(self, record: PredictionRecord, *, still_open: Iterable[str] = ()) -> None:
        """Holds what was held before; nothing is counted. still_open: of a primary."""
        record = _kept(record)
        if record.shadow_of:
            self._entry(record.shadow_of, record).copies[record.version] = record
        else:
            entry = self._entry(record.prediction_id, record)
            entry.primary = record
            entry.open = set(still_open)

    # -- inside ----------------------------------------------------------------------------------

    def _take_copy(self, record: PredictionRecord) -> list[Pair]:
        entry = self._held.get(record.shadow_of)
        if entry is None or entry.primary is None:
            self._entry(record.shadow_of, record).copies[record.version] = _kept(record)
            if self._is_full():
                # Its primary most likely had to go: no other one goes for it.
                self._give_up(record.shadow_of, "evicted")
            return []
        if record.version not in entry.open:
            return []
        entry.open.discard(record.version)
        pair = self._pair(entry.primary, record)
        if not entry.open:
            self._drop(record.shadow_of)
        return pair

    def _take_primary(self, record: PredictionRecord, subject: Subject) -> list[Pair]:
        keys = [
            PairKey(subject.model, subject.primary, each.version) for each in subject.candidates
        ]
        reason = _left_out(record)
        if reason:
            for key in keys:
                self.counts[key].leave_out(reason)
            self._drop(record.prediction_id)
            return []
        known = self._held.get(record.prediction_id)
        copies = dict(known.copies) if known is not None else {}
        if known is not None:
            self._drop(record.prediction_id)
        pairs: list[Pair] = []
        still_open = set()
        for key in keys:
            self.counts[key].primaries += 1
            if key.candidate in copies:
                pairs += self._pair(record, copies[key.candidate])
            else:
                still_open.add(key.candidate)
        if still_open:
            entry = self._entry(record.prediction_id, record)
            entry.primary, entry.open = _kept(record), still_open
            self._make_room()
        return pairs

    def _pair(self, primary: PredictionRecord, candidate: PredictionRecord) -> list[Pair]:
        key = PairKey(primary.model, primary.version, candidate.version)
        counts = self.counts[key]
        pair = Pair(primary, candidate)
        counts.pairs += 1
        counts.failures += candidate.fate is not Fate.OK
        log_id = _log_of(primary.prediction_id)
        windows = self.windows[key]
        window = windows.get(log_id)
        if window is None:
            window = windows[log_id] = PairWindow(primary.sequence, primary.sequence)
        window.add(pair, primary.sequence)
        return [pair]

    def _entry(self, identifier: str, record: PredictionRecord) -> _Entry:
        entry = self._held.get(identifier)
        if entry is None:
            entry = self._held[identifier] = _Entry(
                record.time_ns, record.model, None, set(), {}, 0, self.mark
            )
        size = _RECORD_BYTES + sum(each.array.nbytes for each in (*record.inputs, *record.outputs))
        entry.bytes += size
        self._held_bytes += size
        return entry

    def _make_room(self) -> None:
        while self._is_full():
            self._give_up(next(iter(self._held)), "evicted")

    def _is_full(self) -> bool:
        limits = self._limits
        return len(self._held) > limits.max_records or self._held_bytes > limits.max_bytes

    def _give_up(self, identifier: str, reason: str) -> None:
        entry = self._held[identifier]
        self._drop(identifier)
        subject = self._subjects[entry.model]
        if entry.primary is None:
            for version in entry.copies:
                key = PairKey(entry.model, subject.primary, version)
                self.counts[key].miss("orphan")
            return
        for version in entry.open:
            key = PairKey(entry.model, subject.primary, version)
            is_due = self._is_due(entry.primary, self._candidates[key])
            self.counts[key].miss(reason if is_due or reason != "missing" else "unsampled")

    def _is_due(self, primary: PredictionRecord, candidate: Candidate) -> bool:
        """Whether a copy of it must have been made."""
        share = candidate.share
        if share is None or primary.policy_epoch < candidate.epoch:
            return False
        return self._point_of(primary.sequence) < round(share * FULL)

    def _drop(self, identifier: str) -> None:
        entry = self._held.pop(identifier, None)
        if entry is not None:
            self._held_bytes -= entry.bytes

    def _still_wanted(self, entry: _Entry) -> bool:
        subject = self._subjects.get(entry.model)
        if subject is None or (entry.primary and entry.primary.version != subject.primary):
            return False
        versions = {each.version for each in subject.candidates}
        entry.open &= versions
        entry.copies = {name: copy for name, copy in entry.copies.items() if name in versions}
        return bool(entry.open or entry.copies)


def _left_out(record: PredictionRecord) -> str:
    """Why a primary is compared with nothing; empty when it is."""
    if record.fate is not Fate.OK:
        return "primary_failed"
    if record.chosen:
        return "chosen"
    return "part" if record.part_of else ""


def _log_of(identifier: str) -> str:
    return identifier.partition("-")[0]


def _kept(record: PredictionRecord) -> PredictionRecord:
    """The record with arrays of its own: views would hold the whole commit in memory."""
    return replace(record, inputs=_copied(record.inputs), outputs=_copied(record.outputs))


def _copied(tensors: tuple[NamedTensor, ...]) -> tuple[NamedTensor, ...]:
    return tuple(replace(each, array=each.array.copy()) for each in tensors)


def _pair_digest(pair: Pair) -> int:
    words = (pair.primary.prediction_id, pair.candidate.version, pair.candidate.prediction_id)
    return int.from_bytes(sha256(" ".join(words).encode()).digest(), "big")


class Windowed(Protocol):
    """Anything that says how many pairs of one log there are."""

    @property
    def pairs(self) -> int: ...


def windows_agree(windows: Iterable[Windowed], pairs: int, *, source: str) -> bool:
    """Whether the pairs of the ledger's windows are all that were counted; elsewhere there are none."""
    return source not in FROM_LEDGER or sum(each.pairs for each in windows) == pairs
