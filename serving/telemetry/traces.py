"""Distributed tracing of requests and batches (W3C Trace Context).

One trace per request: a server span with a `queue` span below it. One `batch` span per batch, in the
replica, with a link to the server span of every sampled request in it; the request's spans carry the
same `serving.batch.id`. A link and not a child, because a batch has as many parents as callers.

Sampling is decided once, when a request arrives, before any object exists for it: the caller's flag
decides where there is a context, else a ratio. A request that is not sampled and brings no context
costs one random number. Failures are always recorded, whatever was decided, up to
`MAX_FAILURES_PER_S`: in an outage every request fails, and tracing must not make that worse.

Spans hold no tensor values, subjects or credentials.
"""

import random
import re
from binascii import unhexlify
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from opentelemetry.trace import SpanKind

from serving.core.clock import Clock
from serving.engine_settings import TelemetrySettings
from serving.errors import ModelFailed
from serving.telemetry.spans import (
    MAX_LINKS,
    Span,
    SpanExport,
    SpanStatistics,
    random_span_id,
    random_trace_id,
)

MAX_FAILURES_PER_S: Final = 100
MAX_TRACE_STATE_BYTES: Final = 512
MAX_TRACE_STATE_MEMBERS: Final = 32
SAMPLED_FLAG: Final = 1
SERVER_FAULT: Final = 500
"""A caller's fault leaves the status of a server span unset (semantic conventions, HTTP)."""
VERSION_0_LENGTH: Final = 55

_TRACEPARENT: Final = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
_TRACESTATE: Final = re.compile(rb"[\x20-\x7e\t]*")


@dataclass(slots=True)
class TraceContext:
    """Where a request stands in its trace. Not frozen, which would make it twice as slow to make.

    trace_id: 16 bytes. span_id: 8 bytes, of our own span; empty when not sampled. parent_span_id:
    8 bytes, the caller's span; empty when the trace begins here. trace_state: as received.
    """

    trace_id: bytes
    parent_span_id: bytes
    span_id: bytes
    sampled: bool
    trace_state: str = ""


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What a finished request tells its spans. Times are monotonic nanoseconds of our clock.

    queued_ns, sent_ns: when it entered the queue and when its frame left; 0 when it never did.
    error: the code of the failure, empty when there was none. batch_*: of its first row.
    """

    route: str
    status: int
    arrived_ns: int
    finished_ns: int
    method: str = "POST"
    error: str = ""
    model: str = ""
    version: str = ""
    role: Literal["primary", "shadow", "chosen"] = "primary"
    fate: str = ""
    queued_ns: int = 0
    sent_ns: int = 0
    batch_id: int = 0
    batch_size: int = 0
    batch_position: int = 0


class RequestTracing:
    """The traces of one gateway worker. For the event loop's thread only."""

    def __init__(self, settings: TelemetrySettings, clock: Clock, *, service_name: str) -> None:
        endpoint = settings.otlp_endpoint
        self._export = SpanExport(endpoint, service_name=service_name) if endpoint else None
        # Without a collector nothing is sampled, but a caller's trace id is still passed on.
        self._ratio = settings.sampling_ratio if endpoint else 0.0
        self._clock = clock
        self._failures = 0
        self._failures_second = 0
        self._skipped = 0

    def start(self) -> None:
        if self._export is not None:
            self._export.start()

    def close(self) -> None:
        """Sends what is queued, for two seconds at most."""
        if self._export is not None:
            self._export.close()

    def begin(
        self, traceparent: bytes | None, tracestate: bytes | None = None
    ) -> TraceContext | None:
        """The context of an arriving request; None when it has none and is not sampled.

        A malformed `traceparent` counts as absent. Values are those of the headers.
        """
        match = None if traceparent is None else _TRACEPARENT.fullmatch(traceparent)
        if match is None or not _length_fits(match):
            if random.random() >= self._ratio:  # noqa: S311 - sampling is no secret
                return None
            return TraceContext(random_trace_id(), b"", random_span_id(), sampled=True)
        trace_id, parent_id, flags = match.group(2, 3, 4)
        sampled = self._export is not None and int(flags, 16) & SAMPLED_FLAG != 0
        return TraceContext(
            unhexlify(trace_id),
            unhexlify(parent_id),
            random_span_id() if sampled else b"",
            sampled,
            "" if tracestate is None else _trace_state(tracestate),
        )

    def finish(self, context: TraceContext, facts: RequestFacts) -> None:
        """Makes the spans of a sampled request; without effect on any other."""
        if self._export is None or not context.sampled:
            return
        wall_ns = self._clock.wall_ns() - self._clock.monotonic_ns()
        self._export.send(
            Span(
                name=f"{facts.method} {facts.route}",
                trace_id=context.trace_id,
                span_id=context.span_id,
                parent_id=context.parent_span_id,
                trace_state=context.trace_state,
                start_ns=facts.arrived_ns + wall_ns,
                end_ns=facts.finished_ns + wall_ns,
                kind=SpanKind.SERVER,
                failed=facts.status >= SERVER_FAULT,
                attributes=_request_attributes(facts),
            )
        )
        if facts.queued_ns:
            self._export.send(_queue_span(context, facts, wall_ns))

    def record_error(
        self, context: TraceContext | None, facts: RequestFacts
    ) -> TraceContext | None:
        """Makes the spans of a failed request, sampled or not; returns the context they got.

        None when it was not recorded: no collector, or too many failures in this second.
        """
        if context is not None and context.sampled:
            self.finish(context, facts)
            return context
        if self._export is None or not self._failure_fits():
            return None
        sampled = TraceContext(
            trace_id=context.trace_id if context else random_trace_id(),
            parent_span_id=context.parent_span_id if context else b"",
            span_id=random_span_id(),
            sampled=True,
            trace_state=context.trace_state if context else "",
        )
        self.finish(sampled, facts)
        return sampled

    def statistics(self) -> SpanStatistics:
        if self._export is None:
            return SpanStatistics(0, 0, 0)
        counted = self._export.statistics()
        return SpanStatistics(counted.exported, counted.failed, counted.dropped + self._skipped)

    def _failure_fits(self) -> bool:
        second = self._clock.monotonic_ns() // 1_000_000_000
        if second != self._failures_second:
            self._failures_second, self._failures = second, 0
        if self._failures >= MAX_FAILURES_PER_S or (self._export is not None and self._export.full):
            self._skipped += 1
            return False
        self._failures += 1
        return True


class BatchTracing:
    """The batch spans of one replica. For the thread that runs the batches only."""

    def __init__(
        self, settings: TelemetrySettings, *, service_name: str, model: str, version: str
    ) -> None:
        endpoint = settings.otlp_endpoint
        self._export = SpanExport(endpoint, service_name=service_name) if endpoint else None
        self._model = model
        self._version = version

    def start(self) -> None:
        if self._export is not None:
            self._export.start()

    def close(self) -> None:
        """Sends what is queued, for two seconds at most."""
        if self._export is not None:
            self._export.close()

    def record(
        self,
        *,
        batch_id: int,
        rows: int,
        start_ns: int,
        end_ns: int,
        links: Sequence[tuple[bytes, bytes]],
        failed: bool,
    ) -> None:
        """Makes the one span of a batch, with a link to each of its sampled requests.

        No span for a batch that went well and holds no sampled request. start_ns, end_ns: wall
        time. links: (trace id, span id); those beyond `MAX_LINKS` are left out and counted in
        `serving.batch.links_dropped`.
        """
        if self._export is None or not (links or failed):
            return
        attributes: dict[str, str | int | float] = {
            "serving.batch.id": _batch_name(batch_id),
            "serving.batch.size": rows,
            "serving.model.name": self._model,
            "serving.model.version": self._version,
        }
        if failed:
            attributes["error.type"] = ModelFailed.code
        if len(links) > MAX_LINKS:
            attributes["serving.batch.links_dropped"] = len(links) - MAX_LINKS
        self._export.send(
            Span(
                name="batch",
                trace_id=random_trace_id(),
                span_id=random_span_id(),
                start_ns=start_ns,
                end_ns=end_ns,
                failed=failed,
                attributes=attributes,
                links=links[:MAX_LINKS],
            )
        )

    def statistics(self) -> SpanStatistics:
        return SpanStatistics(0, 0, 0) if self._export is None else self._export.statistics()


def _batch_name(batch_id: int) -> str:
    return f"{batch_id:016x}"


def _length_fits(match: re.Match[bytes]) -> bool:
    """Version 00 ends after the flags; a later one may go on after another dash."""
    return match[1] != b"00" or len(match.string) == VERSION_0_LENGTH


def _trace_state(value: bytes) -> str:
    if len(value) > MAX_TRACE_STATE_BYTES or not _TRACESTATE.fullmatch(value):
        return ""
    return value.decode("ascii") if value.count(b",") < MAX_TRACE_STATE_MEMBERS else ""


def _request_attributes(facts: RequestFacts) -> dict[str, str | int | float]:
    attributes: dict[str, str | int | float] = {
        "http.request.method": facts.method,
        "http.route": facts.route,
        "http.response.status_code": facts.status,
        "serving.model.role": facts.role,
    }
    named = {
        "serving.model.name": facts.model,
        "serving.model.version": facts.version,
        "serving.fate": facts.fate,
        "error.type": facts.error,
    }
    attributes.update({name: value for name, value in named.items() if value})
    attributes.update(_batch_attributes(facts))
    return attributes


def _batch_attributes(facts: RequestFacts) -> dict[str, str | int | float]:
    attributes: dict[str, str | int | float] = {}
    if facts.batch_size:
        attributes["serving.batch.id"] = _batch_name(facts.batch_id)
        attributes["serving.batch.size"] = facts.batch_size
        attributes["serving.batch.position"] = facts.batch_position
    if facts.queued_ns and facts.sent_ns:
        attributes["serving.queue.wait"] = (facts.sent_ns - facts.queued_ns) / 1e9
    return attributes


def _queue_span(context: TraceContext, facts: RequestFacts, wall_ns: int) -> Span:
    return Span(
        name="queue",
        trace_id=context.trace_id,
        span_id=random_span_id(),
        parent_id=context.span_id,
        trace_state=context.trace_state,
        start_ns=facts.queued_ns + wall_ns,
        end_ns=(facts.sent_ns or facts.finished_ns) + wall_ns,
        attributes=_batch_attributes(facts),
    )
