"""One thread that does the control plane's blocking work, so that its event loop never waits.

Work is done in the order in which it came. A queue that is full, and work that waited for longer
than anybody has patience, are refused: behind a database that hangs nothing piles up.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from serving.core.clock import Clock
from serving.errors import RegistryUnavailable

MOST_WAITING: Final = 64
PATIENCE_S: Final = 10.0

Result = TypeVar("Result")


class Worker:
    """Owned by one event loop. `close` waits for what runs and drops what waits."""

    def __init__(self, clock: Clock, *, patience_s: float = PATIENCE_S) -> None:
        self._clock = clock
        self._patience_s = patience_s
        self._waiting = 0
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="worker")

    async def run(self, work: Callable[[], Result]) -> Result:
        """What `work` returns or raises; cancelling the caller does not undo work that has begun.

        Raises RegistryUnavailable when there is too much work before it.
        """
        if self._waiting >= MOST_WAITING:
            raise RegistryUnavailable("too much waits for the registry; nothing was changed")
        latest_ns = self._clock.monotonic_ns() + round(self._patience_s * 1e9)

        def begin() -> Result:
            if self._clock.monotonic_ns() > latest_ns:
                raise RegistryUnavailable("the registry took too long; nothing was changed")
            return work()

        self._waiting += 1
        running = asyncio.get_running_loop().run_in_executor(self._executor, begin)
        running.add_done_callback(self._done)
        return await asyncio.shield(running)

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)

    def _done(self, running: asyncio.Future[Result]) -> None:
        self._waiting -= 1
        if not running.cancelled():
            running.exception()  # Its caller may have gone; it is told to nobody else.
