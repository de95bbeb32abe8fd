"""Descriptors that the writer of a log holds back, for when the process has no others left.

Who accepts connections runs out of descriptors while strangers make them; the log must then still go
on to its next segment, and recover from a failed one. So a few are taken when the directory is
locked; one is given up for each file that could not be opened for want of one, and taken back as soon
as there are any. Between giving up and opening another thread may be faster: then the next one goes.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from serving.predictionlog.files import SystemFiles

RESERVED: Final = 8
"""A turn of segments needs two at once: the next segment, and its directory or the head."""
_NONE_LEFT: Final = frozenset({errno.EMFILE, errno.ENFILE})

_Opened = TypeVar("_Opened")


class ReservedFiles(SystemFiles):
    """The operating system's files, with a reserve from `lock` until the lock is closed."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = -1
        self._reserve: list[int] = []

    @property
    def reserved(self) -> int:
        """How many descriptors are held back now."""
        return len(self._reserve)

    def lock(self, path: Path) -> int:
        self._lock = super().lock(path)
        self._refill()
        return self._lock

    def close(self, descriptor: int) -> None:
        super().close(descriptor)
        if descriptor != self._lock:
            self._refill()
            return
        self._lock = -1
        while self._reserve:
            super().close(self._reserve.pop())

    def create(self, path: Path) -> int:
        return self._opening(lambda: super(ReservedFiles, self).create(path))

    def open(self, path: Path) -> int:
        return self._opening(lambda: super(ReservedFiles, self).open(path))

    def open_to_read(self, path: Path) -> int:
        return self._opening(lambda: super(ReservedFiles, self).open_to_read(path))

    def remove(self, path: Path) -> None:
        self._opening(lambda: super(ReservedFiles, self).remove(path))

    def replace(self, path: Path, content: bytes) -> None:
        self._opening(lambda: super(ReservedFiles, self).replace(path, content))

    def names(self, directory: Path) -> list[str]:
        return self._opening(lambda: super(ReservedFiles, self).names(directory))

    def _opening(self, opens: Callable[[], _Opened]) -> _Opened:
        """What `opens` gives; each of these operations may be done again when it failed."""
        while True:
            try:
                opened = opens()
            except OSError as error:
                if error.errno not in _NONE_LEFT or not self._reserve:
                    raise
                super().close(self._reserve.pop())
            else:
                self._refill()
                return opened

    def _refill(self) -> None:
        """Takes back what there is; a copy of the lock's descriptor costs nothing else."""
        while self._lock >= 0 and len(self._reserve) < RESERVED:
            try:
                self._reserve.append(os.dup(self._lock))
            except OSError:
                return
