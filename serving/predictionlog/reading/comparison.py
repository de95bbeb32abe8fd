"""Where a segment differs from the tree that was sealed with it.

Frames are recognized by their checksums, which the tree lists: what was edited, removed, added or
moved is found by aligning both lists, and named with its place. A change that keeps a record's
checksum is still in no commit that was sealed; it is named by its commit.
"""

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.predictionlog.format import CLOSING, FIRST_FRAME, HEAD, FrameType
from serving.predictionlog.scan import frame_length
from serving.predictionlog.source import Source
from serving.predictionlog.tree import Extent, SealedTree

_MAX_ALIGNED: Final = 20_000
"""Longer stretches that differ are named as a whole; aligning them would take minutes."""


class Difference(NamedTuple):
    """What is wrong from `start` to `end`; equal where something is missing.

    sequence: of the record that stands there; last_safe, first_safe: of its sound neighbours.
    """

    start: int
    end: int
    reason: str
    sequence: int | None
    last_safe: int | None
    first_safe: int | None


class FrameList:
    """The frames of a segment beside its commit frames, in file order."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.offsets = array("Q")
        self.checks = bytearray()

    def take(self, start: int, frames: bytes) -> None:
        """Whole verified frames, found at `start`."""
        at, unpack = 0, HEAD.unpack_from
        while at < len(frames):
            self.offsets.append(start + at)
            at += unpack(frames, at)[0]
            self.checks += frames[at - 4 : at]

    def take_sound(self, start: int, end: int) -> None:
        """What is sound by itself at the beginning of a damaged stretch."""
        while start < end and (length := frame_length(self._source, start, end)):
            if self._source.read(start + 4, 1)[0] not in CLOSING:
                self.offsets.append(start)
                self.checks += self._source.read(start + length - 4, 4)
            start += length

    def end_at(self, end: int) -> None:
        """Forgets what stands after the seal."""
        while self.offsets and self.offsets[-1] >= end:
            self.offsets.pop()
            del self.checks[-4:]

    def place(self, index: int) -> tuple[int, int, int | None]:
        """(start, end, sequence) of a frame; a definition has no sequence."""
        start = self.offsets[index]
        length, kind, _, _, sequence = HEAD.unpack(self._source.read(start, HEAD.size))
        return start, start + length, None if kind == FrameType.DEFINITION else sequence

    def end(self) -> int:
        return self.place(len(self.offsets) - 1)[1] if self.offsets else FIRST_FRAME

    def neighbour(self, index: int, step: int) -> int | None:
        """The sequence of the nearest record from `index` on, in either direction."""
        while 0 <= index < len(self.offsets):
            sequence = self.place(index)[2]
            if sequence is not None:
                return sequence
            index += step
        return None


def differences(sealed: SealedTree, frames: FrameList) -> Iterator[Difference]:
    """Frames that are not what, or not where, they were when the segment was sealed."""
    wanted = np.frombuffer(sealed.checks, "<u4")
    found = np.frombuffer(bytes(frames.checks), "<u4")
    head = _common(wanted, found)
    tail = _common(wanted[head:][::-1], found[head:][::-1])
    was, now = wanted[head : len(wanted) - tail], found[head : len(found) - tail]
    if max(len(was), len(now)) > _MAX_ALIGNED:
        yield _whole(frames, head, head + len(now), removed=len(was))
        return
    moved = Counter(was.tolist()) & Counter(now.tolist())
    for tag, i, i_end, j, j_end in SequenceMatcher(
        None, was.tolist(), now.tolist(), autojunk=False
    ).get_opcodes():
        if tag == "equal":
            continue
        added = [moved[int(check)] > 0 for check in now[j:j_end]]
        gone = sum(moved[int(check)] == 0 for check in was[i:i_end])
        yield from _named(frames, head + j, added, gone)


def _named(frames: FrameList, first: int, moved: Sequence[bool], gone: int) -> Iterator[Difference]:
    """Frames from `first` on that do not belong there; `gone` that did are nowhere in the file."""
    before, after = frames.neighbour(first - 1, -1), frames.neighbour(first + len(moved), 1)
    for index, is_moved in enumerate(moved):
        start, end, sequence = frames.place(first + index)
        if is_moved:
            reason = "a record is not where it was when this was sealed"
        elif gone:
            reason, gone = "a record is not the one that was sealed", gone - 1
        else:
            reason = "a record was added after this was sealed"
        yield Difference(start, end, reason, sequence, before, after)
    if gone:
        at = frames.offsets[first + len(moved)] if first + len(moved) < len(frames.offsets) else (
            frames.end()
        )  # fmt: skip
        reason = f"{gone} of the frames that were sealed {'is' if gone == 1 else 'are'} missing"
        yield Difference(at, at, reason, None, before, after)


def _whole(frames: FrameList, first: int, end: int, *, removed: int) -> Difference:
    start = frames.offsets[first] if first < len(frames.offsets) else frames.end()
    stop = frames.offsets[end] if end < len(frames.offsets) else frames.end()
    return Difference(
        start,
        stop,
        f"{removed} frames were sealed where {end - first} others stand",
        None,
        frames.neighbour(first - 1, -1),
        frames.neighbour(end, 1),
    )


def changed_extents(sealed: SealedTree, found: Sequence[Extent]) -> Iterator[Extent]:
    """Sealed extents whose bytes are others now, where they stand."""
    leaves = {(extent.start, extent.end): extent.leaf for extent in found}
    for extent in sealed.extents:
        if leaves.get((extent.start, extent.end)) != extent.leaf:
            yield extent


def _common(one: NDArray[np.uint32], other: NDArray[np.uint32]) -> int:
    """How many elements both begin with."""
    length = min(len(one), len(other))
    differing = np.flatnonzero(one[:length] != other[:length])
    return int(differing[0]) if differing.size else length
