"""When a commit happens and who waits for the disk: the seam between the event loop and the files.

    IDLE     nothing waits
    SYNCING  a commit was written by the loop; the kernel syncs it (`syncing`)
    THREAD   the committer is with the thread, which may block: opening, a commit that failed once,
             the next segment, a look at the disk twice a second, sealing; and every commit where
             the kernel cannot sync by itself

The committer has one user at a time, so whatever comes in SYNCING or THREAD gathers and is the next
commit. A sync that never ends holds up the log and nothing else: the loop writes no byte before the
sync before it has succeeded, so that it is not caught in the write to a disk that hangs.

Guarantees: appends are settled in order, each once, in the loop; one that was settled without an
error is recorded as its durability says.
"""

import asyncio
import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from serving.errors import LogUnavailable, ServingError
from serving.predictionlog.format import EVENTS
from serving.predictionlog.writing.committer import MAX_COMMIT_BYTES, TEND_NS, Committer
from serving.predictionlog.writing.segment import DefinitionUnknown
from serving.predictionlog.writing.syncing import BackgroundSync

Done = Callable[[ServingError | None], None]

_log = logging.getLogger(__name__)


class Waiter:
    """One append. `sequence`: the last one given when it was made. `events`: no predictions."""

    __slots__ = ("done", "error", "events", "records", "sequence", "since_ns", "size_bytes")

    def __init__(
        self, records: Sequence[bytes], *, sequence: int, size_bytes: int, since_ns: int
    ) -> None:
        self.records = records
        self.sequence = sequence
        self.size_bytes = size_bytes
        self.since_ns = since_ns
        self.done: Done | None = None
        self.error: ServingError | None = None
        self.events = bool(records) and records[0][4] in EVENTS


Settle = Callable[[Sequence[Waiter], ServingError | None], None]


class Commits:
    """Runs `committer` for the running loop. `sync` None: every commit is made by the thread."""

    def __init__(self, committer: Committer, sync: BackgroundSync | None, settle: Settle) -> None:
        """settle: gets waiters in the order of `put`."""
        self._committer = committer
        self._sync = sync
        self._settle = settle
        self._loop = asyncio.get_running_loop()
        self._thread = DiskThread(self._loop)
        self._waiting: deque[Waiter] = deque()
        self._committing: list[Waiter] = []
        self._frames: list[bytes] = []
        self._busy = True
        self._one_by_one = 0
        self._tend_is_due = False
        self._ticks: asyncio.TimerHandle | None = None
        self._closing: asyncio.Future[None] | None = None

    async def start(self) -> int:
        """Opens the committer, whose errors it raises; the highest sequence in the directory."""
        opened = self._loop.create_future()
        self._thread.start()
        self._thread.run(self._committer.open, partial(_resolve, opened))
        try:
            await opened
        except BaseException:
            self._end()
            raise
        self._tick()
        self._next()
        return self._committer.sequence

    def put(self, waiter: Waiter) -> None:
        """Records an append, together with all that wait when the committer is free."""
        self._waiting.append(waiter)
        if not self._busy:
            self._busy = True
            self._commit()

    async def stop(self) -> None:
        """Returns when everything put before is committed and the segment is sealed."""
        self._closing = self._loop.create_future()
        if not self._busy:
            self._busy = True
            self._next()
        await self._closing

    # -- one thing after the other ---------------------------------------------------------------

    def _next(self) -> None:
        """The committer is free: whatever is most urgent."""
        if self._waiting:
            self._commit()
        elif self._closing is not None:
            self._thread.run(self._committer.close, self._closed)
        elif self._tend_is_due:
            self._tend()
        else:
            self._busy = False

    def _settled(self) -> None:
        """After a commit: what keeps the log going, then the next one."""
        if self._tend_is_due or self._committer.due:
            self._tend()
        else:
            self._next()

    def _tend(self) -> None:
        self._tend_is_due = False
        idle = not self._waiting
        self._thread.run(partial(self._committer.tend, idle=idle), self._tended)

    def _tended(self, _result: object, error: BaseException | None) -> None:
        if error is not None:
            self._give_up(error)
        self._next()

    def _tick(self) -> None:
        self._ticks = self._loop.call_later(TEND_NS / 1e9, self._tick)
        self._tend_is_due = True
        if not self._busy:
            self._busy = True
            self._next()

    # -- a commit --------------------------------------------------------------------------------

    def _commit(self) -> None:
        waiters = self._committing = self._take()
        committer = self._committer
        committer.sequence = waiters[-1].sequence
        frames = self._frames = [frame for waiter in waiters for frame in waiter.records]
        if not frames:
            self._finish(None)
        elif self._sync is None or not committer.well:
            self._thread.run(partial(committer.commit, frames), self._committed)
        else:
            self._write(frames, self._sync)

    def _write(self, frames: list[bytes], sync: BackgroundSync) -> None:
        try:
            descriptor = self._committer.begin(frames)
            if descriptor is None:
                self._synced(0)
            else:
                sync.start(descriptor, self._synced)
        except OSError as error:
            self._recommit(error)
        except Exception as error:  # noqa: BLE001 -- told there; the log outlives a bug
            self._committed(None, error)

    def _synced(self, code: int) -> None:
        if code:
            self._recommit(OSError(code, os.strerror(code)))
            return
        try:
            self._committer.accept(self._frames)
        except Exception as error:  # noqa: BLE001 -- as above
            self._committed(None, error)
            return
        self._finish(None)

    def _recommit(self, error: OSError) -> None:
        self._thread.run(partial(self._committer.recommit, error, self._frames), self._committed)

    def _committed(self, refusal: ServingError | None, error: BaseException | None) -> None:
        if isinstance(error, DefinitionUnknown) and len(self._committing) > 1:
            # Only the guilty one fails.
            self._one_by_one = len(self._committing)
            self._waiting.extendleft(reversed(self._committing))
            self._next()
            return
        if error is not None:
            refusal = LogUnavailable("the prediction log failed")
            if not isinstance(error, DefinitionUnknown):
                self._give_up(error)
            else:
                _log.error("prediction log: a record without its definition. This is a bug")
        self._finish(refusal)

    def _finish(self, error: ServingError | None) -> None:
        waiters, self._committing, self._frames = self._committing, [], []
        self._settle(waiters, error)
        self._committer.absorb()
        self._settled()

    def _take(self) -> list[Waiter]:
        """Everything that waits, up to the size of a commit."""
        waiting = self._waiting
        if self._one_by_one:
            self._one_by_one -= 1
            return [waiting.popleft()]
        waiters: list[Waiter] = []
        size_bytes = 0
        while waiting and size_bytes < MAX_COMMIT_BYTES:
            waiter = waiting.popleft()
            waiters.append(waiter)
            size_bytes += waiter.size_bytes
        return waiters

    def _give_up(self, error: BaseException) -> None:
        """After an unexpected failure: told, and reopened by the next probe."""
        _log.error("prediction log: unexpected failure", exc_info=error)
        self._committer.give_up()

    # -- the end ---------------------------------------------------------------------------------

    def _closed(self, _result: object, error: BaseException | None) -> None:
        if error is not None:
            _log.error("prediction log: not sealed", exc_info=error)
        self._end()
        if self._closing is not None and not self._closing.done():
            self._closing.set_result(None)

    def _end(self) -> None:
        if self._ticks is not None:
            self._ticks.cancel()
        self._thread.stop()
        if self._sync is not None:
            self._sync.close()


class DiskThread:
    """Runs jobs one after the other where they may block; tells the loop what came of each.

    A daemon: a disk that never answers must not keep the process from ending.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="prediction-log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def run(self, job: Callable[[], object], done: "Finished") -> None:
        """`done(result, None)` or `done(None, error)` follows on the loop."""
        self._jobs.put((job, done))

    def stop(self) -> None:
        """Ends the thread after the jobs before."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (order := self._jobs.get()) is not None:
            job, done = order
            result, failure = None, None
            try:
                result = job()
            except BaseException as error:  # noqa: BLE001 -- raised or told where it is waited for
                failure = error
            try:
                self._loop.call_soon_threadsafe(done, result, failure)
            except RuntimeError:
                _log.warning("prediction log: its event loop is gone")


Finished = Callable[..., None]
_Job = tuple[Callable[[], object], Finished]


def _resolve(future: "asyncio.Future[object]", result: object, error: BaseException | None) -> None:
    if future.done():  # nobody waits any longer
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
