"""How many requests of a caller are inside on this node: one file in memory, a column per worker.

A worker counts in its own column only, and begins by clearing it: what a worker that died had counted
is gone when its successor starts. Whether one more may come in is decided over all columns, under a
record lock of the kernel's, so a limit is never exceeded by workers that decide at once.

A caller is found by a keyed hash of its name, as in `buckets`. A row without requests is free for
the next caller; where all rows for a name are taken, newcomers share the last of them, which errs on
the strict side.
"""

import fcntl
import hashlib
import mmap
import os
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

ROWS: Final = 8192
_PROBED: Final = 8
_KEY_BYTES: Final = 16


class Concurrency:
    """The file of one node, as one of its workers sees it. For one thread of each worker."""

    def __init__(self, descriptor: int, memory: mmap.mmap, *, workers: int, index: int) -> None:
        self._descriptor = descriptor
        self._memory = memory
        self._index = index
        layout = np.dtype([("key", f"V{_KEY_BYTES}"), ("inside", "<u4", (workers,))])
        table: NDArray[np.void] = np.frombuffer(memory, layout, count=ROWS)
        self._group_bytes = _PROBED * layout.itemsize
        self._keys = table["key"]
        self._inside: NDArray[np.uint32] = table["inside"]

    @classmethod
    def open(cls, path: Path, *, workers: int, index: int) -> Self:
        """The file at `path`, with mode 0600, and this worker's column at zero.

        workers: of the node, the same for all. index: of this one, from 0.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size = ROWS * (_KEY_BYTES + 4 * workers)
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        try:
            if os.fstat(descriptor).st_size != size:
                os.ftruncate(descriptor, 0)
                os.ftruncate(descriptor, size)
            opened = cls(descriptor, mmap.mmap(descriptor, size), workers=workers, index=index)
            opened._inside[:, index] = 0
        finally:
            fcntl.lockf(descriptor, fcntl.LOCK_UN)
        return opened

    def key(self, name: str) -> bytes:
        """What `enter` and `leave` know the caller of this name by."""
        return hashlib.blake2b(name.encode(), digest_size=_KEY_BYTES).digest()

    def enter(self, key: bytes, limit: int) -> bool:
        """One more request of `key` inside, unless there are `limit` already."""
        first = self._lock(key)
        try:
            row = self._row(first, key)
            if int(self._inside[row].sum()) >= limit:
                return False
            self._keys[row] = np.void(key)
            self._inside[row, self._index] += 1
            return True
        finally:
            self._unlock(first)

    def leave(self, key: bytes) -> None:
        """One of those that `enter` counted has its answer."""
        first = self._lock(key)
        try:
            row = self._row(first, key)
            self._inside[row, self._index] = max(int(self._inside[row, self._index]), 1) - 1
        finally:
            self._unlock(first)

    def close(self) -> None:
        # The memory cannot be closed while arrays look at it.
        del self._keys, self._inside
        self._memory.close()
        os.close(self._descriptor)

    def _row(self, first: int, key: bytes) -> int:
        free = first + _PROBED - 1
        for row in range(first + _PROBED - 1, first - 1, -1):
            if self._keys[row].tobytes() == key:
                return row
            if not self._inside[row].any():
                free = row
        return free

    def _lock(self, key: bytes) -> int:
        group = int.from_bytes(key[:8], "little") % (ROWS // _PROBED)
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, self._group_bytes, group * self._group_bytes)
        return group * _PROBED

    def _unlock(self, first: int) -> None:
        start = first // _PROBED * self._group_bytes
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, self._group_bytes, start)
