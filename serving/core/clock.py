"""The one place that reads time and waits for it, so that tests can run on their own time."""

import time
from typing import Protocol


class Clock(Protocol):
    """Time as the product sees it: `monotonic_ns` for durations, `wall_ns` for records.

    `thread_ns` is the CPU time of the calling thread: what work cost, whoever else had the core.
    """

    def monotonic_ns(self) -> int: ...
    def thread_ns(self) -> int: ...
    def wall_ns(self) -> int: ...
    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's clocks. Wall time is nanoseconds since the Unix epoch, UTC."""

    monotonic_ns = staticmethod(time.monotonic_ns)
    thread_ns = staticmethod(time.thread_time_ns)
    wall_ns = staticmethod(time.time_ns)
    sleep = staticmethod(time.sleep)


class ManualClock:
    """A clock that moves only when told to; wall and monotonic time move together."""

    def __init__(self, *, wall_ns: int = 1_700_000_000_000_000_000) -> None:
        self._elapsed_ns = 0
        self._wall_start_ns = wall_ns

    def monotonic_ns(self) -> int:
        return self._elapsed_ns

    thread_ns = monotonic_ns

    def wall_ns(self) -> int:
        return self._wall_start_ns + self._elapsed_ns

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        self._elapsed_ns += round(seconds * 1e9)

    def step_wall(self, seconds: float) -> None:
        """Moves wall time only, as an administrator or a time server would."""
        self._wall_start_ns += round(seconds * 1e9)
