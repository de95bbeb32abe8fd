"""Every operation the prediction log does on a disk, behind one small interface.

`SystemFiles` is the real one; fault tests wrap it in one that fails, stalls or writes short at a
chosen call. Failures are plain OSErrors; what each means is decided in `committer`.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from serving.errors import DataDirectoryInUse

OUT_OF_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Full disk, quota, file-size limit. CPython ignores SIGXFSZ, so the last is an error, not a death."""

_DSYNC: Final[int] = getattr(os, "RWF_DSYNC", 0)
_NO_DSYNC: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


class FilesToRead(Protocol):
    """What readers need of a file system."""

    def names(self, directory: Path) -> list[str]:
        """The files in it, in any order; nothing for a directory that does not exist."""

    def open_to_read(self, path: Path) -> int: ...
    def size(self, descriptor: int) -> int: ...
    def read(self, descriptor: int, length: int, offset: int) -> bytes:
        """Fewer bytes at the end of the file only."""

    def close(self, descriptor: int) -> None: ...


class Files(FilesToRead, Protocol):
    """What the writer needs of one besides."""

    def make_directory(self, path: Path) -> None:
        """Creates it with its parents, mode 0700, its own entry on disk; one that exists will do."""

    def lock(self, path: Path) -> int:
        """Takes the lock for the life of the descriptor. Raises DataDirectoryInUse."""

    def create(self, path: Path) -> int:
        """A new file, mode 0600, its directory entry on disk; one that exists is an error."""

    def open(self, path: Path) -> int: ...
    def write(
        self, descriptor: int, buffers: Sequence[bytes], offset: int, *, durable: bool
    ) -> int:
        """How many bytes were written, maybe too few; durable: they are on disk on return."""

    def truncate(self, descriptor: int, length: int) -> None: ...
    def sync(self, descriptor: int) -> None: ...
    def remove(self, path: Path) -> None:
        """Its directory entry is off the disk on return; one that is gone will do."""

    def replace(self, path: Path, content: bytes) -> None:
        """A whole small file, mode 0600: on a crash the old one or the new one is there."""

    def free_bytes(self, directory: Path) -> int: ...
    def intact(self, descriptor: int, path: Path, *, length: int) -> bool:
        """Whether `path` still leads to the open file and the file is at least `length` long."""


class SystemFiles:
    """The operating system's files.

    A durable write is one `pwritev` with RWF_DSYNC: one system call, so the log's thread gives up the
    interpreter lock once for each commit instead of twice. Measured here (ext4 on a virtual disk, two
    cores, 450-byte appends): 155-185 us against 210 us for writev + fdatasync.
    """

    def __init__(self) -> None:
        self._dsync = _DSYNC != 0

    def make_directory(self, path: Path) -> None:
        if path.is_dir():
            return
        if path.exists():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        self.make_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        self._sync_directory(path.parent)

    def lock(self, path: Path) -> int:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise DataDirectoryInUse(f"another writer has {path.parent} open") from error
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def create(self, path: Path) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            self._sync_directory(path.parent)
        except OSError:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        return descriptor

    def open(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def write(
        self, descriptor: int, buffers: Sequence[bytes], offset: int, *, durable: bool
    ) -> int:
        if durable and self._dsync:
            try:
                return os.pwritev(descriptor, buffers, offset, _DSYNC)
            except OSError as error:
                if error.errno not in _NO_DSYNC:
                    raise
                self._dsync = False  # this file system cannot; from now on as elsewhere
        written = os.pwritev(descriptor, buffers, offset)
        if durable:
            self.sync(descriptor)
        return written

    def truncate(self, descriptor: int, length: int) -> None:
        os.ftruncate(descriptor, length)

    def sync(self, descriptor: int) -> None:
        getattr(os, "fdatasync", os.fsync)(descriptor)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._sync_directory(path.parent)

    def replace(self, path: Path, content: bytes) -> None:
        fresh = path.with_name(f".{path.name}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        descriptor = os.open(fresh, flags, 0o600)
        try:
            os.write(descriptor, content)
            self.sync(descriptor)
        finally:
            os.close(descriptor)
        fresh.replace(path)

    def names(self, directory: Path) -> list[str]:
        try:
            with os.scandir(directory) as entries:
                return [entry.name for entry in entries if entry.is_file()]
        except FileNotFoundError:
            return []

    def open_to_read(self, path: Path) -> int:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def size(self, descriptor: int) -> int:
        return os.fstat(descriptor).st_size

    def read(self, descriptor: int, length: int, offset: int) -> bytes:
        return os.pread(descriptor, length, offset)

    def free_bytes(self, directory: Path) -> int:
        status = os.statvfs(directory)
        return status.f_bavail * status.f_frsize

    def intact(self, descriptor: int, path: Path, *, length: int) -> bool:
        try:
            named = path.stat()
        except FileNotFoundError:
            return False
        held = os.fstat(descriptor)
        return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino) and held.st_size >= length

    @staticmethod
    def _sync_directory(path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


SYSTEM_FILES: Final = SystemFiles()
"""For readers."""
