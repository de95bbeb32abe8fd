"""The keys with which one gateway worker seals payloads: made when first needed, on disk before use.

A record is worth nothing without its key, so a frame that was sealed with a new key is handed to the log
only once the key is synced (`saved`): one sync of a small file for all keys made meanwhile, by a thread
that exists for this. Known keys cost a look in a dictionary. What is remembered is bounded; when it
is full it is emptied, and subjects get further keys.

Erasures are followed: before each use the shared counter is read (8 bytes of mapped memory), and when
it moved everything is forgotten and the erase list applied to this worker's file, to which nobody
else adds.
"""

import asyncio
import logging
import mmap
import os
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from serving.core.clock import Clock
from serving.errors import LogUnavailable, ServingError, StartFailed
from serving.predictionlog.privacy.erasures import Erasures
from serving.predictionlog.privacy.subjects import (
    SLOT,
    SLOT_BYTES,
    SUFFIX,
    KeyFile,
    Slot,
    SubjectSecrets,
)
from serving.predictionlog.writing.commits import DiskThread
from serving.trust.boxes import BoxKey, Nonces

Done = Callable[[ServingError | None], None]
_COUNTER_BYTES: Final = 8

_log = logging.getLogger(__name__)


class WorkerKeys:
    """The key file of one worker. For the event loop that started it."""

    def __init__(
        self,
        folder: Path,
        *,
        worker: str,
        secrets: SubjectSecrets,
        erasures: Erasures,
        max_cached: int,
        clock: Clock,
    ) -> None:
        """folder: `<data_dir>/subjects`. worker: the file's name, and nobody else's."""
        self.secrets = secrets
        self.nonce = Nonces()
        self._folder = folder
        self._path = folder / f"{worker}{SUFFIX}"
        self._erasures = erasures
        self._max_cached = max_cached
        self._clock = clock
        self._known: dict[tuple[bytes, bytes], BoxKey] = {}
        self._new: list[bytes] = []
        self._waiting: deque[Done] = deque()
        self._saving = 0
        self._descriptor = -1
        self._end = 0
        self._seen = b""

    def start(self) -> None:
        """Applies erasures and takes up the keys that are there. Blocks. Raises StartFailed."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._end = os.fstat(self._descriptor).st_size // SLOT_BYTES * SLOT_BYTES
            os.ftruncate(self._descriptor, self._end)
            _sync_folder(self._folder)
            self._counter = _counter(self._folder / "generation")
            self._seen = self._counter[:]
            self._erasures.obey(self._path)
            self._remember()
        except OSError as error:
            raise StartFailed(f"cannot use {self._path}: {error.strerror}") from error
        self._thread = DiskThread(asyncio.get_running_loop())
        self._thread.start()

    def close(self) -> None:
        if self._descriptor >= 0:
            # After what the thread was given; a disk that hangs keeps only itself.
            self._thread.run(partial(os.close, self._descriptor), lambda *_: None)
            self._thread.stop()
            self._counter.close()
            self._descriptor = -1

    def key(self, tag: bytes, model: bytes) -> BoxKey:
        """The key of a subject for a model (its mark). What it seals waits for `saved`."""
        if self._counter[:] != self._seen:
            self.follow()
        key = self._known.get((tag, model))
        return key if key is not None else self._make(tag, model)

    def saved(self, done: Done) -> None:
        """Calls `done` once every key given out is on disk; at once if all are."""
        if not self._new and not self._saving:
            done(None)
            return
        self._waiting.append(done)
        if not self._saving:
            self._save()

    def follow(self) -> None:
        """Forgets every key if somebody was erased since the last look."""
        seen = self._counter[:]
        if seen == self._seen:
            return
        self._seen = seen
        self._known.clear()
        self._thread.run(partial(self._erasures.obey, self._path), self._obeyed)

    # -- keys ------------------------------------------------------------------------------------

    def _make(self, tag: bytes, model: bytes) -> BoxKey:
        if len(self._known) >= self._max_cached:
            self._known.clear()
        key = self._known[tag, model] = BoxKey.new()
        made_ns = self._clock.wall_ns()
        self._new.append(self.secrets.seal(key, tag=tag, model=model, made_ns=made_ns))
        return key

    def _remember(self) -> None:
        """The newest keys of the file, as many as may be remembered."""
        file = KeyFile(self._path)
        for index in range(max(0, len(file) - self._max_cached), len(file)):
            content = file.slot(index)
            key = self.secrets.unseal(content)
            if key is not None:
                slot = Slot(*SLOT.unpack(content))
                self._known[slot.tag, slot.model] = key

    # -- the disk --------------------------------------------------------------------------------

    def _save(self) -> None:
        new, self._new = self._new, []
        self._saving = len(self._waiting)
        self._thread.run(partial(self._write, b"".join(new)), self._written)

    def _write(self, content: bytes) -> None:
        written = os.pwrite(self._descriptor, content, self._end)
        if written != len(content):
            raise OSError("the disk took a part of the keys only")
        os.fdatasync(self._descriptor)
        self._end += written

    def _written(self, _result: object, error: BaseException | None) -> None:
        count, self._saving = self._saving, 0
        refusal: ServingError | None = None
        if error is not None:
            _log.warning("subject keys cannot be written: %s", error)
            refusal = LogUnavailable("the keys of data subjects cannot be written")
            # Later frames may have used the same keys: they fail, too.
            count = len(self._waiting)
            self._new.clear()
            self._known.clear()
        for _ in range(count):
            self._waiting.popleft()(refusal)
        if self._waiting:
            self._save()

    def _obeyed(self, _result: object, error: BaseException | None) -> None:
        if error is not None:
            # Whoever erased has destroyed the keys itself, and the next start looks again.
            _log.warning("the erase list cannot be applied here: %s", error)


def _counter(path: Path) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_size < _COUNTER_BYTES:
            os.ftruncate(descriptor, _COUNTER_BYTES)
        return mmap.mmap(descriptor, _COUNTER_BYTES, prot=mmap.PROT_READ)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
