"""`serving log verify`: reads every byte of a log and says what is sound and what is not.

Damage is what was complete once and is not valid now: a frame, a commit, a seal, a header, a
missing segment. A torn tail is not damage; nobody was answered from it.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from serving.predictionlog.format import (
    FIRST_FRAME,
    HEAD,
    SEAL_BYTES,
    FrameType,
    Previous,
    PreviousState,
    Seal,
    SegmentHeader,
)
from serving.predictionlog.reader import Segment, list_segments, log_directories
from serving.predictionlog.records import KEY, KEY_OFFSET
from serving.predictionlog.scan import Damage, Run, Torn, scan
from serving.predictionlog.source import WINDOW_BYTES, Source


@dataclass(frozen=True, slots=True)
class Finding:
    """Damage in `file` from `start` to `end` (offsets; equal when nothing stands there).

    last_safe, first_safe: sequences of the last sound record before and the first one after it in
    the same file; None when there is none.
    """

    file: str
    start: int
    end: int
    reason: str
    last_safe: int | None = None
    first_safe: int | None = None


@dataclass(frozen=True, slots=True)
class SegmentReport:
    """One segment. state: `sealed`, `recovered` (sealed by a restart), `open` or `suspect`."""

    file: str
    state: str
    durability: str
    log_id: str
    records: int
    commits: int
    torn_bytes: int
    cut_bytes: int
    damage: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """What `verify` found, segments in order."""

    segments: tuple[SegmentReport, ...]

    @property
    def records(self) -> int:
        return sum(segment.records for segment in self.segments)

    @property
    def damage(self) -> tuple[Finding, ...]:
        return tuple(finding for segment in self.segments for finding in segment.damage)


def verify(root: Path) -> VerificationReport:
    """Every segment under `root`: its frames, commits, seal and the link to the one before.

    A damaged frame is found however it is damaged; a segment that was replaced or removed is found
    when a later one names it. Works while gateways write.
    """
    reports: list[SegmentReport] = []
    for directory in log_directories(root):
        segments = list_segments(directory)
        numbers = {segment.number for segment in segments}
        for segment in segments:
            name = segment.path.relative_to(root).as_posix()
            reports.append(_Check(segment, name).run(numbers))
    return VerificationReport(tuple(reports))


@dataclass(slots=True)
class _Check:
    """One pass over one segment; collects as it goes."""

    segment: Segment
    name: str
    records: int = 0
    commits: int = 0
    torn_bytes: int = 0
    seal: Seal | None = None
    findings: list[Finding] = field(default_factory=list)
    defined: set[int] = field(default_factory=set)
    last_safe: int | None = None
    unanswered: int = 0
    """Findings from this one on still want their first safe sequence."""

    def run(self, numbers: Iterable[int]) -> SegmentReport:
        header = self.segment.header
        if self.segment.problem:
            self._found(0, FIRST_FRAME, self.segment.problem)
        if header is not None:
            self._link(header, numbers)
            with Source(self.segment.path) as source:
                self._frames(source, header)
                self._ending(source)
        return SegmentReport(
            file=self.name,
            state=self._state(),
            durability=header.durability.name.lower() if header else "",
            log_id=header.log_id.hex() if header else "",
            records=self.records,
            commits=self.commits,
            torn_bytes=self.torn_bytes,
            cut_bytes=self.seal.cut_bytes if self.seal else 0,
            damage=tuple(self.findings),
        )

    def _state(self) -> str:
        if self.seal is not None:
            return "recovered" if self.seal.recovered else "sealed"
        return "suspect" if self.segment.complete_to else "open"

    def _link(self, header: SegmentHeader, numbers: Iterable[int]) -> None:
        """Segments that retention removed are the oldest; one that is missing between is damage."""
        previous = header.previous.number
        if previous and previous not in numbers and any(number < previous for number in numbers):
            self._found(0, 0, f"segment {previous}, which stands before this one, is missing")
        if header.number != self.segment.number:
            self._found(0, 0, f"the header says that this is segment {header.number}")

    def _frames(self, source: Source, header: SegmentHeader) -> None:
        for event in scan(source, header, complete_to=self.segment.complete_to):
            match event:
                case Run() as run:
                    self._count(run, header)
                    self.commits += run.commit is not None
                case Damage():
                    self._found(event.start, event.end, event.reason)
                case Torn():
                    self.torn_bytes = event.end - event.start
                case Seal():
                    self.seal = event

    def _count(self, run: Run, header: SegmentHeader) -> None:
        """Counts predictions and checks that each finds its definition."""
        at, frames, unpack = 0, run.frames, HEAD.unpack_from
        while at < len(frames):
            length, kind, _, _, number = unpack(frames, at)
            if kind == FrameType.DEFINITION:
                self.defined.add(number)
            elif kind == FrameType.PREDICTION:
                _, definition = KEY.unpack_from(frames, at + KEY_OFFSET)
                if definition not in self.defined or definition >> 32 != header.tag:
                    self._found(run.start + at, run.start + at + length, "definition missing")
                self.records += 1
                self._safe(number)
            at += length

    def _safe(self, sequence: int) -> None:
        self.last_safe = sequence
        for index in range(self.unanswered, len(self.findings)):
            self.findings[index] = replace(self.findings[index], first_safe=sequence)
        self.unanswered = len(self.findings)

    def _ending(self, source: Source) -> None:
        seal, claim = self.seal, self.segment.claim
        if seal is not None and _sha256(source, seal.offset) != seal.sha256:
            self._found(0, seal.offset, "the segment differs from its seal")
        if claim is None:
            if seal is None and not self.segment.last and self.records:
                self._found(source.size, source.size, "neither sealed nor named by its successor")
        elif claim.state is PreviousState.SEALED:
            self._match(source, seal, claim)

    def _match(self, source: Source, seal: Seal | None, claim: Previous) -> None:
        if seal is None:
            self._found(source.size, source.size, "the seal is missing")
            return
        frame = source.read(seal.offset, SEAL_BYTES)
        if hashlib.sha256(frame).digest() != claim.seal_sha256:
            self._found(seal.offset, source.size, "not the seal that the successor names")

    def _found(self, start: int, end: int, reason: str) -> None:
        self.findings.append(Finding(self.name, start, end, reason, self.last_safe))


def _sha256(source: Source, end: int) -> bytes:
    digest = hashlib.sha256()
    for offset in range(0, end, WINDOW_BYTES):
        digest.update(source.read(offset, min(WINDOW_BYTES, end - offset)))
    return digest.digest()
