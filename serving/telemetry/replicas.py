"""What replicas report of themselves, as metric families that are read at scrape time."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from serving.core.traffic import ReplicaEndpoint
from serving.telemetry.families import ROWS
from serving.telemetry.metrics import Definition, Histogram, Labels, MetricFamilies

REPLICA: Final = ("model", "version", "replica")

REPLICA_BUSY = Definition(
    "serving_replica_busy_ratio", "Share of recent time in which the session ran.", REPLICA
)
REPLICA_QUEUED_ROWS = Definition(
    "serving_replica_queued_rows", "Rows in a replica that wait for its session.", REPLICA
)
REPLICA_BATCH_ROWS = Definition(
    "serving_replica_batch_rows", "Rows of one batch, as the session ran it.", REPLICA, ROWS
)
REPLICA_BATCHES = Definition("serving_replica_batches_total", "Batches run.", REPLICA)
REPLICA_ROWS = Definition("serving_replica_rows_total", "Rows run.", REPLICA)
REPLICA_FAILURES = Definition("serving_replica_failures_total", "Rows that failed.", REPLICA)
REPLICA_EXPIRED = Definition(
    "serving_replica_expired_rows_total", "Rows not run because their time had passed.", REPLICA
)
REPLICA_RUN_SECONDS = Definition(
    "serving_replica_run_seconds_total", "Time spent inside the session.", REPLICA
)
REPLICA_BEST_BATCH = Definition(
    "serving_replica_best_batch_rows", "Batch size learned to be the best.", REPLICA
)
REPLICA_QUEUE_P95 = Definition(
    "serving_replica_queue_p95_seconds", "95th percentile of the recent wait.", REPLICA
)
REPLICA_INFO = Definition(
    "serving_replica_info", "1; names the execution provider in use.", (*REPLICA, "provider")
)

REPLICA_FAMILIES: Final = (
    REPLICA_BUSY, REPLICA_QUEUED_ROWS, REPLICA_BATCHES, REPLICA_ROWS, REPLICA_FAILURES,
    REPLICA_BATCH_ROWS, REPLICA_EXPIRED, REPLICA_RUN_SECONDS, REPLICA_BEST_BATCH, REPLICA_QUEUE_P95, REPLICA_INFO,
)  # fmt: skip


class ReplicaFigures(Protocol):
    """What a replica reports about itself with every lease."""

    @property
    def busy_fraction(self) -> float: ...
    @property
    def queued_rows(self) -> int: ...
    @property
    def batches(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def failures(self) -> int: ...
    @property
    def expired_rows(self) -> int: ...
    @property
    def run_seconds(self) -> float: ...
    @property
    def best_batch_size(self) -> int: ...
    @property
    def p95_queue_ms(self) -> float: ...
    @property
    def batch_sizes(self) -> Mapping[int, int]:
        """How many batches had at most so many rows and more than the next smaller bound."""


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """The last figures of one live replica. provider: the execution provider of its session."""

    endpoint: ReplicaEndpoint
    figures: ReplicaFigures
    provider: str

    @property
    def labels(self) -> Labels:
        return (self.endpoint.model, self.endpoint.version, self.endpoint.replica)


FIGURES: Final[tuple[tuple[Definition, Callable[[ReplicaFigures], float]], ...]] = (
    (REPLICA_BUSY, lambda figures: figures.busy_fraction),
    (REPLICA_QUEUED_ROWS, lambda figures: figures.queued_rows),
    (REPLICA_BATCHES, lambda figures: figures.batches),
    (REPLICA_ROWS, lambda figures: figures.rows),
    (REPLICA_FAILURES, lambda figures: figures.failures),
    (REPLICA_EXPIRED, lambda figures: figures.expired_rows),
    (REPLICA_RUN_SECONDS, lambda figures: figures.run_seconds),
    (REPLICA_BEST_BATCH, lambda figures: figures.best_batch_size),
    (REPLICA_QUEUE_P95, lambda figures: figures.p95_queue_ms / 1000),
)


def add_replica_families(
    families: MetricFamilies, reports: Callable[[], Iterable[ReplicaReport]]
) -> None:
    """Exports the live replicas, asked for at scrape time; a replica that left has no series."""
    for definition, figure in FIGURES:
        families.read(definition, _reader(reports, figure))
    families.read_histograms(
        REPLICA_BATCH_ROWS, lambda: {each.labels: _batch_rows(each.figures) for each in reports()}
    )
    families.read(REPLICA_INFO, lambda: {(*each.labels, each.provider): 1 for each in reports()})


def _reader(
    reports: Callable[[], Iterable[ReplicaReport]], figure: Callable[[ReplicaFigures], float]
) -> Callable[[], dict[Labels, float]]:
    return lambda: {each.labels: figure(each.figures) for each in reports()}


def _batch_rows(figures: ReplicaFigures) -> Histogram:
    sizes = sorted(figures.batch_sizes.items())
    histogram = Histogram([bound for bound, _ in sizes])
    histogram.counts = [*(count for _, count in sizes), 0]
    histogram.total = figures.rows
    return histogram
