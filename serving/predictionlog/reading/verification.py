"""`serving log verify`: reads every byte of a log and says what is sound and what is not.

Offline, from the files and the public keys alone. Two questions, one answer. Is it what the writer
wrote, as far as accidents go: frames, commits, seals, headers, no segment missing. And is it what was
signed, whoever had the files since: trees, seals, the chain of segments, the signed head, what was
removed from the beginning (`removals`), and heads that were exported before (`anchors`). A torn tail is
not damage; nobody was answered from it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from serving.errors import SignatureInvalid
from serving.predictionlog.heads import Head, open_head, read_envelope
from serving.predictionlog.reading.findings import Finding, SegmentReport, VerificationReport
from serving.predictionlog.reading.reader import Segment, list_segments, log_directories
from serving.predictionlog.reading.segmentcheck import Progress, SegmentCheck
from serving.predictionlog.removals import REMOVAL_NAME, Removal, is_first, read_removal
from serving.trust.signatures import TrustedKeys

_HEADLESS: Final = 2
"""So many segments were closed in order, and each time the head was written."""


def verify(
    root: Path,
    *,
    trusted: TrustedKeys | None = None,
    anchors: Mapping[str, Head] | None = None,
    progress: Progress | None = None,
) -> VerificationReport:
    """Every segment under `root`: its frames, commits, tree, seal and the link to the one before.

    trusted: whose signatures count; None checks everything but signatures. anchors: heads from
    earlier, by directory name. Works while gateways write.
    """
    reports: list[SegmentReport] = []
    heads: list[Finding] = []
    removed: list[Removal] = []
    remaining = dict(anchors or {})
    for directory in log_directories(root):
        check = _DirectoryCheck(root, directory, trusted, progress)
        anchor = remaining.pop(directory.name, None)
        reports += check.run([anchor] if anchor is not None else [])
        heads += check.findings
        removed += check.removed
    for name in sorted(remaining):
        heads.append(Finding(name, 0, 0, "this directory, which the anchor knows, is missing"))
    return VerificationReport(tuple(reports), tuple(heads), tuple(removed))


class _DirectoryCheck:
    """One writer's directory: its segments, and whether they go as far as its heads say."""

    def __init__(
        self,
        root: Path,
        directory: Path,
        trusted: TrustedKeys | None,
        progress: Progress | None,
    ) -> None:
        self._root = root
        self._directory = directory
        self._trusted = trusted
        self._progress = progress
        self.findings: list[Finding] = []
        self.removed: list[Removal] = []

    def run(self, anchors: Sequence[Head]) -> list[SegmentReport]:
        own = self._own_head()
        segments = list_segments(self._directory)
        heads = [*([own] if own is not None else []), *anchors]
        checks = [self._check(segment, segments, heads) for segment in segments]
        for head in heads:
            self._missing(head, segments)
        self._beginning(segments)
        closed = sum(c.seal is not None and c.signed and not c.seal.recovered for c in checks)
        if own is None and closed >= _HEADLESS and not self.findings:
            self._found("head.json", "the signed head is missing")
        if self._trusted is not None:
            self._unsigned(segments)
        return [check.report() for check in checks]

    def _own_head(self) -> Head | None:
        """Read before the segments: a writer may go on meanwhile."""
        try:
            envelope = read_envelope(self._directory)
            return None if envelope is None else open_head(envelope, self._trusted)
        except SignatureInvalid as error:
            self._found("head.json", f"the head is not what was signed: {error.message}")
            return None

    def _check(
        self, segment: Segment, segments: Sequence[Segment], heads: Sequence[Head]
    ) -> SegmentCheck:
        own = [head for head in heads if head.segment == segment.number]
        name = segment.path.relative_to(self._root).as_posix()
        check = SegmentCheck(segment, name, self._trusted, self._progress)
        check.run({each.number for each in segments}, own)
        return check

    def _missing(self, head: Head, segments: Sequence[Segment]) -> None:
        """Retention takes the oldest: what stands must then go on where the head ended."""
        numbers = [segment.number for segment in segments if segment.header is not None]
        if head.segment in numbers or (
            numbers and min(numbers) > head.segment and head.seal_sha256
        ):
            return
        if numbers and min(numbers) > head.segment and self._continues(head, segments):
            return
        name = f"{head.segment:08d}.segment"
        self._found(name, "this segment, which the head knows, is missing")

    def _beginning(self, segments: Sequence[Segment]) -> None:
        """Read after the segments were listed: who removes some says so before."""
        try:
            removal = read_removal(self._directory, self._trusted)
        except SignatureInvalid as error:
            self._found(REMOVAL_NAME, f"the statement does not count: {error.message}")
            return
        if removal is not None:
            self.removed.append(removal)
        first = next((each for each in segments if each.header is not None), None)
        if first is None or first.header is None or is_first(first.header):
            return
        if removal is not None and removal.explains(first.header, first.claim):
            return
        number = first.header.previous.number
        name = f"{number:08d}.segment"
        self._found(name, f"everything up to segment {number} is gone, and no statement says why")

    @staticmethod
    def _continues(head: Head, segments: Sequence[Segment]) -> bool:
        first = next(segment.header for segment in segments if segment.header is not None)
        return first.previous.number >= head.segment

    def _unsigned(self, segments: Sequence[Segment]) -> None:
        """Format 1 counts only where a signed segment follows and names it."""
        versions = [(s, s.header.version) for s in segments if s.header is not None]
        for index, (segment, version) in enumerate(versions):
            later = [each for _, each in versions[index + 1 :]]
            earlier = [each for _, each in versions[:index]]
            if version < max(later, default=version) or version > 1:
                continue
            reason = "format 1 after format 2" if max(earlier, default=1) > 1 else "not signed"
            self._found(segment.path.name, reason)

    def _found(self, name: str, reason: str) -> None:
        folder = self._directory.relative_to(self._root)
        self.findings.append(Finding((folder / name).as_posix(), 0, 0, reason))
