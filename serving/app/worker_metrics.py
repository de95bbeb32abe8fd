"""What a worker's objects already count, shown to Prometheus at scrape time."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from serving.access.live import LiveAccess
from serving.access.tokens import Authenticator
from serving.app.ports import read_ports
from serving.app.worker_recording import WorkerRecording
from serving.gateway.cache import ResponseCache
from serving.gateway.pipeline import Pipeline
from serving.predictionlog.writing.counts import COMMIT_TIMES_S, LogStatistics
from serving.telemetry import families as names
from serving.telemetry.metrics import Histogram, Labels, MetricFamilies

if TYPE_CHECKING:
    from serving.app.worker import Worker


def read_families(worker: "Worker") -> None:
    """Registers every family that is read from the worker rather than counted by the pipeline."""
    families = worker.metrics.families
    pipeline, log, http = worker.pipeline, worker.log, worker.http
    tokens = worker.authenticator

    def queued_rows() -> dict[Labels, float]:
        queues = pipeline.table.queues.values()
        return {(q.version.model, q.version.version): q.queued_rows for q in queues}

    def oldest_s() -> dict[Labels, float]:
        queues = pipeline.table.queues.values()
        return {(q.version.model, q.version.version): q.oldest_s for q in queues}

    read_caches(families, pipeline)
    families.read(names.TRAFFIC_WEIGHT, worker.tally.weights)
    families.read(names.SHADOW_COST, worker.tally.costs)
    families.read(names.QUEUED_ROWS, queued_rows)
    families.read(names.QUEUE_OLDEST, oldest_s)
    families.read_one(names.IN_FLIGHT_REQUESTS, lambda: pipeline.admission.in_flight)
    families.read_one(names.CONNECTIONS, lambda: http.connections + worker.grpc.connections)
    families.read_one(names.SNAPSHOT_EPOCH, lambda: pipeline.table.epoch)
    families.read_one(names.LOG_RECORDS, lambda: log.statistics().records)
    families.read(
        names.OUTCOMES,
        lambda: {(model,): count for model, count in pipeline.outcomes.recorded.items()},
    )
    families.read_one(names.LOG_PENDING, lambda: log.statistics().pending_bytes)
    families.read_histograms(names.LOG_COMMIT, lambda: {(): _commits(log.statistics())})
    read_accounts(families, worker.recording)
    families.read_one(names.TOKEN_CACHE_HITS, lambda: tokens.statistics().hits)
    families.read_one(names.TOKEN_CACHE_MISSES, lambda: tokens.statistics().misses)
    read_refusals(families, worker.access, tokens)
    guesses = {"http": http.guesses, "grpc": worker.grpc.held.guesses}
    families.read(
        names.REFUSALS_HELD, lambda: {(port,): each.held for port, each in guesses.items()}
    )
    issuers = worker.issuers
    families.read(
        names.ISSUER_KEYS_AGE, lambda: {(each.issuer,): each.age_s for each in issuers.status()}
    )
    families.read(
        names.ISSUER_KEY_FAILURES,
        lambda: {(each.issuer,): each.failures for each in issuers.status()},
    )
    sharing = worker.quotas.sharing
    if sharing is not None:
        families.read_one(names.QUOTA_NODES, lambda: sharing.nodes if sharing.shared else 0)
    families.read(names.SPANS, lambda: _spans(worker))
    read_ports(families, {"http": http, "grpc": worker.grpc})


def read_caches(families: MetricFamilies, pipeline: Pipeline) -> None:
    """The response caches of the versions that have one."""

    def reader(count: Callable[[ResponseCache], int]) -> Callable[[], dict[Labels, float]]:
        return lambda: {
            (queue.version.model, queue.version.version): count(queue.cache)
            for queue in pipeline.table.queues.values()
            if queue.cache is not None
        }

    families.read(names.CACHE_HITS, reader(lambda cache: cache.hits))
    families.read(names.CACHE_MISSES, reader(lambda cache: cache.misses))
    families.read(names.CACHE_EVICTIONS, reader(lambda cache: cache.evictions))
    families.read(names.CACHE_BYTES, reader(lambda cache: cache.held_bytes))


def read_accounts(families: MetricFamilies, recording: WorkerRecording) -> None:
    """Both identities of the ledger, and what is between."""
    accounts, spill = recording.accounts, recording.spill

    def requests() -> dict[Labels, float]:
        account = accounts.account()
        kinds = ("admitted", "answered", "refused", "failed", "recorded", "lost", "declared")
        return {(kind,): getattr(account, kind) for kind in kinds}

    families.read(names.LEDGER_REQUESTS, requests)
    families.read_one(names.LEDGER_OPEN, lambda: accounts.account().open)
    families.read_one(names.LEDGER_UNSETTLED, lambda: accounts.account().unsettled)
    families.read_one(names.LEDGER_UNDECLARED, lambda: accounts.lost - accounts.declared)
    families.read_one(names.SPILLED_BYTES, lambda: 0 if spill is None else spill.held_bytes)
    families.read_one(names.SPILLED_RECORDS, lambda: 0 if spill is None else spill.records)


def read_refusals(
    families: MetricFamilies, access: LiveAccess, authenticator: Authenticator
) -> None:
    """What is refused is evidence: how often, for which reason, by the rules of which epoch."""
    families.read(
        names.TOKEN_REFUSALS,
        lambda: {(reason.value,): count for reason, count in authenticator.refusals().items()},
    )
    families.read(
        names.ACCESS_DENIALS,
        lambda: {(ground.value,): count for ground, count in access.refusals().items()},
    )
    families.read_one(names.ACCESS_EPOCH, lambda: access.epoch)


def _commits(statistics: LogStatistics) -> Histogram:
    histogram = Histogram(COMMIT_TIMES_S)
    histogram.counts = list(statistics.commit_times)
    histogram.total = statistics.commit_seconds
    return histogram


def _spans(worker: "Worker") -> dict[Labels, float]:
    spans = worker.tracing.statistics()
    return {("exported",): spans.exported, ("failed",): spans.failed, ("dropped",): spans.dropped}
