"""Plain numbers of one replica: written by the thread that runs the batches, read by others."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from serving.inference.profile import SIZES

_BUSY_WINDOW_NS: Final = 2_000_000_000
_RECENT_BATCHES: Final = 256


@dataclass(frozen=True, slots=True)
class ReplicaStatistics:
    """What a replica tells about itself. Totals since its start; `busy_fraction` of late.

    alone: why every row is run by itself; empty when rows share batches. failing: the model fails on
    a sample row, too, and no gateway is served.
    """

    queued_rows: int = 0
    busy_fraction: float = 0.0
    batches: int = 0
    rows: int = 0
    failures: int = 0
    run_seconds: float = 0.0
    best_batch_size: int = 0
    p95_queue_ms: float = 0.0
    expired_rows: int = 0
    batch_sizes: dict[int, int] = field(default_factory=dict)
    alone: str = ""
    failing: bool = False


class Counters:
    """Totals since the start; `busy_fraction` and the waits are of late."""

    def __init__(self) -> None:
        self.batches = 0
        self.rows = 0
        self.failures = 0
        self.expired_rows = 0
        self.run_ns = 0
        self.busy_fraction = 0.0
        self.batch_sizes: dict[int, int] = dict.fromkeys(SIZES, 0)
        self._queue_ns: deque[int] = deque(maxlen=_RECENT_BATCHES)
        self._window_start_ns = 0
        self._window_run_ns = 0

    def ran(self, *, rows: int, run_ns: int, queue_ns: int) -> None:
        """Counts one batch; queue_ns: how long its oldest frame had waited."""
        self.batches += 1
        self.rows += rows
        self.run_ns += run_ns
        self._window_run_ns += run_ns
        self._queue_ns.append(queue_ns)
        bound = next((size for size in SIZES if rows <= size), SIZES[-1])
        self.batch_sizes[bound] += 1

    def tick(self, now_ns: int) -> None:
        """Closes the window over which `busy_fraction` is measured, when it is long enough."""
        elapsed_ns = now_ns - self._window_start_ns
        if elapsed_ns >= _BUSY_WINDOW_NS:
            self.busy_fraction = min(1.0, self._window_run_ns / elapsed_ns)
            self._window_start_ns, self._window_run_ns = now_ns, 0

    def p95_queue_ms(self) -> float:
        waits = sorted(self._queue_ns.copy())
        return waits[int(0.95 * (len(waits) - 1))] / 1e6 if waits else 0.0

    def statistics(
        self, *, queued_rows: int, best_batch_size: int, alone: str, failing: bool
    ) -> ReplicaStatistics:
        return ReplicaStatistics(
            queued_rows=queued_rows,
            busy_fraction=self.busy_fraction,
            batches=self.batches,
            rows=self.rows,
            failures=self.failures,
            run_seconds=self.run_ns / 1e9,
            best_batch_size=best_batch_size,
            p95_queue_ms=self.p95_queue_ms(),
            expired_rows=self.expired_rows,
            batch_sizes=dict(self.batch_sizes),
            alone=alone,
            failing=failing,
        )
