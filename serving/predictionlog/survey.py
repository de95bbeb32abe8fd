"""The tree of a segment as its bytes give it, and what its frames are, counted on the way.

Recovery seals with it what a killed writer left, and verification compares it with what was sealed.
Bytes between two sound commits are an extent of their own, so that every byte is in one.
"""

from collections.abc import Iterator
from typing import Self

from serving.predictionlog.format import (
    COMMIT_BYTES,
    EVENTS,
    FIRST_FRAME,
    HEAD,
    FrameType,
)
from serving.predictionlog.records import KEY, KEY_OFFSET
from serving.predictionlog.scan import Run
from serving.predictionlog.source import WINDOW_BYTES, Source
from serving.predictionlog.tree import SegmentTree


class Survey:
    """Takes the sound commits of one segment, in file order.

    records, events, unknown: frames by kind, unknown those of types that this program does not know.
    earliest_ns, latest_ns: times of records and events, 0 when there is none.
    """

    def __init__(self, source: Source, tree: SegmentTree | None = None) -> None:
        self._source = source
        self.tree = tree or SegmentTree()
        self.records = self.events = self.unknown = 0
        self.earliest_ns = self.latest_ns = 0

    def copy(self, source: Source) -> Self:
        """The same so far, going on in `source`."""
        found = type(self)(source, self.tree.copy())
        found.records, found.events, found.unknown = self.records, self.events, self.unknown
        found.earliest_ns, found.latest_ns = self.earliest_ns, self.latest_ns
        return found

    def take(self, run: Run, *, footer: bytes = b"") -> None:
        """A commit. footer: its commit frame where the file has none yet."""
        self.count(run.frames)
        if run.salvaged:
            return
        tree = self.up_to(run.start)
        if not footer:
            footer = self._source.read(run.start + len(run.frames), COMMIT_BYTES)
        tree.add_run(run.frames, footer)

    def up_to(self, end: int) -> SegmentTree:
        """The tree of the bytes below `end`; what is not in a commit that was taken is one extent."""
        tree = self.tree
        if not tree.end and end >= FIRST_FRAME:
            tree.add([self._source.read(0, FIRST_FRAME)])
        if tree.end < end:
            tree.add(self._pieces(tree.end, end))
        return tree

    def _pieces(self, start: int, end: int) -> Iterator[bytes]:
        for at in range(start, end, WINDOW_BYTES):
            yield self._source.read(at, min(WINDOW_BYTES, end - at))

    def count(self, frames: bytes) -> None:
        """What kinds of frames these are; whole verified ones."""
        at, unpack = 0, HEAD.unpack_from
        while at < len(frames):
            length, kind, _, _, _ = unpack(frames, at)
            if kind == FrameType.PREDICTION:
                self.records += 1
                self._widen(frames, at)
            elif kind in EVENTS:
                self.events += 1
                self._widen(frames, at)
            elif kind != FrameType.DEFINITION:
                self.unknown += 1
            at += length

    def _widen(self, frames: bytes, at: int) -> None:
        time_ns, _ = KEY.unpack_from(frames, at + KEY_OFFSET)
        first = self.records + self.events == 1
        self.earliest_ns = time_ns if first else min(time_ns, self.earliest_ns)
        self.latest_ns = time_ns if first else max(time_ns, self.latest_ns)
