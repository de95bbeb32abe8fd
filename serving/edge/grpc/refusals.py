"""How long a gRPC call with a refused credential waits for its answer (`serving.edge.guesses`).

A connection carries many calls at once, so what waits is bounded: by `most` of all sources together.
Beyond that calls are answered at once, as holding them would take the places of calls that are fine.
A server that drains holds nobody.
"""

import asyncio
from collections.abc import Callable

from serving.edge.guesses import Guesses, source_of

Answer = Callable[[], None]


class RefusedCalls:
    """Those of one server that wait. guesses: its memory of sources; `guesses.held` counts."""

    def __init__(self, guesses: Guesses, *, most: int, now_s: Callable[[], float]) -> None:
        """now_s: monotonic time."""
        self.guesses = guesses
        self._most = most
        self._now_s = now_s
        self._draining = False
        self._timers: dict[Answer, asyncio.TimerHandle] = {}

    @property
    def waiting(self) -> int:
        return len(self._timers)

    def hold(self, peer: object, answer: Answer) -> None:
        """Calls `answer` when a refused call of this peer may be answered, which may be now.

        peer: the name of its socket.
        """
        wait_s = 0.0
        if self.waiting < self._most and not self._draining:
            wait_s = self.guesses.wait_s(source_of(peer), self._now_s())
        if not wait_s:
            answer()
            return
        loop = asyncio.get_running_loop()
        self._timers[answer] = loop.call_later(wait_s, self._end, answer)

    def forget(self, answer: Answer) -> None:
        """Nobody waits for it any longer. Harmless when it has been called."""
        timer = self._timers.pop(answer, None)
        if timer is not None:
            timer.cancel()

    def drain(self) -> None:
        """Those that wait are answered now."""
        self._draining = True
        for answer in list(self._timers):
            self.forget(answer)
            answer()

    def _end(self, answer: Answer) -> None:
        del self._timers[answer]
        answer()
