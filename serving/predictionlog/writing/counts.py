"""Figures of one writer, for metrics and status."""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Final

COMMIT_TIMES_S: Final = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2, 0.1, 0.5, 1.0, 5.0)
COMMIT_RECORDS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Upper bounds of the histograms; each has one bucket more, for what is above."""


@dataclass(frozen=True, slots=True)
class LogStatistics:
    """What a writer did since its start, and what it waits for.

    records: predictions; events: outcomes and losses. failed_records: answered 503 because they
    could not be recorded in time. commit_times and commit_records: buckets over COMMIT_TIMES_S and
    COMMIT_RECORDS, not cumulative, each commit once. refusal: the code of why nothing is admitted,
    empty when all is well.
    """

    commits: int
    records: int
    events: int
    bytes: int
    commit_seconds: float
    commit_times: tuple[int, ...]
    commit_records: tuple[int, ...]
    failed_commits: int
    failed_records: int
    segments: int
    suspect_segments: int
    pending_records: int
    pending_bytes: int
    refusal: str


class CommitCounts:
    """Integers that one thread raises and any thread may read."""

    def __init__(self) -> None:
        self.commits = self.records = self.bytes = self.elapsed_ns = 0
        self.failed_commits = self.segments = self.suspect_segments = 0
        self.times = [0] * (len(COMMIT_TIMES_S) + 1)
        self.sizes = [0] * (len(COMMIT_RECORDS) + 1)

    def committed(self, *, records: int, elapsed_ns: int) -> None:
        self.commits += 1
        self.records += records
        self.elapsed_ns += elapsed_ns
        self.times[bisect_left(COMMIT_TIMES_S, elapsed_ns / 1e9)] += 1
        self.sizes[bisect_left(COMMIT_RECORDS, records)] += 1
