"""Commits in a thread of the caller's process: for tests, whose disks fail on command.

The product commits in a process of its own (`process`), for the reason given there. The thread is the
one that touches the log's files: it takes what waits, commits it, releases the waiters.

The queue is C code: putting into it costs 0.1 us, or a wake-up when the thread sleeps. The thread
gives up the interpreter lock twice for a commit: for the write and for its next sleep.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, MutableMapping, Sequence

from serving.errors import LogUnavailable, ServingError
from serving.predictionlog.committer import MAX_COMMIT_BYTES, TEND_NS, Committer, state_of
from serving.predictionlog.messages import State
from serving.predictionlog.segment import DefinitionUnknown
from serving.predictionlog.waiting import Settle, Waiter

_log = logging.getLogger(__name__)


class CommitThread:
    """Runs a committer; see `waiting.Commits`. `definitions` is what the committer looks up."""

    def __init__(self, committer: Committer, definitions: MutableMapping[int, bytes]) -> None:
        loop = self._loop = asyncio.get_running_loop()
        self._committer = committer
        self._definitions = definitions
        self._queue: queue.SimpleQueue[Waiter | None] = queue.SimpleQueue()
        self._opened: asyncio.Future[None] = loop.create_future()
        self._stopped: asyncio.Future[None] = loop.create_future()
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self.put = self._queue.put

    async def start(self, settle: Settle) -> int:
        """Returns when the committer is open; raises what it raised."""
        self._settle = settle
        self._thread.start()
        await self._opened
        return self._committer.sequence

    def define(self, number: int, text: bytes) -> None:
        self._definitions[number] = text

    @property
    def refusal(self) -> ServingError | None:
        return self._committer.refusal

    @property
    def state(self) -> State:
        return state_of(self._committer)

    async def stop(self) -> None:
        """Returns when everything put before is committed and the segment is sealed."""
        self._queue.put(None)
        await self._stopped
        self._thread.join()

    def _run(self) -> None:
        try:
            self._committer.open()
        except Exception as error:  # noqa: BLE001 -- raised again in start()
            self._post(self._opened.set_exception, error)
            return
        self._post(self._opened.set_result, None)
        try:
            while self._turn():
                pass
            self._committer.close()
        finally:
            self._post(_resolve, self._stopped)

    def _turn(self) -> bool:
        """One commit, or one idle wait. False once the log was closed."""
        waiters, closing = self._take()
        if waiters:
            self._commit(waiters)
        try:
            self._committer.tend(idle=self._queue.empty())
        except Exception:  # noqa: BLE001 -- the log outlives a bug
            self._give_up()
        return not closing

    def _give_up(self) -> None:
        """After an unexpected failure: told, and reopened by the next probe."""
        _log.exception("prediction log: unexpected failure")
        self._committer.give_up()

    def _take(self) -> tuple[list[Waiter], bool]:
        """Everything that waits, up to the size of a commit; and whether the log is closing."""
        try:
            waiter = self._queue.get(timeout=TEND_NS / 1e9)
        except queue.Empty:
            return [], False
        waiters: list[Waiter] = []
        size_bytes = 0
        while waiter is not None:
            waiters.append(waiter)
            size_bytes += waiter.size_bytes
            if size_bytes >= MAX_COMMIT_BYTES or self._queue.empty():
                return waiters, False
            waiter = self._queue.get()
        return waiters, True

    def _commit(self, waiters: Sequence[Waiter]) -> None:
        self._committer.sequence = waiters[-1].sequence
        frames = [frame for waiter in waiters for frame in waiter.records]
        error: ServingError | None = LogUnavailable("the prediction log failed")
        try:
            error = self._committer.commit(frames) if frames else None
        except DefinitionUnknown:
            if len(waiters) > 1:  # only the guilty one fails
                for waiter in waiters:
                    self._commit([waiter])
                return
            _log.exception("prediction log: a record without its definition. This is a bug")
        except Exception:  # noqa: BLE001 -- its waiters are told before anything else happens
            self._give_up()
        self._post(self._settle, waiters, error)

    def _post(self, function: Callable[..., object], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            _log.warning("prediction log: its event loop is gone")


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():  # nobody waits any longer
        future.set_result(None)
