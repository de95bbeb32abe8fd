"""Where cold data lies: a folder of this machine, or a bucket of an S3-compatible service.

Both keep a promise on which the catalog rests: `create` makes an object whole or not at all, and only
if there is none of that name. A folder does it with a file that is written and synced under another
name and then linked to its own; a bucket with a conditional put. What `upload` has returned from is on
disk, or as durable as the bucket is.
"""

import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Protocol

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import ObjectStore

from serving.core.batches import Buffer
from serving.errors import LedgerUnavailable
from serving.storage.blobs import open_bucket
from serving.storage_settings import BlobSettings

if TYPE_CHECKING:  # known to type checkers only
    from obstore import ReadableFile

PART_BYTES: Final = 8 * 1024 * 1024
_TEMPORARY: Final = ".new-"


class Place(Protocol):
    """Objects by name; a name has `/` between its parts. Errors are LedgerUnavailable.

    What is not there is a FileNotFoundError.
    """

    def names(self, folder: str) -> list[str]:
        """Of all objects below `folder`, sorted."""

    def read(self, name: str) -> bytes: ...
    def open(self, name: str) -> IO[bytes]:
        """For reading at any position; its owner closes it."""

    def path(self, name: str) -> Path | None:
        """The file, where objects are files."""

    def create(self, name: str, content: bytes) -> bool:
        """False if there is one already."""

    def upload(self, name: str, file: Path) -> None:
        """A copy of `file`, in place of what was there."""

    def delete(self, name: str) -> None:
        """Harmless when there is none."""


class Folder:
    """A `Place` below `root`, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self, folder: str) -> list[str]:
        found = (self.root / folder).rglob("*")
        return sorted(
            path.relative_to(self.root).as_posix()
            for path in found
            if not path.name.startswith(_TEMPORARY) and path.is_file()
        )

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def open(self, name: str) -> IO[bytes]:
        return (self.root / name).open("rb")

    def path(self, name: str) -> Path | None:
        return self.root / name

    def create(self, name: str, content: bytes) -> bool:
        with _reported(name), self._written(name, [content]) as temporary:
            try:
                (self.root / name).hardlink_to(temporary)
            except FileExistsError:
                return False
            _sync_directory((self.root / name).parent)
            return True

    def upload(self, name: str, file: Path) -> None:
        with _reported(name), file.open("rb") as source:
            pieces = iter(lambda: source.read(PART_BYTES), b"")
            with self._written(name, pieces) as temporary:
                temporary.replace(self.root / name)
                _sync_directory((self.root / name).parent)

    def delete(self, name: str) -> None:
        with _reported(name):
            (self.root / name).unlink(missing_ok=True)

    @contextmanager
    def _written(self, name: str, pieces: "Iterator[bytes] | list[bytes]") -> Iterator[Path]:
        """A synced file beside `name` with this content, gone afterwards."""
        folder = (self.root / name).parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = folder / f"{_TEMPORARY}{secrets.token_hex(8)}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


class Bucket:
    """A `Place` in an object store; `store` points at its prefix."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def names(self, folder: str) -> list[str]:
        with _reported(folder):
            found = obstore.list(self._store, prefix=folder)
            return sorted(each["path"] for chunk in found for each in chunk)

    def read(self, name: str) -> bytes:
        with _reported(name):
            return bytes(obstore.get(self._store, name).bytes())

    def open(self, name: str) -> IO[bytes]:
        with _reported(name):
            return io.BufferedReader(_ObjectFile(obstore.open_reader(self._store, name)))

    def path(self, name: str) -> Path | None:
        return None

    def create(self, name: str, content: bytes) -> bool:
        with _reported(name):
            try:
                obstore.put(self._store, name, content, mode="create")
            except (AlreadyExistsError, PreconditionError):
                return False
            return True

    def upload(self, name: str, file: Path) -> None:
        with _reported(name):
            obstore.put(self._store, name, file, chunk_size=PART_BYTES)

    def delete(self, name: str) -> None:
        with _reported(name):
            try:
                obstore.delete(self._store, name)
            except FileNotFoundError:
                return


class _ObjectFile(io.RawIOBase):
    """An object as files are: with an end, and closed by who opened it."""

    def __init__(self, reader: "ReadableFile") -> None:
        self._reader = reader

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:  # type: ignore[override]  # of any buffer
        view = memoryview(buffer)
        content = self._reader.read(len(view))
        view[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._reader.seek(offset, whence)

    def tell(self) -> int:
        return self._reader.tell()


@contextmanager
def _reported(name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (BaseError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LedgerUnavailable(f"{name}: {reason[:300]}") from error


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cold_place(blobs: BlobSettings, data_dir: Path) -> Place:
    """Where an instance keeps its tables and shipped segments. Raises SettingInvalid."""
    if blobs.url:
        return Bucket(open_bucket(blobs, "ledger"))
    return Folder(data_dir / "ledger" / "cold")
