"""Every metric family that the product exports, in one table, and the objects that fill it.

A new metric is a definition here, its call site, and a row in README (a test demands it). Per-request
work is on `VersionMetrics`, whose members are plain counters and histograms; everything that some
object already counts is read from it at scrape time with `MetricFamilies.read`.

All families of a model version carry its role, `primary` or `shadow`, so that a candidate's copies
never blur the figures of what callers were told. No caller, subject or request is ever a label.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from serving.core.predictions import Fate
from serving.core.traffic import ReplicaEndpoint
from serving.telemetry.executions import Executions
from serving.telemetry.metrics import Counter, Definition, Histogram, Labels, MetricFamilies

Role = Literal["primary", "shadow"]

VERSION: Final = ("model", "version", "role")
REPLICA: Final = ("model", "version", "replica")
SECONDS: Final = (
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
COMMIT_SECONDS: Final = (0.0001, *SECONDS)
LABEL_SECONDS: Final = (
    1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0, 2_592_000.0,
)  # fmt: skip
ROWS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)

REQUESTS = Definition(
    "serving_requests_total", "Admitted requests by how they ended.", (*VERSION, "fate")
)
REFUSALS = Definition(
    "serving_refusals_total",
    "Requests refused before they were admitted or because they were not recorded, by error code.",
    ("code",),
)
REQUEST_DURATION = Definition(
    "serving_request_duration_seconds",
    "From the request's last byte to the answer's first.",
    VERSION,
    SECONDS,
)
QUEUE = Definition(
    "serving_queue_seconds", "From admission until a replica began to run it.", VERSION, SECONDS
)
BATCH_ROWS = Definition("serving_batch_rows", "Rows of one frame sent to a replica.", VERSION, ROWS)
RETRIES = Definition(
    "serving_retries_total", "Requests sent to another replica after one was lost.", VERSION
)
DEADLINE_MISSES = Definition(
    "serving_deadline_misses_total", "Requests whose deadline passed unanswered.", VERSION
)
EXECUTED_AFTER_DEADLINE = Definition(
    "serving_executed_after_deadline_total",
    "Rows that a replica began to run although their deadline had passed.",
    VERSION,
)
SHADOW_DROPPED = Definition(
    "serving_shadow_dropped_total", "Copies for a candidate that were not made.", VERSION
)
QUEUED_ROWS = Definition("serving_queued_rows", "Rows waiting for a frame.", ("model", "version"))
QUEUE_OLDEST = Definition(
    "serving_queue_oldest_seconds",
    "How long the request that has waited longest for a frame has waited.",
    ("model", "version"),
)
IN_FLIGHT_REQUESTS = Definition("serving_in_flight_requests", "Admitted and not yet answered.")
CONNECTIONS = Definition("serving_connections", "Open connections of callers.")
SNAPSHOT_EPOCH = Definition("serving_snapshot_epoch", "Epoch of the snapshot in use.")
LOG_RECORDS = Definition("serving_log_records_total", "Records in the prediction log.")
OUTCOMES = Definition(
    "serving_outcomes_total", "Outcomes recorded, as they were reported, by model.", ("model",)
)
OUTCOME_JOIN = Definition(
    "serving_outcome_join_ratio",
    "Share of the answered rows of the last `ledger.label_days` whose truth is known.",
    ("model",),
)
OUTCOME_DELAY = Definition(
    "serving_outcome_delay_seconds",
    "From a prediction to the first report of its truth, over the last `ledger.label_days`.",
    ("model",),
    LABEL_SECONDS,
)
OUTCOME_REPORTS = Definition(
    "serving_outcome_reports",
    "Reports of the last `ledger.label_days` by what came of them: counted, duplicate, correction, "
    "withdrawn, or rejected as unknown_prediction, other_model, no_such_row.",
    ("model", "result"),
)
LEDGER_REQUESTS = Definition(
    "serving_ledger_requests_total",
    "Requests by account: admitted = answered + refused + failed + open, "
    "answered = recorded + lost + unsettled. Copies for candidates included.",
    ("account",),
)
LEDGER_OPEN = Definition("serving_ledger_open_requests", "Admitted, and without an end yet.")
LEDGER_UNSETTLED = Definition(
    "serving_ledger_unsettled_requests",
    "Answered, and neither recorded nor known to be lost yet; only of best_effort versions.",
)
LEDGER_UNDECLARED = Definition(
    "serving_ledger_undeclared_requests", "Lost, and not yet declared in the prediction log."
)
SPILLED_BYTES = Definition(
    "serving_log_spilled_bytes", "Records that wait in the spill for the prediction log."
)
SPILLED_RECORDS = Definition(
    "serving_log_spilled_records_total", "Records that the spill took because the log refused."
)
LOG_COMMIT = Definition(
    "serving_log_commit_seconds", "One group commit of the prediction log.", (), COMMIT_SECONDS
)
LOG_PENDING = Definition("serving_log_pending_bytes", "Bytes of records waiting for the disk.")
TOKEN_CACHE_HITS = Definition(
    "serving_token_cache_hits_total", "Credentials known from an earlier request."
)
TOKEN_CACHE_MISSES = Definition(
    "serving_token_cache_misses_total", "Credentials that had to be looked at."
)
QUOTA_NODES = Definition(
    "serving_quota_nodes", "Nodes that share their quotas; 0 while Redis does not answer."
)
TOKEN_REFUSALS = Definition(
    "serving_token_refusals_total", "Refused credentials by reason.", ("reason",)
)
ISSUER_KEYS_AGE = Definition(
    "serving_issuer_keys_age_seconds",
    "Since the keys of an issuer were last read; before the first time, infinite.",
    ("issuer",),
)
ISSUER_KEY_FAILURES = Definition(
    "serving_issuer_key_failures_total",
    "Readings of an issuer's keys that failed.",
    ("issuer",),
)
ACCESS_DENIALS = Definition(
    "serving_access_denials_total",
    "Known callers refused what they asked for, by what the decision rests on.",
    ("ground",),
)
ACCESS_EPOCH = Definition("serving_access_epoch", "Epoch of the access rules in force.")
AUDIT_EVENTS = Definition("serving_audit_events", "Events of the audit trail that are signed.")
AUDIT_DAMAGED = Definition("serving_audit_damaged", "1 when the trail is not what was signed.")
AUDIT_CHECKPOINT_AGE = Definition(
    "serving_audit_checkpoint_age_seconds", "Age of the newest signed checkpoint."
)
APPROVALS_OPEN = Definition("serving_approvals_open", "Approval requests that wait for people.")
APPROVALS_ENDING = Definition(
    "serving_approvals_ending", "Serving versions whose approvals end in 14 days, or have ended."
)
WEBHOOK_DELIVERIES = Definition(
    "serving_webhook_deliveries_total",
    "Tries of notifications: delivered, retried, given_up.",
    ("outcome",),
)
SPANS = Definition(
    "serving_spans_total", "Spans by outcome: exported, failed, dropped.", ("outcome",)
)

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

CERTIFICATE_EXPIRY = Definition(
    "serving_certificate_expiry_timestamp_seconds",
    "When the certificate in use on a port ends, in seconds since 1970.",
    ("port",),
)
FAILED_HANDSHAKES = Definition(
    "serving_tls_handshake_failures_total",
    "Connections that ended before TLS was agreed on; not counted for gRPC.",
    ("port",),
)

LEDGER_RUNS = Definition(
    "serving_ledger_job_runs_total", "Runs of a job of the ledger process.", ("job", "result")
)
LEDGER_SECONDS = Definition(
    "serving_ledger_job_seconds", "How long the last run of a job took.", ("job",)
)
LEDGER_SUCCEEDED = Definition(
    "serving_ledger_job_success_timestamp_seconds",
    "When a job last ended well, in seconds since 1970; 0 for never.",
    ("job",),
)
LEDGER_WAITING = Definition(
    "serving_ledger_waiting_segments", "Sealed segments that are not in tables yet."
)
LEDGER_DAMAGED = Definition(
    "serving_ledger_damaged_segments", "Segments that stay out of the tables: damaged."
)
LEDGER_RECORDS = Definition(
    "serving_ledger_compacted_records_total", "Records that were moved into tables."
)
LEDGER_FILES = Definition("serving_ledger_files", "Table files that count.")
LEDGER_BYTES = Definition("serving_ledger_cold_bytes", "Size of the table files that count.")
LEDGER_DELETED = Definition(
    "serving_ledger_deleted_total", "What retention has deleted.", ("what",)
)
SINK_LAG_RECORDS = Definition(
    "serving_sink_lag_records", "Records that a sink has not taken yet.", ("sink",)
)
SINK_LAG_BYTES = Definition(
    "serving_sink_lag_bytes", "Bytes of the log that a sink has not taken yet.", ("sink",)
)
SINK_LAG_SECONDS = Definition(
    "serving_sink_lag_seconds",
    "Since the oldest record that a sink has not taken arrived.",
    ("sink",),
)
SINK_GIVEN_UP = Definition(
    "serving_sink_given_up_segments", "Segments that were never shipped: too many waited."
)

PROCESS_UP = Definition("serving_process_up", "Whether a process of this instance runs.", ("name",))
PROCESS_RESTARTS = Definition(
    "serving_process_restarts_total", "How often a process was started again.", ("name",)
)

GATEWAY_FAMILIES: Final = (
    REQUESTS, REFUSALS, REQUEST_DURATION, QUEUE, BATCH_ROWS, RETRIES, DEADLINE_MISSES,
    EXECUTED_AFTER_DEADLINE, SHADOW_DROPPED, QUEUED_ROWS, QUEUE_OLDEST, IN_FLIGHT_REQUESTS, CONNECTIONS,
    SNAPSHOT_EPOCH, LOG_RECORDS, OUTCOMES, LOG_COMMIT, LEDGER_REQUESTS, LEDGER_OPEN, LEDGER_UNSETTLED,
    LEDGER_UNDECLARED, SPILLED_BYTES, SPILLED_RECORDS, LOG_PENDING, TOKEN_CACHE_HITS, TOKEN_CACHE_MISSES,
    QUOTA_NODES,
    TOKEN_REFUSALS, ACCESS_DENIALS, ACCESS_EPOCH, ISSUER_KEYS_AGE, ISSUER_KEY_FAILURES, SPANS,
    CERTIFICATE_EXPIRY, FAILED_HANDSHAKES,
)  # fmt: skip
REPLICA_FAMILIES: Final = (
    REPLICA_BUSY, REPLICA_QUEUED_ROWS, REPLICA_BATCHES, REPLICA_ROWS, REPLICA_FAILURES,
    REPLICA_BATCH_ROWS, REPLICA_EXPIRED, REPLICA_RUN_SECONDS, REPLICA_BEST_BATCH, REPLICA_QUEUE_P95, REPLICA_INFO,
)  # fmt: skip
LABEL_FAMILIES: Final = (OUTCOME_JOIN, OUTCOME_DELAY, OUTCOME_REPORTS)
LEDGER_FAMILIES: Final = (
    LEDGER_RUNS, LEDGER_SECONDS, LEDGER_SUCCEEDED, LEDGER_WAITING, LEDGER_DAMAGED, LEDGER_RECORDS,
    LEDGER_FILES, LEDGER_BYTES, LEDGER_DELETED, SINK_LAG_RECORDS, SINK_LAG_BYTES, SINK_LAG_SECONDS,
    SINK_GIVEN_UP,
)  # fmt: skip
EVIDENCE_FAMILIES: Final = (
    AUDIT_EVENTS, AUDIT_DAMAGED, AUDIT_CHECKPOINT_AGE,
    APPROVALS_OPEN, APPROVALS_ENDING, WEBHOOK_DELIVERIES,
)  # fmt: skip
SUPERVISOR_FAMILIES: Final = (PROCESS_UP, PROCESS_RESTARTS)


class VersionMetrics:
    """What a gateway counts about one model version in one role.

    requests: by `Fate`, which is the index: `metrics.requests[fate].value += 1`; 0 is unused.
    executions: of the version in all its roles. failed_us: how long requests took that failed. Both
    are for the statistics that clients ask for, and are not exported.
    """

    __slots__ = (
        "batch_rows",
        "deadline_misses",
        "duration",
        "executed_after_deadline",
        "executions",
        "failed_us",
        "queue",
        "requests",
        "retries",
        "shadow_dropped",
    )

    def __init__(self, gateway: "GatewayMetrics", labels: Labels, executions: Executions) -> None:
        self.executions = executions
        self.failed_us = 0
        fates = [gateway.requests.child(*labels, fate.name.lower()) for fate in Fate]
        self.requests: list[Counter] = [Counter(), *fates]
        self.duration: Histogram = gateway.durations.child(*labels)
        self.queue: Histogram = gateway.queues.child(*labels)
        self.batch_rows: Histogram = gateway.batch_rows.child(*labels)
        self.retries: Counter = gateway.retries.child(*labels)
        self.deadline_misses: Counter = gateway.deadline_misses.child(*labels)
        self.executed_after_deadline: Counter = gateway.executed_after_deadline.child(*labels)
        self.shadow_dropped: Counter = gateway.shadow_dropped.child(*labels)


class GatewayMetrics:
    """The metrics of a gateway worker.

    What other objects already count is wired by the composition root with `families.read` and
    `families.read_one`, using the definitions of this module.
    """

    def __init__(self) -> None:
        families = MetricFamilies()
        self.families = families
        self.requests = families.counter(REQUESTS)
        self.refusals = families.counter(REFUSALS)
        self.durations = families.histogram(REQUEST_DURATION)
        self.queues = families.histogram(QUEUE)
        self.batch_rows = families.histogram(BATCH_ROWS)
        self.retries = families.counter(RETRIES)
        self.deadline_misses = families.counter(DEADLINE_MISSES)
        self.executed_after_deadline = families.counter(EXECUTED_AFTER_DEADLINE)
        self.shadow_dropped = families.counter(SHADOW_DROPPED)
        self._versions: dict[Labels, VersionMetrics] = {}

    def version(self, model: str, version: str, role: Role) -> VersionMetrics:
        """Always the same object for the same version and role; keep it beside its queue."""
        labels = (model, version, role)
        metrics = self._versions.get(labels)
        if metrics is None:
            known = self.of_version(model, version)
            executions = known[0].executions if known else Executions()
            metrics = self._versions[labels] = VersionMetrics(self, labels, executions)
        return metrics

    def of_version(self, model: str, version: str) -> list[VersionMetrics]:
        """What there is of a version, one for each role in which it was asked anything."""
        return [v for labels, v in self._versions.items() if labels[:2] == (model, version)]

    def refused(self, code: str) -> None:
        """Counts a request refused with this error code."""
        self.refusals.child(code).value += 1

    def retain(self, live: Collection[tuple[str, str]]) -> None:
        """Drops the series of versions that are not in `live`, pairs of model and version."""

        def keep(labels: Labels) -> bool:
            return labels[:2] in live

        self._versions = {k: v for k, v in self._versions.items() if keep(k)}
        for counters in (
            self.requests,
            self.retries,
            self.deadline_misses,
            self.executed_after_deadline,
            self.shadow_dropped,
        ):
            counters.retain(keep)
        for histograms in (self.durations, self.queues, self.batch_rows):
            histograms.retain(keep)


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
