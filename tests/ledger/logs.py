"""Logs whose writers crash and whose disks fail while somebody reads them."""

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from serving.predictionlog.writing.committer import Committer
from serving.settings import LogSettings
from tests.logs import QuickFiles, a_committer, frames_of, newest_segment, without_room

SMALL = LogSettings(segment_bytes=64 * 1024, min_free_bytes=0)
ROWS = 600
"""Of a record large enough that a few fill a segment."""


class WatchedFiles(QuickFiles):
    """Files whose next write reaches the disk and fails all the same, with somebody looking on.

    Forgets every descriptor in `kill`, as the end of a process does.
    """

    def __init__(self) -> None:
        super().__init__()
        self._open: set[int] = set()
        self._code = 0
        self._watch: Callable[[], object] = lambda: None

    def fail_after_write(self, code: int, watch: Callable[[], object]) -> None:
        """watch: called once the bytes are there, before anybody knows that they do not count."""
        self._code, self._watch = code, watch

    def kill(self) -> None:
        for descriptor in self._open:
            os.close(descriptor)
        self._open.clear()

    def lock(self, path: Path) -> int:
        return self._opened(super().lock(path))

    def create(self, path: Path) -> int:
        return self._opened(super().create(path))

    def open(self, path: Path) -> int:
        return self._opened(super().open(path))

    def close(self, descriptor: int) -> None:
        self._open.discard(descriptor)
        super().close(descriptor)

    def write(
        self, descriptor: int, buffers: Sequence[bytes], offset: int, *, durable: bool
    ) -> int:
        written = super().write(descriptor, buffers, offset, durable=durable)
        code, self._code = self._code, 0
        if code:
            self._watch()
            raise OSError(code, errno.errorcode[code])
        return written

    def _opened(self, descriptor: int) -> int:
        self._open.add(descriptor)
        return descriptor


class Author:
    """One worker's writer, and what it has acknowledged, in order."""

    def __init__(self, directory: Path, *, first: int = 1) -> None:
        self.directory = directory
        self.acknowledged: list[int] = []
        self._files = WatchedFiles()
        self._next = first
        self._committer = self._start()

    def _start(self) -> Committer:
        return a_committer(self.directory, settings=SMALL, files=self._files)

    def commit(self, count: int) -> bool:
        """Whether that many records were acknowledged."""
        sequences = range(self._next, self._next + count)
        self._next += count
        self._committer.sequence = self._next - 1
        is_recorded = self._committer.commit(frames_of(*sequences, rows=ROWS)) is None
        if is_recorded:
            self.acknowledged += sequences
        self._committer.tend(idle=False)
        return is_recorded

    def commit_on_bad_disk(self, count: int, code: int, *, watch: Callable[[], object]) -> None:
        """The commit arrives and its sync fails with `code`; `watch` looks in between."""
        self._files.fail_after_write(code, watch)
        if not self.commit(count):
            self._committer.commit(())  # as the probe does, which ends the refusal

    def crash(self, torn: bytes) -> None:
        """Ends without a word, maybe in the middle of a write, and is started again."""
        self._files.kill()
        newest = newest_segment(self.directory)
        newest.write_bytes(without_room(newest) + torn)
        self._committer = self._start()

    def close(self) -> None:
        self._committer.close()
        self._files.kill()


NO_SPACE, IO_ERROR = errno.ENOSPC, errno.EIO
