"""CPU and memory of a server's processes while something else happens."""

import contextlib
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np

from loadtests.cpu import Account
from serving.core.clock import SystemClock

LOOK_S: Final = 0.1
_KIB: Final = 1024


class Watch:
    """Looks ten times a second for as long as the block runs."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._clock = SystemClock()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
        self._stopping = threading.Event()
        self._start_ns = 0
        self._samples: list[tuple[float, float, int]] = []

    def __enter__(self) -> Self:
        self._start_ns = self._clock.monotonic_ns()
        self._take()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join()
        self._take()

    @property
    def growth_bytes(self) -> int:
        """Of resident memory, from the beginning to its highest."""
        return max(sample[2] for sample in self._samples) - self._samples[0][2]

    def cpu_s(self, start_s: float, end_s: float) -> float:
        """CPU seconds used in that time since the beginning."""
        moments, seconds, _ = zip(*self._samples, strict=True)
        early, late = np.interp([start_s, end_s], moments, seconds)
        return float(late - early)

    def _look(self) -> None:
        while not self._stopping.wait(LOOK_S):
            self._take()

    def _take(self) -> None:
        now_s = (self._clock.monotonic_ns() - self._start_ns) / 1e9
        resident = sum(resident_bytes(pid) for pid in self._account.pids())
        self._samples.append((now_s, self._account.seconds(), resident))


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 for one that is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * _KIB
    return 0
