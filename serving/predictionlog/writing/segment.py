"""One open segment and how bytes get into it.

A commit is written (`write`) and counts from `accept` on, which whoever synced it calls; `commit` does
both and blocks for the disk. All else blocks too, and is for the thread.

Room is written ahead: when a commit passes the end of what was ever written, it takes 256 KiB of
zeros along in the same call. Later commits then overwrite blocks that exist, so that making them
durable changes no metadata and needs no journal commit. Measured (ext4 on a virtual disk, two
cores): a durable 16 KiB commit takes 110 us instead of 185 us (preallocated with fallocate: 180
us) and half the CPU; the commit that takes the zeros along takes 0.4 ms, one in sixteen at that
size, unless an idle moment was used to do it before. More zeros lengthen that one (1 MiB: 0.8 ms) and shorten nothing.

The leaf of a commit in the tree that the seal signs is made after the waiters were released (SHA-256:
9 us for 16 KiB).
"""

import contextlib
import errno
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from google_crc32c import extend

from serving.predictionlog.files import Files
from serving.predictionlog.format import (
    COMMIT_BYTES,
    FIRST_FRAME,
    Commit,
    Previous,
    PreviousState,
    SegmentHeader,
    encode_commit,
    encode_definition,
    encode_header,
)
from serving.predictionlog.records import KEY, KEY_OFFSET
from serving.predictionlog.tree import SegmentTree, Signer, Totals, closing

ROOM_BYTES: Final = 256 * 1024
_LOW_BYTES: Final = 64 * 1024
_ZEROS: Final = bytes(ROOM_BYTES)
_LARGE_BYTES: Final = 64 * 1024
"""A frame this large is written from where it lies; smaller neighbours are joined first."""


class DefinitionUnknown(Exception):
    """A prediction refers to a definition that nobody made. This is a bug."""


class _Staged(NamedTuple):
    """A commit on its way: its bytes, and what accepting it changes."""

    pieces: list[bytes]
    frames: list[bytes]
    length: int
    numbers: set[int]
    newest: int
    earliest_ns: int
    latest_ns: int
    records: int
    events: int


class OpenSegment:
    """A segment from its creation to its seal.

    Every method may raise OSError; then nothing of the call counts and `position` is unchanged.
    """

    def __init__(self, files: Files, path: Path, *, descriptor: int, durable: bool) -> None:
        self._files = files
        self._path = path
        self._durable = durable
        self._descriptor = descriptor
        self._written = 0
        self._tree = SegmentTree()
        self._unhashed: list[tuple[list[bytes], list[bytes]]] = []
        self._staged = _Staged([], [], 0, set(), 0, 0, 0, 0, 0)
        self._defined: set[int] = set()
        self._newest_definition = 0
        self._earliest_ns = 0
        self._latest_ns = 0
        self._header: SegmentHeader | None = None
        self.position = 0
        self.commits = 0
        self.records = 0
        self.events = 0

    @classmethod
    def create(cls, files: Files, path: Path, *, durable: bool) -> "OpenSegment":
        """A new file. durable: whether every call returns only once its bytes are on disk."""
        return cls(files, path, descriptor=files.create(path), durable=durable)

    @property
    def header(self) -> SegmentHeader:
        if self._header is None:
            raise ValueError("the segment was not begun. This is a bug")
        return self._header

    def make_room(self) -> None:
        """Writes zeros ahead when little room is left; for a moment when nothing waits."""
        if self._durable and self._written - self.position < _LOW_BYTES:
            written = self._files.write(self._descriptor, [_ZEROS], self._written, durable=True)
            self._written += written

    def begin(self, header: SegmentHeader) -> None:
        head = encode_header(header)
        if not self.intact():
            raise FileNotFoundError(errno.ENOENT, "the new segment is gone")
        self._write([head], len(head))
        self._header = header
        self._unhashed.append(([head], []))
        self.position = FIRST_FRAME

    def commit(
        self, frames: Sequence[bytes], *, definitions: Mapping[int, bytes], next_sequence: int
    ) -> None:
        """`write`, durably if the segment is, and `accept`."""
        self._stage(frames, definitions, next_sequence)
        self._write(self._staged.pieces, self._staged.length)
        self.accept()

    def write(
        self, frames: Sequence[bytes], *, definitions: Mapping[int, bytes], next_sequence: int
    ) -> int:
        """Hands the prediction frames, the definitions they need for the first time, and the footer
        to the kernel; the descriptor to sync before `accept`.

        Raises DefinitionUnknown before anything is written.
        """
        self._stage(frames, definitions, next_sequence)
        self._write(self._staged.pieces, self._staged.length, durable=False)
        return self._descriptor

    def accept(self) -> None:
        """What was written last is part of the segment from here on."""
        staged = self._staged
        self._unhashed.append((staged.pieces, staged.frames))
        self._defined |= staged.numbers
        self._newest_definition = staged.newest
        self.position += staged.length
        self.commits += 1
        if staged.records or staged.events:
            self._widen(staged.earliest_ns, staged.latest_ns)
            self.records += staged.records
            self.events += staged.events

    def _stage(
        self, frames: Sequence[bytes], definitions: Mapping[int, bytes], next_sequence: int
    ) -> None:
        keys = [KEY.unpack_from(frame, KEY_OFFSET) for frame in frames]
        numbers = {number for _, number in keys} - self._defined
        events = 0
        if 0 in numbers:  # no definition has this one: it stands for events
            numbers.remove(0)
            events = sum(number == 0 for _, number in keys)
        introductions, newest = self._introduce(sorted(numbers), definitions)
        written = [*introductions, *frames]
        pieces = _join(written)
        length, check = 0, 0
        for piece in pieces:
            length += len(piece)
            check = extend(check, piece)
        earliest_ns, latest_ns = (min(keys)[0], max(keys)[0]) if keys else (0, 0)
        footer = encode_commit(
            Commit(
                self.commits + 1, self.position, newest, earliest_ns, latest_ns, next_sequence,
                len(frames), check, 0,
            ),
            self.header.nonce,
        )  # fmt: skip
        pieces.append(footer)
        self._staged = _Staged(
            pieces, written, length + COMMIT_BYTES, numbers, newest, earliest_ns, latest_ns,
            len(frames) - events, events,
        )  # fmt: skip

    def absorb(self) -> None:
        """Takes what was committed into the tree."""
        for pieces, frames in self._unhashed:
            self._tree.add(pieces, frames=frames)
        self._unhashed.clear()

    def covered(self) -> tuple[int, bytes]:
        """How many extents the tree has by now, and its root."""
        self.absorb()
        return self._tree.size, self._tree.root()

    def seal(self, *, next_sequence: int, sealed_ns: int, signer: Signer) -> Previous:
        """Ends the segment and closes it; the link for the header of the next one."""
        self.absorb()
        totals = Totals(
            self.commits, self._newest_definition, self._earliest_ns, self._latest_ns,
            next_sequence, self.records, self.events,
        )  # fmt: skip
        frames, link = closing(
            self._tree, totals, self.header, signer=signer, recovered=False, sealed_ns=sealed_ns
        )
        self._write(frames, link.end - self.position, ahead=False)
        self.position = link.end
        with contextlib.suppress(OSError):  # zeros after a seal are harmless
            self._files.truncate(self._descriptor, self.position)
        self.release()
        return link

    def rewind(self) -> None:
        """Takes back what a failed call may have left after `position`."""
        self._files.truncate(self._descriptor, self.position)
        self._written = self.position

    def abandon(self) -> Previous:
        """Leaves the segment as it is, never to be written or synced again."""
        self.release()
        return self.suspect()

    def suspect(self) -> Previous:
        """The link that says how much of it counts."""
        _, root = self.covered()
        return Previous(self.header.number, PreviousState.SUSPECT, self.position, root)

    def discard(self) -> bool:
        """Removes a segment that nobody was answered from; whether it is gone for good.

        Where it is not, only a link can say that what a failed commit left in it does not count.
        """
        self.release()
        try:
            self._files.remove(self._path)
        except OSError:
            return False
        return True

    def release(self) -> None:
        with contextlib.suppress(OSError):  # the descriptor is gone either way
            self._files.close(self._descriptor)

    def intact(self) -> bool:
        """Whether the file is still where readers will look for it, with all that was written."""
        return self._files.intact(self._descriptor, self._path, length=self.position)

    def _introduce(
        self, numbers: Iterable[int], definitions: Mapping[int, bytes]
    ) -> tuple[list[bytes], int]:
        frames: list[bytes] = []
        offset, newest = self.position, self._newest_definition
        for number in numbers:
            text = definitions.get(number)
            if text is None:
                raise DefinitionUnknown(f"definition {number:x}")
            frames.append(encode_definition(number, text, before=newest))
            newest = offset
            offset += len(frames[-1])
        return frames, newest

    def _widen(self, earliest_ns: int, latest_ns: int) -> None:
        if self.records + self.events:
            earliest_ns = min(earliest_ns, self._earliest_ns)
            latest_ns = max(latest_ns, self._latest_ns)
        self._earliest_ns, self._latest_ns = earliest_ns, latest_ns

    def _write(
        self,
        pieces: Sequence[bytes],
        length: int,
        *,
        ahead: bool = True,
        durable: bool | None = None,
    ) -> None:
        """All of `pieces` at `position`; durable: as the segment is, unless said otherwise.

        A short write goes on where it ended.
        """
        durable = self._durable if durable is None else durable
        offset, end = self.position, self.position + length
        pieces = list(pieces)
        if ahead and self._durable and end > self._written:
            pieces.append(_ZEROS)
        while True:
            written = self._files.write(self._descriptor, pieces, offset, durable=durable)
            offset += written
            self._written = max(self._written, offset)
            if offset >= end:
                return
            if written <= 0:
                raise OSError(errno.EIO, "the file system took nothing")
            pieces = _rest(pieces, written)


def _join(frames: Sequence[bytes]) -> list[bytes]:
    """The same bytes in few pieces: large frames as they are, runs of small ones joined."""
    pieces: list[bytes] = []
    small: list[bytes] = []
    for frame in frames:
        if len(frame) < _LARGE_BYTES:
            small.append(frame)
            continue
        if small:
            pieces.append(b"".join(small))
            small = []
        pieces.append(frame)
    if small:
        pieces.append(b"".join(small))
    return pieces


def _rest(pieces: Sequence[bytes], written: int) -> list[bytes]:
    """`pieces` without their first `written` bytes."""
    rest: list[bytes] = []
    for piece in pieces:
        if written >= len(piece):
            written -= len(piece)
        else:
            rest.append(piece[written:])
            written = 0
    return rest
