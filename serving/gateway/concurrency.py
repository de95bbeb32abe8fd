"""How many requests of a caller are inside: one file of a node in memory, a column per worker.

A worker counts in its own column only, and begins by clearing it: what a worker that died had counted
is gone when its successor starts. Whether one more may come in is decided over all columns, under a
record lock of the kernel's, so a limit is never exceeded by workers that decide at once.

Nodes can tell each other how many of a caller are inside (`quota_sharing`). Two further columns hold
what was said at the last turn: how many were here, and how many elsewhere. Until the next one a node
lets in what the others leave of the limit; where all had too many, each keeps its part of the limit,
so that they do not all stop and all begin again. So a limit over several nodes is exceeded at most
from one turn to the next, by what the other nodes let in meanwhile.

A caller is found by a keyed hash of its name, as in `buckets`. A row without requests is free for
the next caller; where all rows for a name are taken, newcomers share the last of them, which errs on
the strict side.
"""

import fcntl
import hashlib
import mmap
import os
from pathlib import Path
from struct import Struct
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from serving.gateway.buckets import REFUSE

ROWS: Final = 8192
_PROBED: Final = 8
_KEY_BYTES: Final = 16
_MAGIC: Final = b"SVINSID2"
_HEAD: Final = Struct("@8s16sI36x")
"""Magic, the key of the hash, what limits are divided by."""
_SCALE: Final = Struct("@I")
_SCALE_OFFSET: Final = 24


class Concurrency:
    """The file of one node, as one of its workers sees it. For one thread of each worker."""

    def __init__(self, descriptor: int, memory: mmap.mmap, *, workers: int, index: int) -> None:
        self._descriptor = descriptor
        self._memory = memory
        self._index = index
        self._salt: bytes = _HEAD.unpack_from(memory)[1]
        layout = _layout(workers)
        table: NDArray[np.void] = np.frombuffer(memory, layout, count=ROWS, offset=_HEAD.size)
        self._group_bytes = _PROBED * layout.itemsize
        self._keys = table["key"]
        self._told: NDArray[np.uint32] = table["told"]
        self._inside: NDArray[np.uint32] = table["inside"]

    @classmethod
    def open(cls, path: Path, *, workers: int, index: int, salt: bytes | None = None) -> Self:
        """The file at `path`, with mode 0600, and this worker's column at zero.

        workers: of the node, the same for all. index: of this one, from 0. salt: 16 bytes, the same
        on all nodes that tell each other; None: random.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size = _HEAD.size + ROWS * _layout(workers).itemsize
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        try:
            head = os.pread(descriptor, _HEAD.size, 0)
            if os.fstat(descriptor).st_size != size or not head.startswith(_MAGIC + (salt or b"")):
                os.ftruncate(descriptor, 0)
                os.ftruncate(descriptor, size)
                os.pwrite(descriptor, _HEAD.pack(_MAGIC, salt or os.urandom(16), 1), 0)
            opened = cls(descriptor, mmap.mmap(descriptor, size), workers=workers, index=index)
            opened._inside[:, index] = 0
        finally:
            fcntl.lockf(descriptor, fcntl.LOCK_UN)
        return opened

    def key(self, name: str) -> bytes:
        """What `enter` and `leave` know the caller of this name by."""
        return hashlib.blake2b(name.encode(), digest_size=_KEY_BYTES, key=self._salt).digest()

    def enter(self, key: bytes, limit: int) -> bool:
        """One more request of `key` inside, unless there are `limit` already."""
        first = self._lock(key)
        try:
            row = self._row(first, key)
            if self._keys[row].tobytes() != key:
                self._told[row] = 0
            if int(self._inside[row].sum()) >= self._permitted(row, limit):
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

    # -- over several nodes ------------------------------------------------------------------------

    def insides(self) -> dict[bytes, int]:
        """How many of each caller are inside here, of all who are or of whom others have told."""
        busy = np.flatnonzero(self._inside.any(axis=1) | self._told.any(axis=1))
        return {self._keys[row].tobytes(): int(self._inside[row].sum()) for row in busy}

    def learn(self, key: bytes, *, here: int, elsewhere: int) -> None:
        """So many of this caller were inside this node and the others, by what all of them said.
        Nothing for one who is not known here."""
        first = self._lock(key)
        try:
            row = self._row(first, key)
            if self._keys[row].tobytes() == key:
                self._told[row] = (here, elsewhere)
        finally:
            self._unlock(first)

    def share(self) -> None:
        """The other nodes are heard; all workers of this one see it."""
        _SCALE.pack_into(self._memory, _SCALE_OFFSET, 1)

    def be_alone(self, scale: int) -> None:
        """The others cannot be heard: limits are divided by `scale`, `REFUSE` lets nobody in."""
        _SCALE.pack_into(self._memory, _SCALE_OFFSET, scale)
        self._told[:] = 0

    def close(self) -> None:
        # The memory cannot be closed while arrays look at it.
        del self._keys, self._inside, self._told
        self._memory.close()
        os.close(self._descriptor)

    # -- inside ------------------------------------------------------------------------------------

    def _permitted(self, row: int, limit: int) -> int:
        """How many of the caller in this row may be inside this node."""
        (scale,) = _SCALE.unpack_from(self._memory, _SCALE_OFFSET)
        if scale == REFUSE:
            return 0
        ours: int = max(limit // scale, 1)
        here, elsewhere = (int(count) for count in self._told[row])
        return max(ours - elsewhere, ours * here // (here + elsewhere)) if elsewhere else ours

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
        start = _HEAD.size + group * self._group_bytes
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, self._group_bytes, start)
        return group * _PROBED

    def _unlock(self, first: int) -> None:
        start = _HEAD.size + first // _PROBED * self._group_bytes
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, self._group_bytes, start)


def _layout(workers: int) -> "np.dtype[np.void]":
    return np.dtype(
        [("key", f"V{_KEY_BYTES}"), ("told", "<u4", (2,)), ("inside", "<u4", (workers,))]
    )
