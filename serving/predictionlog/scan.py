"""From the bytes of one segment to verified runs of frames, and to what is wrong with the rest.

Nothing that fails a checksum is ever handed out, no length is believed before its checksum was
verified, and no more memory is taken than what was verified needs (a frame larger than the window
is first summed in pieces). The rules of validity are in `format`.

Fast where all is well: a commit is walked by its lengths and verified by its own checksum in one
call, 0.3 us a record.

A reader may run while the writer appends: what looks bad is read again before it is judged, because
once a later commit stands in the file, everything below its start is complete.
"""

from collections.abc import Generator, Iterator
from typing import NamedTuple

from google_crc32c import value as checksum

from serving.predictionlog.format import (
    CLOSING,
    COMMIT_BYTES,
    CRC,
    FIRST_FRAME,
    HEAD,
    MIN_FRAME_BYTES,
    NONCE_OFFSET,
    Commit,
    FrameType,
    SegmentHeader,
    decode_commit,
    masked,
)
from serving.predictionlog.source import WINDOW_BYTES, Source
from serving.predictionlog.tree import Seal, decode_seal, seal_bytes


class Run(NamedTuple):
    """Whole verified frames, `start` their offset. commit: the footer, None for a torn commit.

    salvaged: they stand after damage in their own commit.
    """

    start: int
    frames: bytes
    commit: Commit | None
    salvaged: bool = False


class Damage(NamedTuple):
    """Bytes that were complete once and are not valid now; reading resumes at `end`."""

    start: int
    end: int
    reason: str


class Torn(NamedTuple):
    """The end of the file: a write that was cut off, and nobody was answered from."""

    start: int
    end: int


def scan(
    source: Source, header: SegmentHeader, *, start: int = FIRST_FRAME, complete_to: int = 0
) -> Iterator[Run | Damage | Torn | Seal]:
    """Everything from `start` on, in file order. A Seal or a Torn comes last.

    complete_to: for a suspect segment, how many bytes count; nothing after them is read.
    """
    offset = start
    while offset < (end := complete_to or source.size):
        run = commit_at(source, header, offset, end=end) or _again(
            source, header, offset, complete_to
        )
        if run is not None:
            yield run
            offset = run.start + len(run.frames) + COMMIT_BYTES
            continue
        seal = seal_at(source, header, offset)
        if seal is not None:
            yield from _sealed(source, seal)
            return
        if not complete_to and source.blank(offset, source.size):
            return
        offset = yield from _broken(source, header, offset, complete_to)
        if offset < 0:
            return


def commit_at(source: Source, header: SegmentHeader, offset: int, *, end: int) -> Run | None:
    """The commit that begins at `offset` and ends at or before `end`, if it is valid."""
    for length in (MIN_FRAME_BYTES, WINDOW_BYTES):
        window, at = source.window(offset, length)
        footer = _footer(window, at)
        if footer is not None:
            break
    else:
        return _large_commit_at(source, header, offset, end=end)
    frame = window[footer : footer + COMMIT_BYTES]
    commit = decode_commit(frame, nonce=header.nonce, offset=offset + footer - at)
    if commit is None or commit.start != offset or commit.end > end:
        return None
    frames = window[at:footer]
    return Run(offset, frames, commit) if checksum(frames) == commit.checksum else None


def _footer(window: bytes, at: int) -> int | None:
    """Where the commit frame of the commit at `at` stands in the window, going by lengths."""
    last = len(window) - COMMIT_BYTES
    unpack = HEAD.unpack_from
    while at <= last:
        length, kind, _, _, _ = unpack(window, at)
        if kind == FrameType.COMMIT:
            return at
        if length < MIN_FRAME_BYTES:
            return None
        at += length
    return None


def _large_commit_at(source: Source, header: SegmentHeader, offset: int, *, end: int) -> Run | None:
    at = offset
    while at + COMMIT_BYTES <= end:
        head = source.read(at, HEAD.size)
        if len(head) < HEAD.size:
            return None
        length, kind, _, _, _ = HEAD.unpack(head)
        if kind == FrameType.COMMIT:
            frame = source.read(at, COMMIT_BYTES)
            commit = decode_commit(frame, nonce=header.nonce, offset=at)
            if commit is None or commit.start != offset or commit.end > end:
                return None
            if source.checksum(offset, at) != commit.checksum:
                return None
            return Run(offset, source.read(offset, at - offset), commit)
        if length < MIN_FRAME_BYTES:
            return None
        at += length
    return None


def _again(source: Source, header: SegmentHeader, offset: int, complete_to: int) -> Run | None:
    source.refresh()
    return commit_at(source, header, offset, end=complete_to or source.size)


def seal_at(source: Source, header: SegmentHeader, offset: int) -> Seal | None:
    """The seal whose tree, in version 1 which itself, begins at `offset`.

    What it says about its place is for `verify`: records may have been removed before it.
    """
    at = offset
    if header.signed:
        head = source.read(offset, HEAD.size)
        if len(head) < HEAD.size or head[4] != FrameType.TREE:
            return None
        at += int.from_bytes(head[:4], "little")
    seal = _seal_frame_at(source, header, at)
    return None if seal is None else seal._replace(start=offset)


def seal_ending_at(source: Source, header: SegmentHeader, end: int) -> Seal | None:
    """The seal whose last byte stands before `end`, if it is valid."""
    return _seal_frame_at(source, header, end - seal_bytes(header))


def _seal_frame_at(source: Source, header: SegmentHeader, offset: int) -> Seal | None:
    if not FIRST_FRAME <= offset < source.size:
        return None
    frame = source.read(offset, seal_bytes(header))
    return decode_seal(frame, header, offset=offset)


def _sealed(source: Source, seal: Seal) -> Iterator[Damage | Seal]:
    """The last events of a sealed segment."""
    if not source.blank(seal.end, source.size):
        yield Damage(seal.end, source.size, "bytes after the seal")
    yield seal


def frame_length(source: Source, offset: int, end: int) -> int:
    """The length of the frame at `offset` if its own checksum is right, else 0."""
    head = source.read(offset, HEAD.size)
    if len(head) < HEAD.size:
        return 0
    length = int.from_bytes(head[:4], "little")
    if not MIN_FRAME_BYTES <= length <= end - offset:
        return 0
    total = source.checksum(offset, offset + length - CRC.size)
    return length if source.read(offset + length - CRC.size, CRC.size) == masked(total) else 0


def _verified(source: Source, offset: int, end: int) -> int:
    """Where the chain of valid definitions and predictions that begins at `offset` ends."""
    while length := frame_length(source, offset, end):
        if source.read(offset + 4, 1)[0] in CLOSING:
            break
        offset += length
    return offset


def next_mark(source: Source, header: SegmentHeader, offset: int, end: int) -> Commit | Seal | None:
    """The first valid commit or seal frame that begins at or after `offset`."""
    longest = seal_bytes(header)
    while offset < end:
        window, at = source.window(offset, longest)
        found = window.find(header.nonce, at + NONCE_OFFSET)
        if found < 0:
            offset += max(len(window) - at - longest, 1)
            continue
        offset += found - NONCE_OFFSET - at
        mark = _mark_at(source, header, offset)
        if mark is not None:
            return mark
        offset += 1
    return None


def last_mark(source: Source, header: SegmentHeader) -> Commit | Seal | None:
    """The last valid commit or seal frame of the file."""
    end = source.size
    while end > FIRST_FRAME:
        start = max(end - WINDOW_BYTES, FIRST_FRAME)
        window = source.read(start, end - start)
        found = window.rfind(header.nonce)
        while found >= 0:
            mark = _mark_at(source, header, start + found - NONCE_OFFSET)
            if mark is not None:
                return mark
            found = window.rfind(header.nonce, 0, found)
        if start == FIRST_FRAME:
            return None
        end = start + seal_bytes(header)  # one may lie across the border
    return None


def commit_ending_at(source: Source, header: SegmentHeader, end: int) -> Run | None:
    """The commit whose frame ends at `end`, if it is valid."""
    source.look_behind(end)
    offset = end - COMMIT_BYTES
    commit = decode_commit(source.read(offset, COMMIT_BYTES), nonce=header.nonce, offset=offset)
    if commit is None or not FIRST_FRAME <= commit.start <= offset:
        return None
    if source.checksum(commit.start, offset) != commit.checksum:
        return None
    return Run(commit.start, source.read(commit.start, offset - commit.start), commit)


def _mark_at(source: Source, header: SegmentHeader, offset: int) -> Commit | Seal | None:
    frame = source.read(offset, COMMIT_BYTES)
    return decode_commit(frame, nonce=header.nonce, offset=offset) or _seal_frame_at(
        source, header, offset
    )


def _broken(
    source: Source, header: SegmentHeader, start: int, complete_to: int
) -> Generator[Run | Damage | Torn | Seal, None, int]:
    """What can be said about a commit that is not valid. Returns where to go on, -1 for nowhere."""
    end = complete_to or source.size
    bad = _verified(source, start, end)
    mark = next_mark(source, header, bad, end)
    if mark is not None and _again(source, header, start, complete_to) is not None:
        return start  # a writer was at work in between
    own = None
    if mark is not None and mark.start <= bad and isinstance(mark, Commit):
        own = mark
        if own.end - COMMIT_BYTES == bad:
            yield Damage(start, own.end, "frames do not belong to their commit")
            return own.end
        mark = next_mark(source, header, own.end, end)  # `own` says nothing about its own frames
    if bad > start:
        yield Run(start, source.read(start, bad - start), None)
    if mark is None and bad >= complete_to:
        if bad < end:
            yield Torn(bad, end)
        return -1
    if own is not None:
        return (yield from _within(source, bad, own))
    if isinstance(mark, Seal) and mark.start <= bad:
        yield Damage(bad, mark.offset, "the tree before the seal is damaged")
        yield from _sealed(source, mark)
        return -1
    resume = end if mark is None else mark.start
    yield Damage(bad, resume, "invalid frame")
    return resume


def _within(source: Source, bad: int, own: Commit) -> Generator[Run | Damage, None, int]:
    """Damage inside a commit whose footer is intact: what follows the bad frame may still count.

    The bad frame's length is believed only if valid frames lead from there exactly to the footer.
    """
    footer = own.end - COMMIT_BYTES
    resume = bad + int.from_bytes(source.read(bad, 4), "little")
    if not bad < resume < footer or _verified(source, resume, footer) != footer:
        yield Damage(bad, own.end, "invalid frame")
        return own.end
    yield Damage(bad, resume, "invalid frame")
    yield Run(resume, source.read(resume, footer - resume), own, salvaged=True)
    return own.end
