"""Finished spans on their way to an OTLP collector.

Our spans are made after the fact: identifiers, start and end are known before a span object exists,
so unsampled work costs nothing and sampled work costs its caller one object per span. The
OpenTelemetry SDK makes, batches and sends them; `SpanExport` hands it the identifiers.

A collector can be refused, silent or slow: spans wait in a bounded queue, are sent by a thread of
the SDK, and are dropped and counted when the queue is full. Closing waits `CLOSE_TIMEOUT_S` at
most and leaves the rest behind. Nothing is retried beyond `SEND_TIMEOUT_S`: a trace is worth less
than the memory of a backlog.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
    set_span_in_context,
)

MAX_QUEUED_SPANS: Final = 2048
MAX_SENT_SPANS: Final = 512
SEND_EVERY_MS: Final = 1000
SEND_TIMEOUT_S: Final = 5.0
CLOSE_TIMEOUT_S: Final = 2.0
MAX_LINKS: Final = 128
MAX_ATTRIBUTE_LENGTH: Final = 256
SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)

Attributes = Mapping[str, str | int | float | bool]

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Span:
    """One finished span. Times are wall nanoseconds; identifiers are 16 and 8 bytes.

    parent_id: 8 bytes, or empty for the root of its trace. failed: the fault was ours.
    """

    name: str
    trace_id: bytes
    span_id: bytes
    start_ns: int
    end_ns: int
    parent_id: bytes = b""
    trace_state: str = ""
    kind: SpanKind = SpanKind.INTERNAL
    failed: bool = False
    attributes: Attributes = field(default_factory=dict)
    links: Sequence[tuple[bytes, bytes]] = ()


@dataclass(frozen=True, slots=True)
class SpanStatistics:
    """Since the start. dropped: the queue was full, or the budget for failures was used up."""

    exported: int
    failed: int
    dropped: int


class SpanExport:
    """The way to one collector. Spans may be sent from one thread only."""

    def __init__(self, endpoint: str, *, service_name: str) -> None:
        """endpoint: base URL of an OTLP/HTTP collector. Nothing runs before `start`."""
        self._url = f"{endpoint.rstrip('/')}/v1/traces"
        self._service_name = service_name
        self._ids = _GivenIds()
        self._sender: _CountingExporter | None = None
        self._queue: _BoundedQueue | None = None
        self._provider: TracerProvider | None = None
        self._tracer: Tracer | None = None

    def start(self) -> None:
        """Starts the sending thread. Call it in the process that sends: threads do not fork."""
        self._sender = _CountingExporter(OTLPSpanExporter(self._url, timeout=SEND_TIMEOUT_S))
        self._queue = _BoundedQueue(self._sender)
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # Whoever calls us has sampled already.
            resource=Resource.create({"service.name": self._service_name}),
            shutdown_on_exit=False,
            id_generator=self._ids,
            span_limits=SpanLimits(max_links=MAX_LINKS, max_attribute_length=MAX_ATTRIBUTE_LENGTH),
        )
        self._provider.add_span_processor(self._queue)
        self._tracer = self._provider.get_tracer("serving")

    def close(self) -> None:
        """Sends what is queued, for `CLOSE_TIMEOUT_S` at most. Safe to call twice."""
        provider, self._provider, self._tracer = self._provider, None, None
        if provider is not None and self._sender is not None:
            # The SDK's own shutdown waits for 30 s; a daemon thread may go on with it.
            closing = threading.Thread(target=provider.shutdown, name="span-close", daemon=True)
            closing.start()
            closing.join(CLOSE_TIMEOUT_S)
            self._sender.shutdown()  # Ends a retry in progress; what is left fails at once.

    @property
    def full(self) -> bool:
        """Whether the next span would be dropped."""
        return self._queue is None or self._queue.full

    def send(self, span: Span) -> None:
        """Queues a span; never waits. Without effect before `start` and after `close`.

        With a full queue the span is counted as dropped and never made.
        """
        if self._tracer is None or self._queue is None:
            return
        if self._queue.full:
            self._queue.dropped += 1
            return
        self._ids.trace_id = int.from_bytes(span.trace_id)
        self._ids.span_id = int.from_bytes(span.span_id)
        made = self._tracer.start_span(
            span.name,
            context=_parent_context(span),
            kind=span.kind,
            attributes=span.attributes,
            links=[Link(_remote_context(*link)) for link in span.links],
            start_time=span.start_ns,
        )
        if span.failed:
            made.set_status(StatusCode.ERROR)
        made.end(span.end_ns)

    def statistics(self) -> SpanStatistics:
        return SpanStatistics(0, 0, 0) if self._queue is None else self._queue.statistics()


class _GivenIds(IdGenerator):
    """Hands out the identifiers of the span that is being made."""

    def __init__(self) -> None:
        self.trace_id = 0
        self.span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class _CountingExporter(SpanExporter):
    """Counts what became of spans, and says once when a collector goes and comes."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._reachable = True
        self._closed = False
        self.taken = 0
        self.exported = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += len(spans)
        if self._closed:
            return SpanExportResult.FAILURE
        result = self._exporter.export(spans)
        reached = result is SpanExportResult.SUCCESS
        if reached:
            self.exported += len(spans)
        if reached is not self._reachable and not self._closed:
            self._reachable = reached
            log = logger.info if reached else logger.warning
            log("collector reachable" if reached else "collector unreachable")
        return result

    def shutdown(self) -> None:
        if not self._closed:
            self._closed = True
            self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _BoundedQueue(BatchSpanProcessor):
    """The SDK's queue, which knows how full it is, so that drops are counted and cost nothing."""

    def __init__(self, sender: _CountingExporter) -> None:
        super().__init__(
            sender,
            max_queue_size=MAX_QUEUED_SPANS,
            schedule_delay_millis=SEND_EVERY_MS,
            max_export_batch_size=MAX_SENT_SPANS,
        )
        self._sender = sender
        self._accepted = 0
        self.dropped = 0

    @property
    def full(self) -> bool:
        return self._accepted - self._sender.taken >= MAX_QUEUED_SPANS

    def on_end(self, span: ReadableSpan) -> None:
        self._accepted += 1
        super().on_end(span)

    def statistics(self) -> SpanStatistics:
        exported = self._sender.exported
        return SpanStatistics(exported, self._sender.taken - exported, self.dropped)


def random_span_id() -> bytes:
    return _random.generate_span_id().to_bytes(8)


def random_trace_id() -> bytes:
    return _random.generate_trace_id().to_bytes(16)


_random = RandomIdGenerator()


def _parent_context(span: Span) -> Context:
    if not span.parent_id:
        return Context()  # Not the current one: a root has no parent.
    parent = _remote_context(span.trace_id, span.parent_id, span.trace_state)
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _remote_context(trace_id: bytes, span_id: bytes, trace_state: str = "") -> SpanContext:
    return SpanContext(
        trace_id=int.from_bytes(trace_id),
        span_id=int.from_bytes(span_id),
        is_remote=True,
        trace_flags=SAMPLED,
        trace_state=TraceState.from_header([trace_state]) if trace_state else None,
    )
