"""The metric families that the product exports, and the objects that fill those of a gateway worker.

Those of replicas are in `replicas`, of the ledger process in `ledger_families`, of comparisons in
`comparison_families`.

A new metric is a definition here, its call site, and a row in README (a test demands it). Per-request
work is on `VersionMetrics`, whose members are plain counters and histograms; everything that some
object already counts is read from it at scrape time with `MetricFamilies.read`.

All families of a model version carry its role, `primary`, `shadow` or `chosen` (by the caller), so that
neither a candidate's copies nor a tester's calls blur the figures of what callers were told. No caller, subject or request is ever a label.
"""

from collections.abc import Collection, Mapping
from typing import Final, Literal, get_args

from serving.core.predictions import Fate
from serving.core.reports import LATENCY_BOUNDS_S
from serving.telemetry.executions import Executions
from serving.telemetry.metrics import Counter, Definition, Histogram, Labels, MetricFamilies

Role = Literal["primary", "shadow", "chosen"]

Reason = Literal["room", "pressed", "budget"]
"""Why a copy is not made: the candidate has enough to do, callers need the worker, it costs enough."""

VERSION: Final = ("model", "version", "role")
SECONDS: Final = LATENCY_BOUNDS_S
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
SHADOW_COPIES = Definition(
    "serving_shadow_copies_total", "Copies made for a candidate.", ("model", "version")
)
SHADOW_DROPPED = Definition(
    "serving_shadow_dropped_total",
    "Copies for a candidate that were not made, by why: room, pressed, budget.",
    (*VERSION, "reason"),
)
SHADOW_COST = Definition(
    "serving_shadow_cost_ratio",
    "Model time of a candidate's copies as a share of the stable version's, over about a minute.",
    ("model", "version"),
)
MODEL_ROWS = Definition("serving_model_rows_total", "Rows of answered requests.", VERSION)
MODEL_SECONDS = Definition(
    "serving_model_seconds_total",
    "Model time of answered requests; a batch's is shared out by rows.",
    VERSION,
)
TRAFFIC_WEIGHT = Definition(
    "serving_traffic_weight_ratio",
    "Share of a model's requests that a version is to answer.",
    ("model", "version"),
)
DIVERTED = Definition(
    "serving_diverted_total",
    "Requests of a canary's share that the stable version got: it had no replica.",
    ("model", "version"),
)
CACHE_HITS = Definition(
    "serving_cache_hits_total",
    "Requests answered from the response cache of their version.",
    ("model", "version"),
)
CACHE_MISSES = Definition(
    "serving_cache_misses_total",
    "Requests looked for in the response cache, not found, and run.",
    ("model", "version"),
)
CACHE_EVICTIONS = Definition(
    "serving_cache_evictions_total",
    "Answers dropped before their time because the response cache was full.",
    ("model", "version"),
)
CACHE_BYTES = Definition(
    "serving_cache_bytes", "What the response cache of a version holds.", ("model", "version")
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
ROLLOUT_WEIGHT = Definition(
    "serving_rollout_weight_ratio",
    "Share of the requests that a candidate answers, as gateways were told, while its rollout is "
    "under way.",
    ("model", "candidate"),
)
ROLLOUT_STATE = Definition(
    "serving_rollout_state_info",
    "1 for the state of each rollout that is under way, or completed with the old version still warm.",
    ("model", "candidate", "state"),
)
ROLLOUT_ROLLBACKS = Definition(
    "serving_rollout_rollbacks_total",
    "Automatic rollbacks, by the gate that broke.",
    ("model", "gate"),
)
ROLLOUT_UNRECORDED = Definition(
    "serving_rollout_unrecorded_events", "Rollbacks in force that the registry does not know yet."
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
REFUSALS_HELD = Definition(
    "serving_refusals_held_total",
    "Answers to refused credentials that were held back, as their source had too many.",
    ("port",),
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

CERTIFICATE_EXPIRY = Definition(
    "serving_certificate_expiry_timestamp_seconds",
    "When the certificate in use on a port ends, in seconds since 1970.",
    ("port",),
)
FAILED_HANDSHAKES = Definition(
    "serving_tls_handshake_failures_total",
    "Connections that ended before TLS was agreed on.",
    ("port",),
)

PROCESS_UP = Definition("serving_process_up", "Whether a process of this instance runs.", ("name",))
PROCESS_RESTARTS = Definition(
    "serving_process_restarts_total", "How often a process was started again.", ("name",)
)

GATEWAY_FAMILIES: Final = (
    REQUESTS, REFUSALS, REQUEST_DURATION, QUEUE, BATCH_ROWS, RETRIES, DEADLINE_MISSES,
    EXECUTED_AFTER_DEADLINE, SHADOW_COPIES, SHADOW_DROPPED, SHADOW_COST, MODEL_ROWS, MODEL_SECONDS,
    TRAFFIC_WEIGHT, DIVERTED, QUEUED_ROWS, QUEUE_OLDEST, IN_FLIGHT_REQUESTS, CONNECTIONS,
    SNAPSHOT_EPOCH, LOG_RECORDS, OUTCOMES, LOG_COMMIT, LEDGER_REQUESTS, LEDGER_OPEN, LEDGER_UNSETTLED,
    LEDGER_UNDECLARED, SPILLED_BYTES, SPILLED_RECORDS, LOG_PENDING, TOKEN_CACHE_HITS, TOKEN_CACHE_MISSES,
    QUOTA_NODES, CACHE_HITS, CACHE_MISSES, CACHE_EVICTIONS, CACHE_BYTES,
    TOKEN_REFUSALS, REFUSALS_HELD, ACCESS_DENIALS, ACCESS_EPOCH, ISSUER_KEYS_AGE, ISSUER_KEY_FAILURES, SPANS,
    CERTIFICATE_EXPIRY, FAILED_HANDSHAKES,
)  # fmt: skip
LABEL_FAMILIES: Final = (OUTCOME_JOIN, OUTCOME_DELAY, OUTCOME_REPORTS)
EVIDENCE_FAMILIES: Final = (
    AUDIT_EVENTS, AUDIT_DAMAGED, AUDIT_CHECKPOINT_AGE,
    APPROVALS_OPEN, APPROVALS_ENDING, WEBHOOK_DELIVERIES,
)  # fmt: skip
ROLLOUT_FAMILIES: Final = (ROLLOUT_WEIGHT, ROLLOUT_STATE, ROLLOUT_ROLLBACKS, ROLLOUT_UNRECORDED)
SUPERVISOR_FAMILIES: Final = (PROCESS_UP, PROCESS_RESTARTS)


class VersionMetrics:
    """What a gateway counts about one model version in one role.

    generation: later for a version that left and came back: its counts began anew.
    requests: by `Fate`, which is the index: `metrics.requests[fate].value += 1`; 0 is unused.
    executions: of the version in all its roles. failed_us: how long requests took that failed. Both
    are for the statistics that clients ask for, and are not exported. shadow_dropped: by reason.
    """

    __slots__ = (
        "batch_rows",
        "deadline_misses",
        "duration",
        "executed_after_deadline",
        "executions",
        "failed_us",
        "generation",
        "model_rows",
        "model_seconds",
        "queue",
        "requests",
        "retries",
        "shadow_copies",
        "shadow_dropped",
    )

    def __init__(
        self,
        gateway: "GatewayMetrics",
        labels: Labels,
        executions: Executions,
        *,
        generation: int,
    ) -> None:
        self.generation = generation
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
        self.model_rows: Counter = gateway.model_rows.child(*labels)
        self.model_seconds: Counter = gateway.model_seconds.child(*labels)
        self.shadow_copies = Counter()
        self.shadow_dropped: Mapping[Reason, Counter] = {}
        if labels[-1] == "shadow":
            self.shadow_copies = gateway.shadow_copies.child(*labels[:2])
            self.shadow_dropped = {
                reason: gateway.shadow_dropped.child(*labels, reason) for reason in get_args(Reason)
            }


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
        self.shadow_copies = families.counter(SHADOW_COPIES)
        self.shadow_dropped = families.counter(SHADOW_DROPPED)
        self.model_rows = families.counter(MODEL_ROWS)
        self.model_seconds = families.counter(MODEL_SECONDS)
        self.diverted = families.counter(DIVERTED)
        self._versions: dict[Labels, VersionMetrics] = {}
        self._generation = 0

    def version(self, model: str, version: str, role: Role) -> VersionMetrics:
        """Always the same object for the same version and role; keep it beside its queue."""
        labels = (model, version, role)
        metrics = self._versions.get(labels)
        if metrics is None:
            known = self.of_version(model, version)
            executions = known[0].executions if known else Executions()
            self._generation += 1
            metrics = self._versions[labels] = VersionMetrics(
                self, labels, executions, generation=self._generation
            )
        return metrics

    def of_version(self, model: str, version: str) -> list[VersionMetrics]:
        """What there is of a version, one for each role in which it was asked anything."""
        return [v for labels, v in self._versions.items() if labels[:2] == (model, version)]

    def versions(self) -> Mapping[Labels, VersionMetrics]:
        """By model, version and role."""
        return self._versions

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
            self.shadow_copies,
            self.shadow_dropped,
            self.model_rows,
            self.model_seconds,
            self.diverted,
        ):
            counters.retain(keep)
        for histograms in (self.durations, self.queues, self.batch_rows):
            histograms.retain(keep)
