"""Reading a log's directories, also while gateways write to them.

A segment counts up to the length that its successor's header grants it: a suspect segment only up
to what was acknowledged from it, because what came after was written again elsewhere. Every record
handed out passed its checksum. What stands behind damage inside the same commit is handed out only
when asked for (`salvage`).
"""

from collections.abc import Collection, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from serving.core.predictions import PredictionRecord
from serving.predictionlog.files import SYSTEM_FILES, FilesToRead
from serving.predictionlog.format import (
    EVENTS,
    FIRST_FRAME,
    HEAD,
    SUFFIX,
    Definition,
    FormatUnsupported,
    FrameType,
    Previous,
    PreviousState,
    SegmentHeader,
)
from serving.predictionlog.privacy.subjects import PayloadKeys
from serving.predictionlog.reading.seeking import MAX_NUMBERS, runs_naming
from serving.predictionlog.records import (
    KEY,
    KEY_OFFSET,
    BodyInvalid,
    Fixed,
    decode_definition,
    decode_fixed,
    decode_prediction,
)
from serving.predictionlog.scan import (
    Damage,
    Run,
    commit_ending_at,
    frame_length,
    last_mark,
    scan,
    seal_ending_at,
)
from serving.predictionlog.source import Source, segment_paths
from serving.predictionlog.tree import Seal


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment file as its head and its successor describe it.

    header: None when unreadable; `problem` says why. claim: what a later header says about it.
    last: no later segment exists, so it may still be written.
    """

    path: Path
    number: int
    header: SegmentHeader | None
    problem: str
    claim: Previous | None
    last: bool

    @property
    def complete_to(self) -> int:
        """For a suspect segment how many bytes count; 0 for the others."""
        if self.claim is None or self.claim.state is not PreviousState.SUSPECT:
            return 0
        return self.claim.end


def log_directories(root: Path) -> list[Path]:
    """Every directory with segments, `root` itself or below it, at any depth; sorted by name.

    So the logs of several nodes can be read together when they lie, or are mounted, under one root.
    Links in `root` itself are followed: they lead to what was spilled (`spill`).
    """
    folders = {path.parent for path in root.rglob(f"*{SUFFIX}")}
    folders |= {path.parent for path in root.glob(f"*/*{SUFFIX}")}
    return sorted(folder for folder in folders if segment_paths(folder))


def list_segments(directory: Path, files: FilesToRead = SYSTEM_FILES) -> list[Segment]:
    """The segments of one writer's directory, oldest first. Files without content are left out."""
    found: list[tuple[int, Path, SegmentHeader | None, str]] = []
    for number, path in segment_paths(directory, files):
        header, problem = _read_head(path, files)
        if header is not None or problem:
            found.append((number, path, header, problem))
    claims = {
        header.previous.number: header.previous
        for _, _, header, _ in found
        if header is not None and header.previous.number
    }
    return [
        Segment(path, number, header, problem, claims.get(number), number == found[-1][0])
        for number, path, header, problem in found
    ]


def _read_head(path: Path, files: FilesToRead) -> tuple[SegmentHeader | None, str]:
    """The header and what is wrong with it; (None, "") for a file prepared but not begun."""
    with Source(path, files) as source:
        try:
            header, intact = source.header()
        except FormatUnsupported as error:
            return None, str(error)
        if header is None:
            return None, "" if source.blank(0, source.size) else "the header is damaged"
        return header, "" if intact else "one copy of the header is damaged"


class RawEvent(NamedTuple):
    """An event's whole frame, found at `offset`; what it says is for whoever knows its type."""

    type: int
    flags: int
    sequence: int
    time_ns: int
    frame: bytes
    offset: int


class Wanted(Protocol):
    """Chooses records by what can be seen before their tensors are decoded."""

    def __call__(
        self, frames: bytes, offset: int, fixed: Fixed, definition: Definition
    ) -> bool: ...


class SegmentReader:
    """The records of one segment, in file order or newest first. Opens it for each pass.

    damaged: something was found that could not be read; complete once a pass has ended.
    """

    def __init__(
        self,
        segment: Segment,
        *,
        keys: PayloadKeys | None = None,
        files: FilesToRead = SYSTEM_FILES,
    ) -> None:
        """keys: open sealed payloads; None leaves them sealed."""
        self._segment = segment
        self._files = files
        self._keys = keys
        self._definitions: dict[int, Definition] = {}
        self._newest_definition = 0
        self._log_id = segment.header.log_id.hex() if segment.header else ""
        self.damaged = bool(segment.problem)

    def records(
        self,
        *,
        wanted: Wanted | None = None,
        newest_first: bool = False,
        salvage: bool = False,
        numbers: Collection[int] = (),
    ) -> Iterator[PredictionRecord]:
        """Verified records that are `wanted`.

        numbers: newest first, only commits with one of these definitions are looked at (`seeking`).
        """
        header = self._segment.header
        if header is None:
            return
        with Source(self._segment.path, self._files) as source:
            if newest_first:
                events = self._backwards(source, header, numbers)
            else:
                events = self._scan(source, header)
            for run in events:
                if run.salvaged and not salvage:
                    continue
                yield from self._decode(source, run, wanted=wanted, newest_first=newest_first)

    def events(self, types: Container[int] = EVENTS) -> Iterator[RawEvent]:
        """Verified frames of these types, in file order, as they stand; others pass by."""
        header = self._segment.header
        if header is None:
            return
        with Source(self._segment.path, self._files) as source:
            for run in self._scan(source, header):
                if not run.salvaged:
                    yield from _raw_events(run, types)

    def times(self) -> tuple[int, int] | None:
        """Earliest and latest arrival in a sealed segment; None when that is not known."""
        header = self._segment.header
        if header is None or self._segment.complete_to:
            return None
        with Source(self._segment.path, self._files) as source:
            seal = seal_ending_at(source, header, source.size)
        return None if seal is None else (seal.earliest_ns, seal.latest_ns)

    def _scan(
        self, source: Source, header: SegmentHeader, *, start: int = FIRST_FRAME, end: int = 0
    ) -> Iterator[Run]:
        end = end or self._segment.complete_to
        sealed = False
        for event in scan(source, header, start=start, complete_to=end):
            if isinstance(event, Run):
                yield event
            sealed = sealed or isinstance(event, Seal)
            self.damaged = self.damaged or isinstance(event, Damage)
        claim = self._segment.claim
        if claim is not None and claim.state is PreviousState.SEALED and not (sealed or end):
            self.damaged = True

    def _backwards(
        self, source: Source, header: SegmentHeader, numbers: Collection[int]
    ) -> Iterator[Run]:
        end = self._segment.complete_to
        if not end:
            mark = last_mark(source, header)
            source.refresh()  # everything up to the mark is complete now, if it was not before
            if mark is not None:
                self._newest_definition = mark.definitions
                end = mark.start if isinstance(mark, Seal) else mark.end
            yield from reversed(list(self._scan(source, header, start=end or FIRST_FRAME)))
        if 0 < len(numbers) <= MAX_NUMBERS:
            end = yield from runs_naming(source, header, numbers=numbers, end=end)
        while end > FIRST_FRAME:
            run = commit_ending_at(source, header, end)
            if run is None:
                yield from reversed(list(self._scan(source, header, end=end)))
                return
            yield run
            end = run.start

    def _decode(
        self, source: Source, run: Run, *, wanted: Wanted | None, newest_first: bool
    ) -> Iterator[PredictionRecord]:
        frames = run.frames
        offsets = self._offsets(frames)
        if run.commit is not None:
            self._newest_definition = run.commit.definitions
        for offset in reversed(offsets) if newest_first else offsets:
            fixed = decode_fixed(frames, offset)
            try:
                definition = self._definition(source, fixed.definition)
                if wanted is None or wanted(frames, offset, fixed, definition):
                    yield decode_prediction(
                        frames,
                        offset,
                        definition=definition,
                        log_id=self._log_id,
                        keys=self._keys,
                    )
            except BodyInvalid:
                self.damaged = True

    def _offsets(self, frames: bytes) -> list[int]:
        """Where the predictions begin; definitions on the way are remembered."""
        offsets = []
        at, unpack = 0, HEAD.unpack_from
        while at < len(frames):
            length, kind, _, _, _ = unpack(frames, at)
            if kind == FrameType.PREDICTION:
                offsets.append(at)
            elif kind == FrameType.DEFINITION:
                number, _, definition = decode_definition(frames, at)
                self._definitions[number] = definition
            at += length
        return offsets

    def _definition(self, source: Source, wanted: int) -> Definition:
        """Read back from the newest one where reading did not begin at the front."""
        definition = self._definitions.get(wanted)
        before = 0 if definition else self._newest_definition
        while definition is None and before:
            length = frame_length(source, before, source.size)
            if not length:
                break
            number, before, found = decode_definition(source.read(before, length), 0)
            self._definitions[number] = found
            definition = self._definitions.get(wanted)
        if definition is None:
            raise BodyInvalid(f"definition {wanted:x} is missing")
        return definition


def _raw_events(run: Run, types: Container[int]) -> Iterator[RawEvent]:
    at, frames = 0, run.frames
    while at < len(frames):
        length, kind, _, flags, sequence = HEAD.unpack_from(frames, at)
        if kind in types:
            time_ns, _ = KEY.unpack_from(frames, at + KEY_OFFSET)
            frame = frames[at : at + length]
            yield RawEvent(kind, flags, sequence, time_ns, frame, run.start + at)
        at += length
