"""What the request path tells metrics and traces: per frame where it can be, off the reply path."""

from collections.abc import Callable, Sequence
from typing import Final, get_args

from serving.core.batches import BatchAnswer, RowFailure
from serving.core.predictions import Fate
from serving.errors import DeadlineExceeded, ServingError
from serving.gateway.batching import VersionQueue
from serving.gateway.calls import NO_TRACE, Call
from serving.predictionlog.format import Flag
from serving.telemetry.families import GatewayMetrics, Reason, Role, VersionMetrics
from serving.telemetry.traces import RequestFacts, RequestTracing

ROUTE: Final = "/v2/models/{model}/infer"
_OK: Final = 200
_CHOSEN: Final = int(Flag.CHOSEN)
_CACHED: Final = int(Flag.CACHED)
ROLES: Final[tuple[Role, ...]] = get_args(Role)


class CallTelemetry:
    """Counts fates and times, and makes the spans of sampled and failed calls."""

    def __init__(
        self,
        metrics: GatewayMetrics,
        tracing: RequestTracing,
        *,
        status_of: Callable[[ServingError], int],
        now_s: Callable[[], float],
    ) -> None:
        """status_of: the wire's status for a failure. now_s: wall time, for exemplars."""
        self._metrics = metrics
        self._tracing = tracing
        self._status_of = status_of
        self._now_s = now_s

    def begin(self, call: Call, traceparent: bytes | None) -> None:
        """Decides once whether the call is traced."""
        trace = self._tracing.begin(traceparent)
        if trace is not None:
            call.trace = trace
            call.trace_id = trace.trace_id

    def served(self, calls: Sequence[Call], finished_ns: int) -> None:
        """The calls of one frame were answered, or recorded if they were copies."""
        queue = calls[0].queue
        if not queue.kinds and (not queue.takes_copies or all(call.shadow_of for call in calls)):
            self._served(calls, finished_ns)
            return
        groups: dict[Role, list[Call]] = {}
        for call in calls:
            groups.setdefault(_role(call), []).append(call)
        for number, role in enumerate(sorted(groups, key=ROLES.index)):
            self._served(groups[role], finished_ns, ran=number == 0)

    def failed(self, call: Call, fate: Fate, error: ServingError | None) -> None:
        """The call ended without an answer; `error` is None when nobody is left to hear it."""
        metrics = self._of(call)
        metrics.requests[fate].value += 1
        metrics.failed_us += call.total_us
        if fate is Fate.TIMEOUT and isinstance(error, DeadlineExceeded):
            metrics.deadline_misses.value += 1
        if error is not None and call.exchange is not None and not call.is_part:
            facts = self._facts(call, fate, call.arrived_ns + call.total_us * 1000, error)
            self._tracing.record_error(call.trace, facts)

    def unrecorded(self, calls: Sequence[Call], error: ServingError) -> None:
        """The calls had an answer that could not be recorded, and so were refused."""
        for call in calls:
            if call.exchange is not None:
                self._metrics.refused(error.code)

    def retried(self, call: Call) -> None:
        self._of(call).retries.value += 1

    def executed_late(self, calls: Sequence[Call], answer: BatchAnswer) -> None:
        """Looks at calls that had ended before their frame was answered: were they run for nothing?

        The start of a run is when the frame was sent plus the wait that the replica reports.
        """
        for call in calls:
            started_ns = call.arrived_ns + call.queue_us * 1000
            expired = answer.failures.get(call.first_row) is RowFailure.EXPIRED
            if started_ns > call.deadline_ns and not expired:
                self._of(call).executed_after_deadline.value += call.rows

    def dropped(self, queue: VersionQueue, reason: Reason) -> None:
        """A copy for a candidate was not made."""
        version = queue.version
        metrics = self._metrics.version(version.model, version.version, "shadow")
        metrics.shadow_dropped[reason].value += 1

    def mirrored(self, queue: VersionQueue, copies: int) -> None:
        """Copies for a candidate are on their way."""
        version = queue.version
        metrics = self._metrics.version(version.model, version.version, "shadow")
        metrics.shadow_copies.value += copies

    def diverted(self, queue: VersionQueue) -> None:
        """An arm could not take a request, and the stable version got it."""
        self._metrics.diverted.child(queue.version.model, queue.version.version).value += 1

    def _served(self, calls: Sequence[Call], finished_ns: int, *, ran: bool = True) -> None:
        """ran: whether the frame's run is still to be counted for the version."""
        first = calls[0]
        metrics = self._of(first)
        metrics.requests[Fate.OK].value += len(calls)
        metrics.duration.observe_many([(finished_ns - call.arrived_ns) / 1e9 for call in calls])
        if not first.kind & _CACHED:
            _count_run(metrics, calls, finished_ns, ran=ran)
        for call in calls:
            if call.trace_id is not NO_TRACE:
                self._trace(call, finished_ns)

    def _of(self, call: Call) -> VersionMetrics:
        version = call.queue.version
        return self._metrics.version(version.model, version.version, _role(call))

    def _trace(self, call: Call, finished_ns: int) -> None:
        trace = call.trace
        if trace is None or not trace.sampled:
            return
        self._of(call).duration.exemplify(
            (finished_ns - call.arrived_ns) / 1e9, trace_id=trace.trace_id, now_s=self._now_s()
        )
        self._tracing.finish(trace, self._facts(call, Fate.OK, finished_ns, None))

    def _facts(
        self, call: Call, fate: Fate, finished_ns: int, error: ServingError | None
    ) -> RequestFacts:
        version = call.queue.version
        return RequestFacts(
            route=ROUTE,
            status=_OK if error is None else self._status_of(error),
            arrived_ns=call.arrived_ns,
            finished_ns=finished_ns,
            error="" if error is None else error.code,
            model=version.model,
            version=version.version,
            role=_role(call),
            fate=fate.name.lower(),
            queued_ns=call.arrived_ns,
            sent_ns=0 if call.frame is None else call.arrived_ns + call.queue_us * 1000,
            batch_id=call.batch_id,
            batch_size=call.batch_size,
            batch_position=call.batch_position,
        )


def _role(call: Call) -> Role:
    """A part of an ensemble was chosen by that, not routed."""
    if call.is_part or call.kind & _CHOSEN:
        return "chosen"
    return "shadow" if call.shadow_of else "primary"


def _count_run(
    metrics: VersionMetrics, calls: Sequence[Call], finished_ns: int, *, ran: bool
) -> None:
    """What the calls waited, and what running them took; nothing of that is true of cached ones."""
    first = calls[0]
    frame = first.frame
    metrics.queue.observe_many([call.queue_us / 1e6 for call in calls])
    whole = frame is not None and len(calls) == len(frame.calls)
    rows = frame.batch.rows if frame and whole else sum(call.rows for call in calls)
    metrics.model_rows.value += rows
    if first.batch_id != calls[-1].batch_id:
        metrics.model_seconds.value += sum(call.model_us for call in calls) / 1e6
    elif first.batch_size:
        metrics.model_seconds.value += first.run_us * rows / first.batch_size / 1e6
    if frame is not None:
        metrics.batch_rows.observe(frame.batch.rows)
        if ran and frame.answer is not None:
            metrics.executions.add(frame.answer.parts, finished_ns)
