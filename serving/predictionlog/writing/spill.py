"""The spill: where records of `at_least_once` versions go while the log refuses.

A second place, best on another disk, bounded in bytes. Each time the log refuses, a directory is begun
there that is a log like any other, of the same log id: ids, definitions, seals and durability are those
of the log. As soon as the log takes records again the directory is sealed and moved below the others; in
the meantime a link there leads to it. So every reader finds what was spilled without knowing of it.

    <spill_dir>/<worker>-<log id>-<n>           while the log refuses
    <data_dir>/log/spill-<worker>-<log id>-<n>  first a link to it, then itself

A move copies, syncs, and takes the place of the link by a rename; the original goes last. A crash
anywhere between is mended by the next start. A record may be in the log and in the spill: when the
log's disk hung, nobody could know what became of it. Both have one prediction id.
"""

import asyncio
import contextlib
import logging
import os
import shutil
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from serving.errors import LogStorageFull, LogUnavailable, ServingError
from serving.predictionlog.writing.writer import LogIdentity, PredictionLogWriter

Done = Callable[[ServingError | None], None]
MakeWriter = Callable[[Path, LogIdentity], PredictionLogWriter]
_PREFIX: Final = "spill-"
_ABOVE: Final = 1_000_000_000
"""Segments of spills have numbers that the log itself never gets to: with its id they name them."""

_log = logging.getLogger(__name__)


class Spill:
    """The spill of one writer. For the event loop that started it."""

    def __init__(
        self,
        folder: Path,
        *,
        worker: str,
        log: PredictionLogWriter,
        log_root: Path,
        max_bytes: int,
        make_writer: MakeWriter,
    ) -> None:
        """folder: the setting. log_root: where readers look. make_writer: for a directory."""
        self._folder = folder
        self._worker = worker
        self._log = log
        self._log_root = log_root
        self._max_bytes = max_bytes
        self._make_writer = make_writer
        self._episode = 0
        self._writer: PredictionLogWriter | None = None
        self._opening: asyncio.Task[None] | None = None
        self._waiting: deque[tuple[Sequence[bytes], Done]] = deque()
        self.held_bytes = 0
        self.records = 0
        """Taken since the start."""

    async def start(self) -> None:
        """Moves what an earlier process left. A disk that does not let it is tried again later."""
        for directory in self._left():
            await self._mend(directory)
        self.held_bytes = sum(map(_size_bytes, self._left()))

    @property
    def refusal(self) -> ServingError | None:
        """Why a record would be refused; None as far as is known."""
        if self.held_bytes >= self._max_bytes:
            return LogStorageFull("the prediction log refuses, and its spill is full")
        return None if self._writer is None else self._writer.refusal

    def append(self, records: Sequence[bytes], done: Done) -> None:
        """As the log's `append`; never done before the records are on disk as the log's would be."""
        refusal = self.refusal
        if refusal is not None:
            done(refusal)
            return
        self.held_bytes += sum(map(len, records))
        if self._writer is not None:
            self._put(records, done)
            return
        self._waiting.append((records, done))
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open())

    async def tend(self) -> None:
        """Ends the spilling once the log takes records again, and moves what was spilled."""
        if self._writer is not None and self._log.refusal is None:
            await self._close()
        if self._writer is None and self._opening is None and self._log.refusal is None:
            for directory in self._left():
                await self._move(directory)
            self.held_bytes = sum(map(_size_bytes, self._left()))

    async def aclose(self) -> None:
        """Seals what is open; moves it if the log's disk lets it."""
        if self._opening is not None:
            await self._opening
        await self._close()
        for directory in self._left():
            await self._move(directory)

    # -- one episode -----------------------------------------------------------------------------

    async def _open(self) -> None:
        """Begins a directory and hands it what gathered meanwhile."""
        self._episode += 1
        name = f"{self._worker}-{self._log.log_id}-{self._episode}"
        directory = self._folder / name
        identity = replace(self._log.identity, above=_ABOVE * self._episode)
        writer = self._make_writer(directory, identity)
        error: ServingError | None = None
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            await writer.start()
        except (OSError, ServingError) as cause:
            _log.warning("prediction log: the spill cannot be opened: %s", cause)
            error = LogUnavailable("neither the prediction log nor its spill can be written")
        else:
            _log.warning("prediction log: it refuses, records go to the spill")
            self._link(directory)
            self._writer = writer
        self._opening = None
        waiting, self._waiting = self._waiting, deque()
        for records, done in waiting:
            if error is None:
                self._put(records, done)
            else:
                self.held_bytes -= sum(map(len, records))
                done(error)

    def _put(self, records: Sequence[bytes], done: Done) -> None:
        if self._writer is None:
            raise ValueError("the spill is not open. This is a bug")
        self._writer.append(records, partial(self._taken, len(records), done))

    def _taken(self, count: int, done: Done, error: ServingError | None) -> None:
        if error is None:
            self.records += count
        done(error)

    async def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.aclose()

    # -- places ----------------------------------------------------------------------------------

    def _left(self) -> list[Path]:
        """Directories of this worker that were not moved yet, oldest first."""
        try:
            found = list(self._folder.glob(f"{self._worker}-*-*"))
        except OSError:
            return []
        return sorted(found, key=lambda path: path.stat().st_mtime_ns)

    def _place(self, directory: Path) -> Path:
        return self._log_root / f"{_PREFIX}{directory.name}"

    def _link(self, directory: Path) -> None:
        try:
            self._place(directory).symlink_to(directory, target_is_directory=True)
        except FileExistsError:
            pass
        except OSError as error:  # readers find it once it was moved
            _log.warning("prediction log: no link to the spill: %s", error.strerror)

    async def _mend(self, directory: Path) -> None:
        """Seals and moves a directory whose writer is gone."""
        if not self._place(directory).is_dir() or self._place(directory).is_symlink():
            self._link(directory)
            writer = self._make_writer(directory, LogIdentity.new())
            try:
                await writer.start()
                await writer.aclose()
            except ServingError as error:
                _log.warning("prediction log: spilled records cannot be sealed: %s", error.message)
                return
        await self._move(directory)

    async def _move(self, directory: Path) -> None:
        try:
            await asyncio.to_thread(_move, directory, self._place(directory))
        except OSError as error:
            _log.warning("prediction log: the spill stays where it is: %s", error.strerror)


def _move(directory: Path, place: Path) -> None:
    """Copies, then takes the link's place; harmless when repeated. Raises OSError."""
    if place.is_symlink() or not place.exists():
        arriving = place.parent.parent / f".arriving-{place.name}"
        shutil.rmtree(arriving, ignore_errors=True)
        try:
            _copy(directory, arriving)
        except OSError:
            shutil.rmtree(arriving, ignore_errors=True)
            raise
        place.unlink(missing_ok=True)
        arriving.rename(place)
        _sync(place.parent)
    shutil.rmtree(directory)
    _sync(directory.parent)


def _copy(source: Path, target: Path) -> None:
    target.mkdir(mode=0o700)
    for path in source.iterdir():
        copied = Path(shutil.copy2(path, target / path.name))
        _sync(copied)
    _sync(target)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size_bytes(directory: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(path.stat().st_size for path in directory.iterdir())
    return 0
