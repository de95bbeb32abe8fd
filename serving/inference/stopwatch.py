"""Ends single runs of an inspection that last too long, so that one input does not cost all the time.

One thread, started before the process gives up the right to start any. A run that was ended has
failed like any other; that it would have ended later makes no difference to callers, who have limits.
"""

import threading
from collections.abc import Sequence
from typing import Protocol

from serving.core.tensors import Array


class Stoppable(Protocol):
    """A session: `session.OnnxSession`."""

    def run(self, inputs: Sequence[Array]) -> list[Array]: ...
    def terminate(self) -> None: ...


class Stopwatch:
    """Started by `start`; `run` comes from one other thread."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._changed = threading.Condition()
        self._running: Stoppable | None = None
        self._number = 0
        self._thread = threading.Thread(target=self._watch, name="stopwatch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def run(self, session: Stoppable, inputs: Sequence[Array]) -> list[Array]:
        """One run. Raises ModelFailed, also when it was ended."""
        self._set(session)
        try:
            return session.run(inputs)
        finally:
            self._set(None)

    def _set(self, session: Stoppable | None) -> None:
        with self._changed:
            self._running = session
            self._number += 1
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while True:
                self._wait(self._number, self._running)

    def _wait(self, number: int, session: Stoppable | None) -> None:
        """Until another run begins or this one ends; ends it when that takes too long."""
        limit_s = None if session is None else self._limit_s
        changed = self._changed.wait_for(lambda: self._number != number, limit_s)
        if session is not None and not changed:
            session.terminate()
