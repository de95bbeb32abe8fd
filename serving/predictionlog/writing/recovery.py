"""What a writer does with the segments it finds when it starts.

The newest readable segment, if its writer died before sealing it, is read to its end; a torn tail
is cut off, a commit frame closes what was verified but never closed, and tree and seal say that
recovery wrote them and how much it cut. Damage is left where it is, for `verify` to report. Files
that were prepared but never begun are removed. Everything else is left alone. A segment of an earlier
format version is not sealed: the next header says how much of it counts.

What the signed head (`heads`) counted and is not there any more is told: in the log of the process,
in the seal as lost commits, and where the whole segment is gone by a link that nothing answers.

Cost: one pass over the one unsealed segment, 0.4 s for 256 MiB of 400-byte records.
"""

import contextlib
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from google_crc32c import value as checksum

from serving.errors import LogDamaged, SignatureInvalid
from serving.predictionlog.files import Files
from serving.predictionlog.format import (
    COMMIT_BYTES,
    FIRST_FRAME,
    HEAD,
    Commit,
    FormatUnsupported,
    FrameType,
    Previous,
    PreviousState,
    SegmentHeader,
    encode_commit,
)
from serving.predictionlog.heads import Head, open_head, read_envelope
from serving.predictionlog.records import KEY, KEY_OFFSET
from serving.predictionlog.scan import Damage, Run, Torn, scan, seal_ending_at
from serving.predictionlog.source import Source, segment_paths
from serving.predictionlog.survey import Survey
from serving.predictionlog.tree import Seal, Signer, Totals, closing, sealed_link

_log = logging.getLogger(__name__)

_UNKNOWN: Final = "prediction log: a segment's head cannot be read; `serving log verify` names it"


@dataclass(frozen=True, slots=True)
class Recovered:
    """Where the next segment goes on. number: the highest one that was ever used."""

    number: int
    next_sequence: int
    previous: Previous


def recover(directory: Path, *, files: Files, now_ns: int, signer: Signer) -> Recovered:
    """Raises LogDamaged when a later program wrote a segment; OSError when nothing can be read."""
    paths = segment_paths(directory, files)
    head = _last_head(directory, files)
    number = max(paths[-1][0] if paths else 0, head.segment if head else 0)
    missing = _missing(head, {number for number, _ in paths})
    for _, path in reversed(paths):
        with Source(path, files) as source:
            try:
                header, _ = source.header()
            except FormatUnsupported as error:
                raise LogDamaged(f"{path}: {error}") from error
            if header is not None:
                ending = _read_ending(source, header)
                break
            blank = source.blank(0, source.size)
        if blank:
            files.remove(path)
        else:
            _log.warning(_UNKNOWN)
    else:
        return Recovered(number, head.next_sequence if head else 1, missing or Previous())
    if ending.previous is None:
        ending.compare(head, header)
        ending.previous = _close(path, header, ending, files=files, now_ns=now_ns, signer=signer)
    if head is not None and missing:
        return Recovered(number, max(ending.next_sequence, head.next_sequence), missing)
    return Recovered(number, ending.next_sequence, ending.previous)


def _last_head(directory: Path, files: Files) -> Head | None:
    try:
        envelope = read_envelope(directory, files)
        return None if envelope is None else open_head(envelope, None)
    except SignatureInvalid as error:
        _log.warning("prediction log: its head cannot be read: %s", error.message)
        return None


def _missing(head: Head | None, numbers: set[int]) -> Previous | None:
    """The link to a segment that is gone although the head counted on it."""
    if head is None or head.segment in numbers or max(numbers, default=0) > head.segment:
        return None
    _log.error("prediction log: segment %d is gone, with what was recorded in it", head.segment)
    return Previous(head.segment, PreviousState.UNKNOWN, 0, bytes.fromhex(head.root))


@dataclass(slots=True)
class _Ending:
    """What one pass over a segment found. previous: the link to it, None when it has no seal."""

    next_sequence: int
    survey: Survey
    end: int = FIRST_FRAME
    cut_bytes: int = 0
    lost_commits: int = 0
    commits: int = 0
    definitions: int = 0
    previous: Previous | None = None
    closing: list[tuple[Run, Commit]] = field(default_factory=list)
    """The commit that closes verified frames whose own commit frame is missing; at most one."""

    def take_commit(self, commit: Commit) -> None:
        self.commits += 1
        self.definitions = commit.definitions
        self.next_sequence = max(self.next_sequence, commit.next_sequence)
        self.end = commit.end

    def compare(self, head: Head | None, header: SegmentHeader) -> None:
        """Counts what the head says was there and is not."""
        if head is None or head.segment != header.number:
            return
        self.lost_commits = max(head.commits - self.commits, 0)
        if self.lost_commits:
            _log.error(
                "prediction log: %d commits that were recorded are gone, up to sequence %d",
                self.lost_commits,
                head.next_sequence - 1,
            )
            self.next_sequence = max(self.next_sequence, head.next_sequence)

    def totals(self) -> Totals:
        counted = self.survey
        return Totals(
            self.commits, self.definitions, counted.earliest_ns, counted.latest_ns,
            self.next_sequence, counted.records, counted.events, self.cut_bytes, self.lost_commits,
        )  # fmt: skip


def _read_ending(source: Source, header: SegmentHeader) -> _Ending:
    ending = _Ending(header.first_sequence, Survey(source))
    seal = seal_ending_at(source, header, source.size)
    for event in [seal] if seal is not None else scan(source, header):
        match event:
            case Run(commit=Commit() as commit):
                ending.survey.take(event)
                ending.take_commit(commit)
            case Run() as run:
                ending.closing = [(run, _closing_commit(run, ending))]
                ending.end = run.start + len(run.frames)
            case Damage():
                _log.warning("prediction log: damage; `serving log verify` names the place")
                ending.closing = []
                ending.end = event.end
            case Torn():
                ending.cut_bytes = event.end - event.start
            case Seal() as seal:
                ending.next_sequence = max(ending.next_sequence, seal.next_sequence)
                ending.previous = sealed_link(header.number, seal.end, seal.frame)
    return ending


def _closing_commit(run: Run, ending: _Ending) -> Commit:
    definitions, sequence, times = ending.definitions, ending.next_sequence - 1, []
    at = 0
    while at < len(run.frames):
        length, kind, _, _, own = HEAD.unpack_from(run.frames, at)
        if kind == FrameType.DEFINITION:
            definitions = run.start + at
        else:
            sequence = max(sequence, own)
            times.append(KEY.unpack_from(run.frames, at + KEY_OFFSET)[0])
        at += length
    end = run.start + len(run.frames) + COMMIT_BYTES
    return Commit(
        ending.commits + 1, run.start, definitions, min(times, default=0), max(times, default=0),
        sequence + 1, len(times), checksum(run.frames), end,
    )  # fmt: skip


def _close(
    path: Path,
    header: SegmentHeader,
    ending: _Ending,
    *,
    files: Files,
    now_ns: int,
    signer: Signer,
) -> Previous:
    """Cuts and seals. Where the disk does not let it, the link alone says how much counts."""
    verified = ending.end
    for _, commit in ending.closing:
        ending.next_sequence = max(ending.next_sequence, commit.next_sequence)
    if not header.signed:
        return _suspect(path, header, ending, files=files)
    try:
        descriptor = files.open(path)
    except OSError:
        return _suspect(path, header, ending, files=files)
    try:
        files.truncate(descriptor, verified)
        frames, link = _last_frames(path, header, ending, files=files, now_ns=now_ns, signer=signer)
        if files.write(descriptor, frames, verified, durable=True) != sum(map(len, frames)):
            return _suspect(path, header, ending, files=files)
        files.sync(descriptor)
    except OSError as error:
        _log.warning("prediction log: a segment stays unsealed: %s", error.strerror)
        return _suspect(path, header, ending, files=files)
    finally:
        with contextlib.suppress(OSError):
            files.close(descriptor)
    return link


def _last_frames(
    path: Path,
    header: SegmentHeader,
    ending: _Ending,
    *,
    files: Files,
    now_ns: int,
    signer: Signer,
) -> tuple[list[bytes], Previous]:
    """The missing commit frame, tree and seal; the link to the segment then."""
    footers: list[bytes] = []
    with Source(path, files) as source:
        survey = ending.survey.copy(source)
        totals = ending.totals()
        for run, commit in ending.closing:
            footers = [encode_commit(commit, header.nonce)]
            survey.take(run._replace(commit=commit), footer=footers[0])
            totals = totals._replace(
                commits=commit.number,
                definitions=commit.definitions,
                next_sequence=commit.next_sequence,
                earliest_ns=survey.earliest_ns,
                latest_ns=survey.latest_ns,
                records=survey.records,
                events=survey.events,
            )
        tree = survey.up_to(ending.end + sum(map(len, footers)))
    frames, link = closing(tree, totals, header, signer=signer, recovered=True, sealed_ns=now_ns)
    return [*footers, *frames], link


def _suspect(path: Path, header: SegmentHeader, ending: _Ending, *, files: Files) -> Previous:
    with Source(path, files) as source:
        root = ending.survey.copy(source).up_to(ending.end).root()
    return Previous(header.number, PreviousState.SUSPECT, ending.end, root)
