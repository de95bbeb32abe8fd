"""The segments of a log up to where they are complete, and what is in them."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from serving.predictionlog.format import (
    HEAD,
    Commit,
    Definition,
    FrameType,
    SegmentHeader,
)
from serving.predictionlog.reading.definitions import definitions_of
from serving.predictionlog.reading.query import segment_key
from serving.predictionlog.reading.reader import Segment, list_segments, log_directories
from serving.predictionlog.records import decode_definition
from serving.predictionlog.scan import Damage, Run, last_mark, scan
from serving.predictionlog.source import Source
from serving.predictionlog.tree import Seal


class SegmentDamaged(Exception):
    """A closed segment cannot be read whole. It stays as it is, for `serving log verify`."""


@dataclass(frozen=True, slots=True)
class SegmentExtent:
    """A segment up to where it is complete. key: see `predictionlog.reading.query.segment_key`.

    worker: its directory, relative to the log's root. end: where it is complete, 0 for all of it.
    sealed: it ends with a seal. root: of the seal's Merkle tree, hexadecimal, or empty.
    """

    segment: Segment
    header: SegmentHeader
    key: str
    worker: str
    bytes: int
    end: int
    sealed: bool
    root: str

    @property
    def path(self) -> Path:
        return self.segment.path


def is_sound(closed: SegmentExtent) -> bool:
    """Whether all of it can be read."""
    try:
        with Source(closed.path) as source:
            for _ in _runs(source, closed):
                pass
    except SegmentDamaged:
        return False
    return True


def closed_segments(root: Path, skip: Collection[str] = ()) -> Iterator[SegmentExtent]:
    """Those that nobody writes to any more, oldest first within each worker.

    skip: keys of segments that are left out. Those whose head cannot be read are, too.
    """
    for extent, closed in _extents(root, skip):
        if closed:
            yield extent


def hot_segments(root: Path, held: Collection[str]) -> list[SegmentExtent]:
    """All whose key is not `held`, those that are still written up to their newest commit."""
    return [extent for extent, _ in _extents(root, held)]


def _extents(root: Path, skip: Collection[str]) -> Iterator[tuple[SegmentExtent, bool]]:
    """With whether it is closed."""
    for directory in log_directories(root):
        for segment in list_segments(directory):
            header = segment.header
            if header is None or segment.problem:
                continue
            if segment_key(header.log_id, segment.number) not in skip:
                yield _extent(root, segment, header)


def _extent(root: Path, segment: Segment, header: SegmentHeader) -> tuple[SegmentExtent, bool]:
    with Source(segment.path) as source:
        size = source.size
        mark = None if segment.complete_to else last_mark(source, header)
    sealed = isinstance(mark, Seal)
    end = segment.complete_to or (mark.end if isinstance(mark, Commit) else 0)
    extent = SegmentExtent(
        segment=segment,
        header=header,
        key=segment_key(header.log_id, segment.number),
        worker=segment.path.parent.relative_to(root).as_posix(),
        bytes=size,
        end=end if not sealed else 0,
        sealed=sealed,
        root=root_of(mark) if isinstance(mark, Seal) else "",
    )
    return extent, sealed or segment.complete_to > 0


def root_of(seal: Seal) -> str:
    """Of its Merkle tree, in hexadecimal; empty in a segment of a version without one."""
    return seal.root.strip(b"\0").hex() and seal.root.hex()


def definitions_in(closed: SegmentExtent) -> dict[int, Definition]:
    """All of a segment, by number: over the chain from its seal, or in one pass over all of it.

    Raises SegmentDamaged, OSError.
    """
    with Source(closed.path) as source:
        if closed.sealed:
            known = definitions_of(source, closed.header)
            if known is None:
                raise SegmentDamaged(f"{closed.key}: a definition cannot be read")
            return known
        found: dict[int, Definition] = {}
        for run in _runs(source, closed):
            _collect(run.frames, found)
    return found


def _collect(frames: bytes, found: dict[int, Definition]) -> None:
    at = 0
    while at < len(frames):
        length, kind, _, _, _ = HEAD.unpack_from(frames, at)
        if kind == FrameType.DEFINITION:
            number, _, definition = decode_definition(frames, at)
            found[number] = definition
        at += length


def chunks_of(closed: SegmentExtent, *, chunk_bytes: int) -> Iterator[bytes]:
    """Its verified frames, about `chunk_bytes` at a time. Raises SegmentDamaged, OSError."""
    pieces: list[bytes] = []
    size = 0
    with Source(closed.path) as source:
        for run in _runs(source, closed):
            pieces.append(run.frames)
            size += len(run.frames)
            if size >= chunk_bytes:
                yield b"".join(pieces)
                pieces, size = [], 0
    if pieces:
        yield b"".join(pieces)


def _runs(source: Source, closed: SegmentExtent) -> Iterator[Run]:
    sealed = False
    for event in scan(source, closed.header, complete_to=closed.end):
        if isinstance(event, Run):
            yield event
        elif isinstance(event, Damage):
            raise SegmentDamaged(f"{closed.key}: {event.reason}")
        sealed = sealed or isinstance(event, Seal)
    if closed.sealed and not sealed:
        raise SegmentDamaged(f"{closed.key}: its seal is missing")
