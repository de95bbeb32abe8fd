"""What a writer does with the segments it finds when it starts.

The newest readable segment, if its writer died before sealing it, is read to its end; a torn tail
is cut off, a commit frame closes what was verified but never closed, and a seal says that recovery
wrote it and how much it cut. Damage is left where it is, for `verify` to report. Files that were
prepared but never begun are removed. Everything else is left alone.

Cost: one pass over the one unsealed segment, 0.4 s for 256 MiB of 400-byte records.
"""

import contextlib
import hashlib
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from google_crc32c import value as checksum

from serving.errors import LogDamaged
from serving.predictionlog.files import Files
from serving.predictionlog.format import (
    COMMIT_BYTES,
    FIRST_FRAME,
    HEAD,
    SEAL_BYTES,
    Commit,
    FormatUnsupported,
    FrameType,
    Previous,
    PreviousState,
    Seal,
    SegmentHeader,
    encode_commit,
    encode_seal,
)
from serving.predictionlog.records import KEY, KEY_OFFSET
from serving.predictionlog.scan import Damage, Run, Torn, scan
from serving.predictionlog.source import WINDOW_BYTES, Source, segment_paths

_log = logging.getLogger(__name__)

_UNKNOWN: Final = "prediction log: a segment's head cannot be read; `serving log verify` names it"


@dataclass(frozen=True, slots=True)
class Recovered:
    """Where the next segment goes on. number: the highest one that was ever used."""

    number: int
    next_sequence: int
    previous: Previous


def recover(directory: Path, *, files: Files, now_ns: int) -> Recovered:
    """Raises LogDamaged when a later program wrote a segment; OSError when nothing can be read."""
    paths = segment_paths(directory)
    number = paths[-1][0] if paths else 0
    for _, path in reversed(paths):
        with Source(path) as source:
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
        return Recovered(number, 1, Previous())
    if ending.previous is None:
        ending.previous = _close(path, header, ending, files=files, now_ns=now_ns)
    return Recovered(number, ending.next_sequence, ending.previous)


@dataclass(slots=True)
class _Ending:
    """What one pass over a segment found. previous: the link to it, None when it has no seal."""

    next_sequence: int
    end: int = FIRST_FRAME
    cut_bytes: int = 0
    commits: int = 0
    records: int = 0
    definitions: int = 0
    earliest_ns: int = 0
    latest_ns: int = 0
    previous: Previous | None = None
    closing: list[Commit] = field(default_factory=list)
    """The commit that closes verified frames whose own commit frame is missing; at most one."""

    def take_commit(self, commit: Commit) -> None:
        if commit.records:
            first = self.records == 0
            self.earliest_ns = min(commit.earliest_ns, self.earliest_ns or commit.earliest_ns)
            self.latest_ns = commit.latest_ns if first else max(commit.latest_ns, self.latest_ns)
        self.records += commit.records
        self.commits += 1
        self.definitions = commit.definitions
        self.next_sequence = max(self.next_sequence, commit.next_sequence)
        self.end = commit.end


def _read_ending(source: Source, header: SegmentHeader) -> _Ending:
    ending = _Ending(header.first_sequence)
    for event in scan(source, header):
        match event:
            case Run(commit=Commit() as commit):
                ending.take_commit(commit)
            case Run() as run:
                ending.closing = [_closing_commit(run, ending)]
                ending.end = run.start + len(run.frames)
            case Damage():
                _log.warning("prediction log: damage; `serving log verify` names the place")
                ending.closing = []
                ending.end = event.end
            case Torn():
                ending.cut_bytes = event.end - event.start
            case Seal() as seal:
                frame = source.read(seal.offset, SEAL_BYTES)
                ending.next_sequence = max(ending.next_sequence, seal.next_sequence)
                ending.previous = Previous(
                    header.number, PreviousState.SEALED, seal.offset + SEAL_BYTES,
                    hashlib.sha256(frame).digest(),
                )  # fmt: skip
    return ending


def _closing_commit(run: Run, ending: _Ending) -> Commit:
    definitions, sequence, times = ending.definitions, ending.next_sequence - 1, []
    at = 0
    while at < len(run.frames):
        length, kind, _, _, own = HEAD.unpack_from(run.frames, at)
        if kind == FrameType.DEFINITION:
            definitions = run.start + at
        elif kind == FrameType.PREDICTION:
            sequence = max(sequence, own)
            times.append(KEY.unpack_from(run.frames, at + KEY_OFFSET)[0])
        at += length
    end = run.start + len(run.frames) + COMMIT_BYTES
    return Commit(
        ending.commits + 1, run.start, definitions, min(times, default=0), max(times, default=0),
        sequence + 1, len(times), checksum(run.frames), end,
    )  # fmt: skip


def _close(
    path: Path, header: SegmentHeader, ending: _Ending, *, files: Files, now_ns: int
) -> Previous:
    """Cuts and seals. Where the disk does not let it, the link alone says how much counts."""
    verified = ending.end
    footers = [encode_commit(commit, header.nonce) for commit in ending.closing]
    for commit in ending.closing:
        ending.take_commit(commit)
    suspect = Previous(header.number, PreviousState.SUSPECT, verified)
    try:
        descriptor = files.open(path)
    except OSError:
        return suspect
    try:
        files.truncate(descriptor, verified)
        sha256 = _digest(path, verified)
        for footer in footers:
            sha256.update(footer)
        seal = encode_seal(
            Seal(
                ending.commits, True, ending.definitions, ending.earliest_ns, ending.latest_ns,
                ending.next_sequence, ending.records, now_ns, ending.cut_bytes, sha256.digest(), 0,
            ),
            header.nonce,
        )  # fmt: skip
        tail = b"".join([*footers, seal])
        if files.write(descriptor, [tail], verified, durable=True) != len(tail):
            return suspect
        files.sync(descriptor)
    except OSError as error:
        _log.warning("prediction log: a segment stays unsealed: %s", error.strerror)
        return suspect
    finally:
        with contextlib.suppress(OSError):
            files.close(descriptor)
    link = hashlib.sha256(seal).digest()
    return Previous(header.number, PreviousState.SEALED, verified + len(tail), link)


def _digest(path: Path, length: int) -> "hashlib._Hash":
    sha256 = hashlib.sha256()
    with Source(path) as source:
        for offset in range(0, length, WINDOW_BYTES):
            sha256.update(source.read(offset, min(WINDOW_BYTES, length - offset)))
    return sha256
