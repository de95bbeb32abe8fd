"""Secrets on disk: made on first use, readable by their owner only, written whole or not at all.

A secret is written whole to a private temporary file and then linked to its name. The link fails
when the name exists, so two processes that start together agree on one secret, and a crash leaves
either no secret or a complete one. A file or folder that others can read stops the start: a key
that may have leaked is replaced by a person, never by us.
"""

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from serving.errors import StartFailed

MAX_SECRET_FILE_BYTES: Final = 16 * 1024
MAX_PRIVATE_FILE_BYTES: Final = 4 * 1024 * 1024
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def read_or_create(path: Path, make: Callable[[], bytes]) -> bytes:
    """The content of `path`, made by `make` when there is no such file yet.

    The folder is created with mode 0700, the file with 0600. Safe against a second process that
    does the same at the same time: both return the same content. Raises StartFailed.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_readable_by_others(path.parent, path.parent.stat().st_mode)
        if not path.exists():
            _create(path, make())
        return _read(path, MAX_SECRET_FILE_BYTES)
    except OSError as error:
        raise StartFailed(f"cannot keep a secret in {path}: {error.strerror}") from error


def read_private(path: Path, *, limit_bytes: int = MAX_PRIVATE_FILE_BYTES) -> bytes:
    """The content of a private file. Raises OSError, and StartFailed when others may use it."""
    return _read(path, limit_bytes)


def replace_private(path: Path, content: bytes) -> None:
    """Writes `path`, mode 0600, as a whole or not at all. Raises OSError."""
    with _written_beside(path, content) as temporary:
        temporary.replace(path)
        _sync_folder(path.parent)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """One process at a time holds `path`, a file of its own: for reading, changing and writing."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _create(path: Path, content: bytes) -> None:
    with _written_beside(path, content) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return  # Another process was first; its secret is the one that counts.
        _sync_folder(path.parent)


@contextlib.contextmanager
def _written_beside(path: Path, content: bytes) -> Iterator[Path]:
    """A private file with `content`, on disk, under a name of its own that is gone afterwards."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path, limit_bytes: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise StartFailed(f"{path} must be an ordinary file")
        _refuse_readable_by_others(path, mode)
        return file.read(limit_bytes)


def _refuse_readable_by_others(path: Path, mode: int) -> None:
    if mode & OTHERS:
        permitted = "0700" if stat.S_ISDIR(mode) else "0600"
        raise StartFailed(
            f"{path} has mode {stat.S_IMODE(mode):04o}, so others on this machine can use it; "
            f"set it to {permitted}, and replace the keys if anyone may have read them"
        )
