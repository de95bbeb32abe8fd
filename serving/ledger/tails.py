"""The growing end of one worker's log: which segment comes next, and where in it reading goes on.

    no segment after the one at hand    it may still be written: only commits that are complete
                                        count, and a torn end is looked at again next time
    a later segment was begun           nothing is written to this one any more; it ends at its seal,
                                        or where the later header says that it does (suspect)
    the file is gone                    a gap, reported; reading goes on with the oldest that is left

The position names the commit that was read last by its checksum. When another commit stands there,
the disk was full and that one was taken back, or a power cut lost it, and reading goes on at its
start. A suspect segment may hold a commit that was read and is written once more to the next one,
and one whose first commit fails is removed: the sequences of what was read and does not count are
passed over in the first commit of the next segment.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from serving.errors import LogDamaged
from serving.ledger.decoding import Event, SegmentDecoder, Selection
from serving.predictionlog.format import (
    COMMIT_BYTES,
    FIRST_FRAME,
    HEAD,
    Commit,
    FormatUnsupported,
    FrameType,
    PreviousState,
    SegmentHeader,
    decode_commit,
)
from serving.predictionlog.privacy.subjects import PayloadKeys
from serving.predictionlog.scan import Damage, Run, Torn, commit_at, last_mark, scan
from serving.predictionlog.source import Source, segment_paths
from serving.predictionlog.tree import Seal

_ScanEvent = Run | Damage | Torn | Seal

_log = logging.getLogger(__name__)


class Position(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where reading goes on. segment: 0 before the first. offset: 0 when the segment was finished.

    start, checksum: of the commit that ends at `offset`, checksum -1 where none is known.
    next_sequence: as that commit says. passed: sequences to pass over in the next commit. alone:
    sequences read from the segment's only commit, with which the whole segment may yet be taken back.
    """

    segment: int = 0
    offset: int = 0
    start: int = 0
    checksum: int = -1
    next_sequence: int = 0
    passed: tuple[int, ...] = ()
    alone: tuple[int, ...] = ()


class Gap(NamedTuple):
    """Segments `first` to `last` of a worker's directory were removed before they were read."""

    directory: str
    first: int
    last: int


class Behind(NamedTuple):
    """What is unread in one directory; oldest_ns: arrival of the first unread
    record, None when it is not known."""

    records: int
    bytes: int
    oldest_ns: int | None


@dataclass(frozen=True, slots=True)
class _Begun:
    """A segment whose header can be read, and the header after it."""

    path: Path
    header: SegmentHeader
    following: SegmentHeader | None

    @property
    def complete_to(self) -> int:
        """For a suspect segment how many bytes count; 0 for the others."""
        claim = self.following.previous if self.following is not None else None
        if claim is None or claim.number != self.header.number:
            return 0
        return claim.end if claim.state is PreviousState.SUSPECT else 0


class Tail:
    """Reads one directory. `position` moves with what was handed out.

    log_id: of the segment that is read, empty before the first.
    """

    def __init__(
        self,
        directory: Path,
        *,
        name: str,
        position: Position,
        keys: PayloadKeys | None = None,
        selection: Selection | None = None,
    ) -> None:
        self.position = position
        self.log_id = ""
        self.gaps: list[Gap] = []
        self.damages = 0
        self._directory = directory
        self._name = name
        self._keys = keys
        self._selection = selection
        self._decoder: SegmentDecoder | None = None

    def read(self, found: list[Event], max_records: int) -> None:
        """Appends to `found` until it holds `max_records`, or this log has ended for now."""
        while len(found) < max_records:
            segment = self._next()
            if segment is None:
                return
            try:
                is_finished = self._read(segment, found, max_records)
            except FileNotFoundError:
                continue  # removed since it was listed
            if not is_finished:
                return

    def behind(self) -> Behind:
        """Costs the same however much is unread, but for one look at each unread file."""
        paths = [(n, path) for n, path in segment_paths(self._directory) if self._is_unread(n)]
        begun = [(path, header) for _, path in paths if (header := _header(path)) is not None]
        if not begun:
            return Behind(0, 0, None)
        (first, header), (last, newest) = begun[0], begun[-1]
        is_begun = header.number == self.position.segment
        start = self.position.offset if is_begun else FIRST_FRAME
        end, next_sequence = _end(last, newest)
        unread_bytes = sum(path.stat().st_size for path, _ in begun[:-1]) + end - start
        if unread_bytes <= 0:
            return Behind(0, 0, None)
        read_to = self.position.next_sequence or header.first_sequence
        oldest_ns = _earliest_ns(first, header, start)
        return Behind(max(next_sequence - read_to, 0), unread_bytes, oldest_ns)

    def skip(self) -> None:
        """Goes to the end of what is there now, without reading it."""
        for _, path in reversed(segment_paths(self._directory)):
            header = _header(path)
            if header is None:
                continue
            if (header.number, 0) == (self.position.segment, self.position.offset):
                return
            with Source(path) as source:
                mark = last_mark(source, header)
            self.position = _after(mark, header)
            return

    # -- which segment ---------------------------------------------------------------------------

    def _is_unread(self, number: int) -> bool:
        position = self.position
        return number > position.segment or (number == position.segment and position.offset > 0)

    def _next(self) -> _Begun | None:
        """The segment to go on with; None when all that was begun has been read."""
        paths = segment_paths(self._directory)
        if paths and paths[-1][0] < self.position.segment:
            self._report(self.position.segment, self.position.segment)
            self.position = Position()  # another log was begun in the same place
        begun: _Begun | None = None
        for number, path in paths:
            header = _header(path) if self._is_unread(number) else None
            if header is None:
                continue  # prepared only, or being begun, or damaged: then the next one tells
            if begun is not None:
                begun = _Begun(begun.path, begun.header, header)
                break
            begun = _Begun(path, header, None)
        if begun is not None and begun.header.number != self.position.segment:
            self._enter(begun.header)
        return begun

    def _enter(self, header: SegmentHeader) -> None:
        position = self.position
        is_removed = position.offset > 0
        first = position.segment if is_removed else position.segment + 1
        if position.segment and first <= header.previous.number:
            self._report(first, header.previous.number)
        self.position = Position(
            segment=header.number,
            offset=FIRST_FRAME,
            next_sequence=position.next_sequence,
            passed=position.alone if is_removed else position.passed,
        )

    def _report(self, first: int, last: int) -> None:
        self.gaps.append(Gap(self._name, first, last))
        _log.warning(
            "prediction log: segments %d to %d were gone before they were read", first, last
        )

    # -- what is in it ---------------------------------------------------------------------------

    def _read(self, segment: _Begun, found: list[Event], max_records: int) -> bool:
        """Whether nothing is left in the segment, and nothing will come."""
        header, is_live = segment.header, segment.following is None
        if self._decoder is None or self._decoder.nonce != header.nonce:
            self._decoder = SegmentDecoder(header, self._keys, self._selection)
            self.log_id = header.log_id.hex()
        with Source(segment.path) as source:
            start = self._resume(source, header)
            events = scan(source, header, start=start, complete_to=segment.complete_to)
            for event in _settled(events, is_live=is_live):
                self._take(source, event, found, self._decoder)
                if not self.position.offset or len(found) >= max_records:
                    return not self.position.offset
            if is_live:
                return False
            passed = _beyond(source, header, segment.complete_to, self.position.offset)
        self._finish(passed=passed)
        return True

    def _resume(self, source: Source, header: SegmentHeader) -> int:
        """The position's offset, once it is sure that the commit before it is the one that was read."""
        position = self.position
        if position.checksum < 0:
            return position.offset
        at = position.offset - COMMIT_BYTES
        frame = source.read(at, COMMIT_BYTES)
        commit = decode_commit(frame, nonce=header.nonce, offset=at)
        if commit is not None and commit.checksum == position.checksum:
            return position.offset
        if commit_at(source, header, position.offset, end=source.size) is not None:
            return position.offset  # its footer was damaged since
        self.position = replace(position, offset=position.start, checksum=-1)
        return position.start

    def _take(
        self, source: Source, event: _ScanEvent, found: list[Event], decoder: SegmentDecoder
    ) -> None:
        match event:
            case Run(commit=Commit() as commit, salvaged=False):
                self._hand_out(source, event, found, decoder)
                self._move(commit.end, event)
            case Run(commit=Commit() as commit):
                self._move(commit.end)
            case Run():
                self._hand_out(source, event, found, decoder)
                self._move(event.start + len(event.frames))
            case Seal():
                self._finish()
            case Damage() | Torn():
                self.damages += isinstance(event, Damage)
                self._move(event.end)

    def _hand_out(
        self, source: Source, run: Run, found: list[Event], decoder: SegmentDecoder
    ) -> None:
        passed = frozenset(self.position.passed)
        known = decoder.undecodable
        found += [
            event for sequence, event in decoder.events(source, run) if sequence not in passed
        ]
        self.damages += decoder.undecodable - known

    def _move(self, offset: int, run: Run | None = None) -> None:
        """run: the commit that ends there, if it is whole."""
        position, commit = self.position, run.commit if run is not None else None
        if run is None or commit is None:
            self.position = replace(position, offset=offset, start=0, checksum=-1, alone=())
            return
        self.position = Position(
            segment=position.segment,
            offset=offset,
            start=commit.start,
            checksum=commit.checksum,
            next_sequence=commit.next_sequence,
            alone=_sequences(run.frames) if commit.start == FIRST_FRAME else (),
        )

    def _finish(self, *, passed: tuple[int, ...] = ()) -> None:
        position = self.position
        self.position = Position(
            segment=position.segment, next_sequence=position.next_sequence, passed=passed
        )


def _settled(events: Iterable[_ScanEvent], *, is_live: bool) -> Iterator[_ScanEvent]:
    """`events` without the end of a live segment, where a commit may be on its way."""
    held: Run | None = None
    for event in events:
        if is_live and isinstance(event, Torn):
            return
        if held is not None:
            yield held
            held = None
        if is_live and isinstance(event, Run) and event.commit is None:
            held = event
        else:
            yield event


def _beyond(source: Source, header: SegmentHeader, start: int, end: int) -> tuple[int, ...]:
    """Sequences of the records from `start`, where a suspect segment ends, to `end`."""
    found: tuple[int, ...] = ()
    while start and start < end:
        run = commit_at(source, header, start, end=end)
        if run is None or run.commit is None:
            break
        found += _sequences(run.frames)
        start = run.commit.end
    return found


def _sequences(frames: bytes) -> tuple[int, ...]:
    found, at = [], 0
    while at < len(frames):
        length, kind, _, _, sequence = HEAD.unpack_from(frames, at)
        if kind != FrameType.DEFINITION:
            found.append(sequence)
        at += length
    return tuple(found)


def _header(path: Path) -> SegmentHeader | None:
    """None while it was not begun, when it is damaged, and when the file is gone."""
    try:
        with Source(path) as source:
            return source.header()[0]
    except FileNotFoundError:
        return None
    except FormatUnsupported as error:
        raise LogDamaged(f"{path}: {error}") from error


def _after(mark: Commit | Seal | None, header: SegmentHeader) -> Position:
    """Where reading goes on behind a commit or a seal, or at the front of a segment without any."""
    if isinstance(mark, Commit):
        return Position(
            segment=header.number,
            offset=mark.end,
            start=mark.start,
            checksum=mark.checksum,
            next_sequence=mark.next_sequence,
        )
    if mark is None:
        return Position(header.number, FIRST_FRAME, next_sequence=header.first_sequence)
    return Position(segment=header.number, next_sequence=mark.next_sequence)


def _end(path: Path, header: SegmentHeader) -> tuple[int, int]:
    """(offset, next sequence) after the last commit or seal of a segment."""
    with Source(path) as source:
        mark = last_mark(source, header)
    if mark is None:
        return FIRST_FRAME, header.first_sequence
    return mark.end, mark.next_sequence


def _earliest_ns(path: Path, header: SegmentHeader, offset: int) -> int | None:
    """Arrival of the oldest record in the commit at `offset`; None when there is none."""
    with Source(path) as source:
        run = commit_at(source, header, offset, end=source.size)
    return None if run is None or run.commit is None else run.commit.earliest_ns or None
