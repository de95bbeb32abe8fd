"""One segment of a log, read from its first byte to its last: is it what was written, and signed.

Verification of single segments; what makes several of them a log is in `verification`.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from serving.predictionlog.format import (
    FIRST_FRAME,
    HEAD,
    Commit,
    Durability,
    FrameType,
    Previous,
    PreviousState,
    SegmentHeader,
)
from serving.predictionlog.heads import Head
from serving.predictionlog.reading.comparison import FrameList, changed_extents, differences
from serving.predictionlog.reading.findings import Finding, SegmentReport
from serving.predictionlog.reading.reader import Segment
from serving.predictionlog.records import KEY, KEY_OFFSET
from serving.predictionlog.scan import Damage, Run, Torn, scan
from serving.predictionlog.source import WINDOW_BYTES, Source
from serving.predictionlog.survey import Survey
from serving.predictionlog.tree import Seal, SealedTree, check_seal, decode_tree
from serving.trust.merkle import root as root_of
from serving.trust.signatures import TrustedKeys

Progress = Callable[[int], None]
"""Called with bytes that were read since the last call."""


@dataclass(slots=True)
class SegmentCheck:
    """One pass over one segment; collects as it goes."""

    segment: Segment
    name: str
    trusted: TrustedKeys | None
    progress: Progress | None
    commits: int = 0
    torn_bytes: int = 0
    seal: Seal | None = None
    key_id: str = ""
    survey: Survey | None = None
    findings: list[Finding] = field(default_factory=list)
    defined: set[int] = field(default_factory=set)
    last_safe: int | None = None
    unanswered: int = 0
    """Findings from this one on still want their first safe sequence."""

    @property
    def signed(self) -> bool:
        return self.segment.header is not None and self.segment.header.signed

    def run(self, numbers: set[int], heads: Sequence[Head]) -> None:
        header = self.segment.header
        if self.segment.problem:
            self._found(0, FIRST_FRAME, self.segment.problem)
        if header is None:
            return
        self._link(header, numbers)
        with Source(self.segment.path) as source:
            self.survey = Survey(source)
            frames = FrameList(source)
            self._frames(source, header, survey=self.survey, frames=frames)
            self._ending(source, header, frames)
            for head in heads:
                self._match_head(head, header, self.survey)

    def report(self) -> SegmentReport:
        header, seal, survey = self.segment.header, self.seal, self.survey
        return SegmentReport(
            file=self.name,
            state=self._state(),
            durability=header.durability.name.lower() if header else "",
            log_id=header.log_id.hex() if header else "",
            version=header.version if header else 0,
            key_id=self.key_id,
            records=survey.records if survey else 0,
            events=survey.events if survey else 0,
            unknown=survey.unknown if survey else 0,
            commits=self.commits,
            torn_bytes=self.torn_bytes,
            cut_bytes=seal.cut_bytes if seal else 0,
            lost_commits=seal.lost_commits if seal else 0,
            damage=tuple(self.findings),
        )

    def _state(self) -> str:
        if self.seal is not None:
            return "recovered" if self.seal.recovered else "sealed"
        return "suspect" if self.segment.complete_to else "open"

    def _link(self, header: SegmentHeader, numbers: set[int]) -> None:
        """Segments that retention removed are the oldest; one that is missing between is damage."""
        previous = header.previous.number
        if previous and header.previous.state is PreviousState.UNKNOWN:
            self._found(0, 0, f"segment {previous} was gone when this one was begun")
        elif previous and previous not in numbers and any(each < previous for each in numbers):
            self._found(0, 0, f"segment {previous}, which stands before this one, is missing")
        if header.number != self.segment.number:
            self._found(0, 0, f"the header says that this is segment {header.number}")

    # -- frames ----------------------------------------------------------------------------------

    def _frames(
        self, source: Source, header: SegmentHeader, *, survey: Survey, frames: FrameList
    ) -> None:
        for event in scan(source, header, complete_to=self.segment.complete_to):
            match event:
                case Run() as run:
                    self._take(run, header, survey=survey)
                    frames.take(run.start, run.frames)
                case Damage():
                    self._found(event.start, event.end, event.reason)
                    frames.take_sound(event.start, event.end)
                case Torn():
                    self.torn_bytes = event.end - event.start
                case Seal():
                    self.seal = event
        end = self.seal.start if self.seal is not None else self.segment.complete_to
        survey.up_to(end or FIRST_FRAME)

    def _take(self, run: Run, header: SegmentHeader, *, survey: Survey) -> None:
        self._definitions(run, header)
        self.commits += run.commit is not None
        if isinstance(run.commit, Commit):
            survey.take(run)
        else:
            survey.count(run.frames)
        if self.progress is not None:
            self.progress(len(run.frames))

    def _definitions(self, run: Run, header: SegmentHeader) -> None:
        """Checks that each prediction finds its definition."""
        at, frames, unpack = 0, run.frames, HEAD.unpack_from
        while at < len(frames):
            length, kind, _, _, number = unpack(frames, at)
            if kind == FrameType.DEFINITION:
                self.defined.add(number)
            elif kind == FrameType.PREDICTION:
                _, definition = KEY.unpack_from(frames, at + KEY_OFFSET)
                if definition not in self.defined or definition >> 32 != header.tag:
                    self._found(run.start + at, run.start + at + length, "definition missing")
                self._safe(number)
            at += length

    def _safe(self, sequence: int) -> None:
        self.last_safe = sequence
        for index in range(self.unanswered, len(self.findings)):
            self.findings[index] = replace(self.findings[index], first_safe=sequence)
        self.unanswered = len(self.findings)

    # -- the end ---------------------------------------------------------------------------------

    def _ending(self, source: Source, header: SegmentHeader, frames: FrameList) -> None:
        seal, claim = self.seal, self.segment.claim
        if seal is not None and header.signed:
            self._sealed(source, header, seal, frames)
        elif seal is not None and _sha256(source, seal.offset) != seal.sha256:
            self._found(0, seal.offset, "the segment differs from its seal")
        if claim is None:
            if seal is None and not self.segment.last and self.commits:
                self._found(source.size, source.size, "neither sealed nor named by its successor")
        elif claim.state is PreviousState.SEALED:
            self._match(source, seal, claim)
        elif claim.state is PreviousState.SUSPECT and self._differs(claim):
            self._found(0, claim.end, "not the bytes that the successor names")

    def _differs(self, claim: Previous) -> bool:
        """A claim of format 1 has no root to compare."""
        return (
            self.survey is not None
            and any(claim.sha256)
            and self.survey.tree.root() != claim.sha256
        )

    def _match(self, source: Source, seal: Seal | None, claim: Previous) -> None:
        if seal is None:
            self._found(source.size - self.torn_bytes, source.size, "the seal is missing")
        elif hashlib.sha256(seal.frame).digest() != claim.sha256:
            self._found(seal.offset, seal.end, "not the seal that the successor names")

    def _sealed(self, source: Source, header: SegmentHeader, seal: Seal, frames: FrameList) -> None:
        if self.trusted is not None:
            refusal = check_seal(seal, self.trusted)
            self.key_id = "" if refusal else seal.key_id
            if refusal:
                self._found(seal.offset, seal.end, f"the seal does not count: {refusal}")
        previous = header.previous
        if (seal.previous_number, seal.previous_sha256) != (previous.number, previous.sha256):
            self._found(0, FIRST_FRAME, "the header names another segment before than the seal")
        if seal.lost_commits and header.durability is Durability.FSYNC:
            reason = f"{seal.lost_commits} commits were gone when a restart sealed this"
            self._found(seal.start, seal.start, reason)
        frame = source.read(seal.start, seal.offset - seal.start)
        tree = decode_tree(frame) if hashlib.sha256(frame).digest() == seal.sha256 else None
        if tree is None:
            self._found(seal.start, seal.offset, "the tree is not the one that the seal names")
        elif root_of([extent.leaf for extent in tree.extents]) != seal.root:
            self._found(seal.start, seal.offset, "the tree does not lead to the seal's root")
        else:
            frames.end_at(seal.start)
            self._compare(tree, frames)

    def _compare(self, tree: SealedTree, frames: FrameList) -> None:
        shifted: int | None = None
        known = list(self.findings)
        for start, end, reason, sequence, before, after in differences(tree, frames):
            if start == end and any(f.start <= start <= f.end for f in known):
                continue  # missing because it is damaged, which was found
            shifted = start if shifted is None else min(start, shifted)
            found = Finding(self.name, start, end, reason, before, after, sequence)
            self.findings.append(found)
        extents = self.survey.tree.extents if self.survey is not None else []
        for extent in changed_extents(tree, extents):
            if shifted is not None and extent.end > shifted:
                break  # everything behind stands elsewhere
            if not any(f.start < extent.end and extent.start < f.end for f in known):
                self._found(extent.start, extent.end, "these bytes are not those that were sealed")
        self.unanswered = len(self.findings)

    def _match_head(self, head: Head, header: SegmentHeader, survey: Survey) -> None:
        if header.log_id.hex() != head.log_id:
            self._found(0, FIRST_FRAME, "not the segment that the head knows")
            return
        size, end = survey.tree.size, survey.tree.end
        if size < head.extents and not self.findings:
            gone = head.extents - size
            reason = f"cut: {gone} commits that the head knows are missing, up to sequence "
            self._found(end, end, f"{reason}{head.next_sequence - 1}")
        elif survey.tree.root_of(head.extents).hex() != head.root:
            if not self.findings:
                self._found(FIRST_FRAME, end, "not the commits that the head knows")
        elif head.seal_sha256 and (self.seal is None or _is_other(self.seal, head.seal_sha256)):
            self._found(end, end, "not sealed as the head knows it")

    def _found(self, start: int, end: int, reason: str) -> None:
        self.findings.append(Finding(self.name, start, end, reason, self.last_safe))


def _is_other(seal: Seal, sha256: str) -> bool:
    return hashlib.sha256(seal.frame).hexdigest() != sha256


def _sha256(source: Source, end: int) -> bytes:
    digest = hashlib.sha256()
    for offset in range(0, end, WINDOW_BYTES):
        digest.update(source.read(offset, min(WINDOW_BYTES, end - offset)))
    return digest.digest()
