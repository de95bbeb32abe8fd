"""What the ledger process does, one job after the other, and how each of them is doing.

A job is run again `period_s` after it ended. One that fails is counted, told in the log, and run again
after its period; the others go on. There is one thread for all of them, so that they share one core,
which is never needed by an answer: the process has the lowest priority there is.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from serving.core.clock import Clock

_log = logging.getLogger(__name__)


class Job(Protocol):
    """Something that is done again and again. It may be killed at any instant."""

    @property
    def name(self) -> str: ...
    @property
    def period_s(self) -> float: ...
    def run(self) -> None:
        """Once. What it raises is told and counted."""


class JobStatus(msgspec.Struct, frozen=True):
    """How a job is doing. seconds: of the last run. error: of the last run, empty when it went well.

    succeeded_ns: wall clock at the last good end, 0 for never.
    """

    name: str
    runs: int
    failures: int
    seconds: float
    succeeded_ns: int
    error: str


@dataclass(slots=True)
class _Entry:
    job: Job
    due_ns: int
    runs: int = 0
    failures: int = 0
    elapsed_ns: int = 0
    succeeded_ns: int = 0
    error: str = ""


class JobRunner:
    """Runs jobs for whoever calls `run_due`; statuses may be read from other threads."""

    def __init__(self, jobs: Sequence[Job], clock: Clock) -> None:
        self._clock = clock
        now_ns = clock.monotonic_ns()
        self._entries = [_Entry(job, now_ns) for job in jobs]

    def run_due(self) -> float:
        """Runs every job that is due, the longest due first; seconds until the next one is."""
        for entry in sorted(self._entries, key=lambda entry: entry.due_ns):
            if entry.due_ns <= self._clock.monotonic_ns():
                self._run(entry)
        next_ns = min((entry.due_ns for entry in self._entries), default=None)
        if next_ns is None:
            return float("inf")
        return max((next_ns - self._clock.monotonic_ns()) / 1e9, 0.0)

    def statuses(self) -> list[JobStatus]:
        return [
            JobStatus(
                entry.job.name,
                entry.runs,
                entry.failures,
                entry.elapsed_ns / 1e9,
                entry.succeeded_ns,
                entry.error,
            )
            for entry in self._entries
        ]

    def _run(self, entry: _Entry) -> None:
        began_ns = self._clock.monotonic_ns()
        error = ""
        try:
            entry.job.run()
        except Exception as failure:  # noqa: BLE001 -- a failing job never ends the others
            error = str(failure)[:300] or type(failure).__name__
            if error != entry.error:
                _log.warning("ledger: %s failed: %s", entry.job.name, error)
            entry.failures += 1
        else:
            entry.succeeded_ns = self._clock.wall_ns()
        ended_ns = self._clock.monotonic_ns()
        entry.runs, entry.error = entry.runs + 1, error
        entry.elapsed_ns = ended_ns - began_ns
        entry.due_ns = ended_ns + round(entry.job.period_s * 1e9)
