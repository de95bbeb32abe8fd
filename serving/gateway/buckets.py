"""Token buckets that all workers of a node draw from: one file in memory, one record lock per bucket.

A limit "100 requests a second" holds for a caller, whichever workers its connections reach. So the
buckets lie in a file that every worker maps. A worker takes tokens in small portions under a lock of
the kernel's (a worker that dies gives its lock back) and spends them by itself; what it did not use
it gives back. Never more is handed out than the bucket held, so a limit is never exceeded, and what
is short for a moment is at most one portion per worker. What a bucket holds is told without a lock
(`held`): its number is eight aligned bytes, which are read and written at once.

A bucket is one number, the time at which it will be full again (Turner's generic cell rate algorithm,
ITU-T I.371): what it holds follows from that, its rate and its size.

The file has a fixed number of places. A bucket is found by a keyed hash of its name, so that callers
cannot choose names that collide. Where all places for a name are taken, a full bucket makes room:
that loses nothing, because a new one is full too. If none is full the newcomer shares the fullest,
which errs on the strict side: making the file overflow gives nobody a fresh bucket.

Nodes can share their buckets (`quota_sharing`): each place then also counts what was used of it and not
yet told to the others, and `scale` says by how much every limit is divided while nobody can be told.

Time is the system's monotonic clock, which all processes of a node share and nobody can set back. It
begins anew with each boot, and so do the buckets.
Amounts are floats; a bucket may go below zero when a cost was only known afterwards.
"""

import fcntl
import hashlib
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Final, Self

import numpy as np

PLACES: Final = 65_536
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
REFUSE: Final = 0
"""The scale at which nothing is handed out."""
_MAGIC: Final = b"SVBUCKT3"
_HEAD: Final = Struct("@8s16s16sI20x")
"""Magic, what tells this boot from others, the key of the hash, the scale."""
_SCALE: Final = Struct("@I")
_SCALE_OFFSET: Final = 40
_PLACE: Final = Struct("@16sQq")
"""Key, when the bucket is full (monotonic nanoseconds), how much of that (nanoseconds, negative when
tokens came back) the other nodes were not told. Zeros are a free place."""
_COLUMNS: Final = np.dtype([("key", "V16"), ("full_ns", "u8"), ("untold_ns", "i8")])
_PROBED: Final = 8
_GROUP_BYTES: Final = _PROBED * _PLACE.size


@dataclass(frozen=True, slots=True)
class Rate:
    """per_s: tokens that come back each second. burst: the most that the bucket holds."""

    per_s: float
    burst: float


@dataclass(frozen=True, slots=True)
class Use:
    """How much of a bucket was used since the last look, as the time in which that comes back."""

    key: bytes
    untold_ns: int


class Buckets:
    """The file of one node. Opened by `open`; for one thread of each process."""

    def __init__(self, descriptor: int, memory: mmap.mmap, salt: bytes) -> None:
        self._descriptor = descriptor
        self._memory = memory
        self._salt = salt

    @classmethod
    def open(cls, path: Path, *, salt: bytes | None = None) -> Self:
        """The file at `path`; whoever comes first makes it, with mode 0600.

        salt: 16 bytes, the same on all nodes that share their buckets; None: random.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.lockf(descriptor, fcntl.LOCK_EX, _HEAD.size, 0)
        try:
            size = _HEAD.size + PLACES * _PLACE.size
            head = os.pread(descriptor, _HEAD.size, 0)
            ours = _MAGIC + _boot() + (salt or b"")
            if not head.startswith(ours) or os.fstat(descriptor).st_size != size:
                os.ftruncate(descriptor, 0)
                os.ftruncate(descriptor, size)
                head = _HEAD.pack(_MAGIC, _boot(), salt or os.urandom(16), 1)
                os.pwrite(descriptor, head, 0)
            return cls(descriptor, mmap.mmap(descriptor, size), _HEAD.unpack(head)[2])
        finally:
            fcntl.lockf(descriptor, fcntl.LOCK_UN, _HEAD.size, 0)

    def key(self, name: str) -> bytes:
        """What `draw` and `put` know the bucket of this name by."""
        return hashlib.blake2b(name.encode(), digest_size=16, key=self._salt).digest()

    @property
    def scale(self) -> int:
        """Every limit is divided by this; `REFUSE` hands out nothing. All workers of the node see it."""
        scale: int = _SCALE.unpack_from(self._memory, _SCALE_OFFSET)[0]
        return scale

    @scale.setter
    def scale(self, scale: int) -> None:
        _SCALE.pack_into(self._memory, _SCALE_OFFSET, scale)

    def draw(self, key: bytes, wanted: float, *, rate: Rate, now_ns: int) -> float:
        """Takes up to `wanted` tokens; how many there were, 0 when none. Never negative."""
        scale = self.scale
        if scale == REFUSE:
            return 0.0
        first = self._first(key)
        with _Locked(self._descriptor, first):
            place, full_ns, untold_ns = self._find(first, key, now_ns)
            held = rate.burst / scale - (full_ns - now_ns) * rate.per_s / scale / 1e9
            drawn = max(0.0, min(wanted, held))
            used_ns = round(drawn / rate.per_s * 1e9)
            self._store(place, key, full_ns + used_ns * scale, untold_ns + used_ns)
        return drawn

    def put(self, key: bytes, amount: float, *, rate: Rate, now_ns: int) -> float:
        """Gives tokens back, or takes them whether they are there or not (`amount` below zero).

        Returns what the bucket holds then.
        """
        scale = self.scale
        first = self._first(key)
        with _Locked(self._descriptor, first):
            place, before_ns, untold_ns = self._find(first, key, now_ns)
            used_ns = -round(amount / rate.per_s * 1e9)
            full_ns = max(before_ns + used_ns * max(scale, 1), now_ns)
            self._store(place, key, full_ns, untold_ns + used_ns)
        if scale == REFUSE:
            return 0.0
        return (rate.burst - (full_ns - now_ns) * rate.per_s / 1e9) / scale

    def held(self, key: bytes, *, rate: Rate, now_ns: int) -> float:
        """What the bucket holds; as `put` says it, without a lock."""
        scale = self.scale
        if scale == REFUSE:
            return 0.0
        _, full_ns, _ = self._find(self._first(key), key, now_ns)
        return (rate.burst - (full_ns - now_ns) * rate.per_s / 1e9) / scale

    def take_uses(self, now_ns: int) -> list[Use]:
        """Of every bucket that is not full or was used since: what the others were not told yet.

        It counts as told from here on; `return_uses` takes that back.
        """
        columns = np.frombuffer(self._memory, _COLUMNS, count=PLACES, offset=_HEAD.size)
        busy = np.flatnonzero((columns["untold_ns"] != 0) | (columns["full_ns"] > now_ns))
        keys = [columns["key"][index].tobytes() for index in busy]
        del columns  # a view of the memory keeps it from being closed
        return [Use(key, self._tell(key, now_ns)) for key in keys]

    def learn(self, key: bytes, *, full_in_ns: int, now_ns: int) -> None:
        """All nodes together have used so much of this bucket that it is full in `full_in_ns`."""
        first = self._first(key)
        with _Locked(self._descriptor, first):
            place, _, untold_ns = self._find(first, key, now_ns)
            self._store(place, key, max(now_ns + full_in_ns + untold_ns, now_ns), untold_ns)

    def return_uses(self, uses: Sequence[Use], now_ns: int) -> None:
        """The others could not be told after all."""
        for use in uses:
            first = self._first(use.key)
            with _Locked(self._descriptor, first):
                place, full_ns, untold_ns = self._find(first, use.key, now_ns)
                self._store(place, use.key, full_ns, untold_ns + use.untold_ns)

    def _tell(self, key: bytes, now_ns: int) -> int:
        """What was untold of a bucket, and is told now."""
        first = self._first(key)
        with _Locked(self._descriptor, first):
            place, full_ns, untold_ns = self._find(first, key, now_ns)
            self._store(place, key, full_ns, 0)
        return untold_ns

    def close(self) -> None:
        self._memory.close()
        os.close(self._descriptor)

    def _first(self, key: bytes) -> int:
        """Offset of the group of places where the bucket of `key` may be."""
        group = int.from_bytes(key[:8], "little") % (PLACES // _PROBED)
        return _HEAD.size + group * _GROUP_BYTES

    def _find(self, first: int, key: bytes, now_ns: int) -> tuple[int, int, int]:
        """The bucket's place, when it is full (not before `now_ns`), what is untold; under its lock, or
        to look only."""
        fullest, earliest_ns = first, 2**64
        for place in range(first, first + _GROUP_BYTES, _PLACE.size):
            owner, full_ns, untold_ns = _PLACE.unpack_from(self._memory, place)
            if owner == key:
                return place, max(full_ns, now_ns), untold_ns
            if full_ns < earliest_ns:
                fullest, earliest_ns = place, full_ns
        return fullest, max(earliest_ns, now_ns), 0

    def _store(self, place: int, key: bytes, full_ns: int, untold_ns: int) -> None:
        _PLACE.pack_into(self._memory, place, key, full_ns, untold_ns)


def _boot() -> bytes:
    """16 bytes that are others after the next boot; zeros where the system does not tell."""
    try:
        return hashlib.blake2b(_BOOT_ID.read_bytes(), digest_size=16).digest()
    except OSError:
        return bytes(16)


class _Locked:
    """The record lock of one group of places."""

    __slots__ = ("_descriptor", "_start")

    def __init__(self, descriptor: int, start: int) -> None:
        self._descriptor = descriptor
        self._start = start

    def __enter__(self) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, _GROUP_BYTES, self._start)

    def __exit__(self, *_error: object) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, _GROUP_BYTES, self._start)
