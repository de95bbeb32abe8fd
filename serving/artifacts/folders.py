"""Objects in a local folder: each file appears whole or not at all, and is private.

A name has one folder and one file, such as `ab/cd.sealed`. Adding links a finished file to its name,
which fails where the name is taken: of two who add at once one wins, and the other is told so.
"""

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from serving.errors import ArtifactMissing
from serving.trust.privatefiles import replace_private

READ_BYTES: Final = 1024 * 1024


class FolderBlobs:
    """Fits `store.Blobs`. Every method raises OSError when the disk fails."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def written(self, pieces: Iterable[bytes]) -> Iterator[Path]:
        """A private file with `pieces`, synced, under a name of its own that is gone afterwards."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f".{secrets.token_hex(8)}.new"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            yield path
        finally:
            path.unlink(missing_ok=True)

    def add(self, name: str, file: Path) -> bool:
        """Gives a written file its name; False when the name is taken."""
        path = self._path(name)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            os.link(file, path)
        except FileExistsError:
            return False
        for folder in (path.parent, self._folder):
            _sync(folder)
        return True

    def replace(self, name: str, content: bytes) -> None:
        """Gives a name that is there other content."""
        replace_private(self._path(name), content)

    def read(self, name: str) -> Iterator[bytes]:
        """The content, piece by piece. Raises ArtifactMissing."""
        try:
            descriptor = os.open(self._path(name), os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError as error:
            raise ArtifactMissing(f"{name} is not in the artifact store") from error
        with os.fdopen(descriptor, "rb") as file:
            while piece := file.read(READ_BYTES):
                yield piece

    def stamp(self, name: str) -> str:
        """Changes when the content is written anew. Raises ArtifactMissing."""
        try:
            found = self._path(name).lstat()
        except FileNotFoundError as error:
            raise ArtifactMissing(f"{name} is not in the artifact store") from error
        return f"{found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"

    def names(self) -> list[str]:
        """All there are, sorted."""
        found = self._folder.glob("*/*")
        return sorted(str(each.relative_to(self._folder)) for each in found)

    def remove(self, name: str) -> None:
        """Harmless when it is gone already."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / name


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
