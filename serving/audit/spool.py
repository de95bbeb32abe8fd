"""Events of acts that happen while the database is not at hand: an append-only file, absorbed once.

Commands on this machine (who read payloads, who exported) and processes without a database write
here: one JSON line per event, synced before the act goes on. Control renames the file, absorbs it
by event id in one transaction and removes it. Killed anywhere between, it finds the renamed file
again, and the ids that are in the trail already are left out: exactly once.

    <folder>/spool.jsonl      what is being written, under a lock
    <folder>/spool.absorbing  what is being absorbed
"""

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import structlog

from serving.audit.events import Event
from serving.errors import NotReady

logger = structlog.get_logger()

BATCH_EVENTS: Final = 500


class Spooled(msgspec.Struct, frozen=True):
    """An event that has its identity and time, and waits for its place in the trail."""

    id: str
    at_ns: int
    event: Event

    @classmethod
    def new(cls, event: Event, *, at_ns: int) -> "Spooled":
        return cls(secrets.token_hex(16), at_ns, event)


class Spool:
    """The spool of one data directory; any number of processes may add to it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "spool.jsonl"
        self._absorbing = folder / "spool.absorbing"

    def add(self, event: Event, *, at_ns: int) -> None:
        """Returns when the event is on disk. Raises NotReady, and then the act must not go on."""
        line = msgspec.json.encode(Spooled.new(event, at_ns=at_ns)) + b"\n"
        try:
            with self._held():
                # Opened under the lock: whoever renames the file holds it too.
                flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
                descriptor = os.open(self._path, flags, 0o600)
                try:
                    _write_whole(descriptor, line)
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        except OSError as error:
            raise NotReady(
                "the act cannot be kept in the audit trail, so it was refused"
            ) from error

    def drain(self, absorb: Callable[[Sequence[Spooled]], object]) -> int:
        """Hands over what was added, in order, and forgets it; how many lines that were.

        absorb: commits what it is given, and leaves out what it has seen. What it raises leaves
        everything here for the next time.
        """
        absorbed = 0
        for file in self._taken():
            waiting = list(_lines(file))
            for start in range(0, len(waiting), BATCH_EVENTS):
                absorb(waiting[start : start + BATCH_EVENTS])
            absorbed += len(waiting)
            file.unlink()
        return absorbed

    def _taken(self) -> Iterator[Path]:
        if self._absorbing.exists():
            yield self._absorbing
        if self._path.exists():
            with self._held():
                self._path.rename(self._absorbing)
            yield self._absorbing

    @contextmanager
    def _held(self) -> Iterator[None]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._folder / "spool.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _write_whole(descriptor: int, line: bytes) -> None:
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        line = b"\n" + line  # A writer died in the middle of its line: that one ends here.
    if os.write(descriptor, line) != len(line):
        os.ftruncate(descriptor, size)
        raise OSError("the disk took a part of the event only")


def _lines(file: Path) -> Iterator[Spooled]:
    """Its events. A last line that was cut by a crash was never acknowledged, and is left out."""
    for number, line in enumerate(file.read_bytes().split(b"\n")):
        try:
            if line:
                yield msgspec.json.decode(line, type=Spooled)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            logger.warning("a line of the audit spool is damaged", line=number, error=str(error))
