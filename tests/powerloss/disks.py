"""A disk in memory that forgets: what the log's writer did to it, and what a power cut may leave.

`Disk` is a file system (`Files`) whose every operation is taken down in the order in which it was
made. Nothing is on the platter before a sync says so: bytes of a file before that file's sync, names
in a directory before the directory's. `Platter` is one state that a power cut may leave, as a file
system again, so that the real recovery runs on it.
"""

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class Write(NamedTuple):
    """Bytes at an offset; `length` counts the zeros at the end, which `content` leaves out."""

    file: int
    offset: int
    content: bytes
    length: int


class Truncate(NamedTuple):
    file: int
    length: int


class Sync(NamedTuple):
    file: int


class Link(NamedTuple):
    """A name for a file."""

    name: str
    file: int


class Rename(NamedTuple):
    old: str
    new: str


class Unlink(NamedTuple):
    name: str


class SyncNames(NamedTuple):
    """The directory's entries are on disk."""


class Acknowledged(NamedTuple):
    """Somebody was told that these are recorded."""

    sequences: tuple[int, ...]


class Failed(NamedTuple):
    """The operation was refused with this errno; `file` is 0 where it was not about an open one."""

    operation: str
    file: int
    code: int


Operation = Failed | Write | Truncate | Sync | Link | Rename | Unlink | SyncNames | Acknowledged


class Content(NamedTuple):
    """A file without the zeros at its end, and its size with them."""

    head: bytes
    size: int

    def written(self, offset: int, content: bytes, length: int) -> "Content":
        head = self.head
        if content:
            head = head[:offset].ljust(offset, b"\0") + content + head[offset + len(content) :]
        tail = range(offset + len(content), offset + length)
        if tail and tail.start < len(head):
            head = head[: tail.start] + bytes(min(tail.stop, len(head)) - tail.start) + (
                head[tail.stop :]
            )  # fmt: skip
        return Content(head, max(self.size, offset + length))

    def cut(self, length: int) -> "Content":
        return Content(self.head[:length], length)

    def read(self, length: int, offset: int) -> bytes:
        end = min(offset + length, self.size)
        return self.head[offset:end].ljust(max(end - offset, 0), b"\0")


EMPTY = Content(b"", 0)


@dataclass(slots=True)
class Platter:
    """Files by number and names for them; a file system over both, in one directory.

    read_only: an error for whoever writes, as the check that a reader changes nothing.
    """

    files: dict[int, Content] = field(default_factory=dict)
    names_of: dict[str, int] = field(default_factory=dict)
    _open: dict[int, int] = field(default_factory=dict)
    _descriptors: int = 0

    def copy(self) -> "Platter":
        return Platter(dict(self.files), dict(self.names_of))

    def apply(self, operation: Operation) -> None:
        match operation:
            case Write(file, offset, content, length):
                self.files[file] = self.files.get(file, EMPTY).written(offset, content, length)
            case Truncate(file, length):
                self.files[file] = self.files.get(file, EMPTY).cut(length)
            case Link(name, file):
                self.names_of[name] = file
                self.files.setdefault(file, EMPTY)
            case Rename(old, new) if old in self.names_of:
                self.names_of[new] = self.names_of.pop(old)
            case Unlink(name):
                self.names_of.pop(name, None)
            case _:
                pass

    def key(self) -> frozenset[tuple[str, bytes, int]]:
        """The same for two states that nobody can tell apart."""
        return frozenset((name, *self.files[file]) for name, file in self.names_of.items())

    # -- as a file system ------------------------------------------------------------------------

    def make_directory(self, path: Path) -> None: ...

    def lock(self, path: Path) -> int:
        return self._descriptor(-1)

    def create(self, path: Path) -> int:
        if path.name in self.names_of:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        file = max(self.files, default=0) + 1
        self.apply(Link(path.name, file))
        return self._descriptor(file)

    def open(self, path: Path) -> int:
        if path.name not in self.names_of:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return self._descriptor(self.names_of[path.name])

    def open_to_read(self, path: Path) -> int:
        return Platter.open(self, path)

    def write(
        self, descriptor: int, buffers: Sequence[bytes], offset: int, *, durable: bool
    ) -> int:
        whole = b"".join(buffers)
        self.apply(Write(self._open[descriptor], offset, whole.rstrip(b"\0"), len(whole)))
        return len(whole)

    def truncate(self, descriptor: int, length: int) -> None:
        self.apply(Truncate(self._open[descriptor], length))

    def sync(self, descriptor: int) -> None: ...

    def close(self, descriptor: int) -> None:
        self._open.pop(descriptor, None)

    def remove(self, path: Path) -> None:
        self.apply(Unlink(path.name))

    def replace(self, path: Path, content: bytes) -> None:
        descriptor = self.create(path.with_name(f".{path.name}.{len(self.files)}"))
        self.write(descriptor, [content], 0, durable=True)
        self.names_of[path.name] = self._open[descriptor]
        self.close(descriptor)

    def names(self, directory: Path) -> list[str]:
        return list(self.names_of)

    def size(self, descriptor: int) -> int:
        return self.files[self._open[descriptor]].size

    def read(self, descriptor: int, length: int, offset: int) -> bytes:
        return self.files[self._open[descriptor]].read(length, offset)

    def free_bytes(self, directory: Path) -> int:
        return 2**40

    def intact(self, descriptor: int, path: Path, *, length: int) -> bool:
        file = self._open[descriptor]
        return self.names_of.get(path.name) == file and self.files[file].size >= length

    def _descriptor(self, file: int) -> int:
        self._descriptors += 1
        self._open[self._descriptors] = file
        return self._descriptors


class Disk(Platter):
    """A platter that is written to, and the journal of how.

    failures: the n-th operation (the first is 1), every one of a name, or "name n" fails with this
    errno; of a write that fails, half of the bytes arrive.
    """

    def __init__(self, failures: Mapping[int | str, int] | None = None) -> None:
        super().__init__()
        self.journal: list[Operation] = []
        self.operations: list[str] = []
        self._failures = failures or {}

    def apply(self, operation: Operation) -> None:
        super().apply(operation)
        self.journal.append(operation)

    def acknowledge(self, sequences: Sequence[int]) -> None:
        self.journal.append(Acknowledged(tuple(sequences)))

    def create(self, path: Path) -> int:
        self._meet("create")
        descriptor = super().create(path)
        self.journal.append(SyncNames())
        return descriptor

    def open(self, path: Path) -> int:
        self._meet("open")
        return super().open(path)

    def write(
        self, descriptor: int, buffers: Sequence[bytes], offset: int, *, durable: bool
    ) -> int:
        try:
            self._meet("write", descriptor)
        except OSError:
            whole = b"".join(buffers)
            super().write(descriptor, [whole[: len(whole) // 2]], offset, durable=False)
            raise
        written = super().write(descriptor, buffers, offset, durable=durable)
        if durable:
            self.sync(descriptor)
        return written

    def truncate(self, descriptor: int, length: int) -> None:
        self._meet("truncate", descriptor)
        super().truncate(descriptor, length)

    def sync(self, descriptor: int) -> None:
        self._meet("sync", descriptor)
        self.journal.append(Sync(self._open[descriptor]))

    def remove(self, path: Path) -> None:
        self._meet("remove")
        super().remove(path)
        self.journal.append(SyncNames())

    def replace(self, path: Path, content: bytes) -> None:
        self._meet("head")
        fresh = f".{path.name}"
        file = max(self.files, default=0) + 1
        self.apply(Link(fresh, file))
        self.apply(Write(file, 0, content, len(content)))
        self.journal.append(Sync(file))
        self._meet("rename")
        self.apply(Rename(fresh, path.name))

    def intact(self, descriptor: int, path: Path, *, length: int) -> bool:
        self._meet("intact")
        return super().intact(descriptor, path, length=length)

    def free_bytes(self, directory: Path) -> int:
        self._meet("space")
        return super().free_bytes(directory)

    def _meet(self, operation: str, descriptor: int = 0) -> None:
        self.operations.append(operation)
        keys = (len(self.operations), operation, f"{operation} {self.operations.count(operation)}")
        code = next((self._failures[key] for key in keys if key in self._failures), None)
        if code is not None:
            self.journal.append(Failed(operation, self._open.get(descriptor, 0), code))
            raise OSError(code, os.strerror(code))
