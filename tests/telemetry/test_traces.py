"""Traces: decided once, made after the fact, linked through the batch, never in the way."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from loadtests.ports import free_port
from serving.core.clock import ManualClock, SystemClock
from serving.engine_settings import TelemetrySettings
from serving.telemetry.traces import (
    MAX_FAILURES_PER_S,
    BatchTracing,
    RequestFacts,
    RequestTracing,
    TraceContext,
)
from tests.telemetry.conftest import Collector

ROUTE = "/v2/models/{model}/infer"
TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = TRACEPARENT[:-1] + b"0"


def request_tracing(
    endpoint: str | None, *, ratio: float = 0.0, clock: ManualClock | None = None
) -> RequestTracing:
    settings = TelemetrySettings(otlp_endpoint=endpoint, sampling_ratio=ratio)
    return RequestTracing(settings, clock or SystemClock(), service_name="gateway")


def batch_tracing(endpoint: str | None) -> BatchTracing:
    settings = TelemetrySettings(otlp_endpoint=endpoint)
    return BatchTracing(settings, service_name="replica", model="m", version="1")


def facts(position: int = 0, *, status: int = 200, error: str = "") -> RequestFacts:
    return RequestFacts(
        route=ROUTE,
        status=status,
        error=error,
        arrived_ns=1_000,
        queued_ns=2_000,
        sent_ns=5_000,
        finished_ns=9_000,
        model="m",
        version="1",
        fate="model_error" if error else "ok",
        batch_id=77,
        batch_size=8,
        batch_position=position,
    )


def attributes(span: Span) -> dict[str, str | int | float]:
    found: dict[str, str | int | float] = {}
    for each in span.attributes:
        kind = each.value.WhichOneof("value")
        assert kind is not None
        found[each.key] = getattr(each.value, kind)
    return found


def named(spans: list[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name == name]


@pytest.fixture
def blackhole() -> Iterator[str]:
    """An address that accepts connections into its backlog and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


# -- the decision ----------------------------------------------------------------------------------


def test_a_callers_context_is_honoured() -> None:
    """Trace id, parent and the sampled flag come from the header; our span has an id of its own."""
    tracing = request_tracing("http://127.0.0.1:9")

    context = tracing.begin(TRACEPARENT, b"vendor=value")

    assert context is not None
    assert context.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert context.parent_span_id.hex() == "b7ad6b7169203331"
    assert (context.sampled, context.trace_state) == (True, "vendor=value")
    assert len(context.span_id) == 8
    assert context.span_id != context.parent_span_id


def test_the_callers_refusal_to_sample_is_honoured() -> None:
    """An unsampled context is passed on unsampled, whatever our ratio says."""
    context = request_tracing("http://127.0.0.1:9", ratio=1.0).begin(UNSAMPLED)

    assert context is not None
    assert not context.sampled


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00",
        TRACEPARENT + b"-x",
        TRACEPARENT[:-1],
        TRACEPARENT.upper(),
        b"ff" + TRACEPARENT[2:],
        b"00-" + b"0" * 32 + TRACEPARENT[35:],
        TRACEPARENT[:36] + b"0" * 16 + b"-01",
        TRACEPARENT.replace(b"-", b"_"),
        TRACEPARENT + b"\n",
        b" " + TRACEPARENT,
        b"0g" + TRACEPARENT[2:],
        b"\xff" * 55,
        b"a" * 100_000,
    ],
    ids=lambda value: repr(value[:60]),
)
def test_ob_07_a_malformed_context_counts_as_absent(value: bytes) -> None:
    """Then our own ratio decides, and the trace begins here."""
    never, always = (request_tracing("http://127.0.0.1:9", ratio=ratio) for ratio in (0.0, 1.0))

    assert never.begin(value) is None
    context = always.begin(value)
    assert context is not None
    assert (context.sampled, context.parent_span_id) == (True, b"")


def test_a_later_version_of_the_header_is_understood() -> None:
    """What comes after the flags of a later version is ignored, as the standard demands."""
    context = request_tracing(None).begin(b"cc" + TRACEPARENT[2:] + b"-more")

    assert context is not None
    assert context.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    "value", [b",".join(b"k%d=v" % n for n in range(100)), b"k=" + b"v" * 600, b"k=\xff"], ids=len
)
def test_ob_07_an_unreasonable_tracestate_is_dropped(value: bytes) -> None:
    """The context itself is kept."""
    context = request_tracing("http://127.0.0.1:9").begin(TRACEPARENT, value)

    assert context is not None
    assert context.trace_state == ""


@pytest.mark.parametrize(
    ("ratio", "low", "high"), [(0.0, 0, 0), (0.5, 400, 600), (1.0, 1000, 1000)]
)
def test_the_ratio_decides_without_a_context(ratio: float, low: int, high: int) -> None:
    """Of a thousand requests about the configured share is sampled, each in a trace of its own."""
    tracing = request_tracing("http://127.0.0.1:9", ratio=ratio)

    contexts = [context for context in (tracing.begin(None) for _ in range(1000)) if context]

    assert low <= len(contexts) <= high
    assert len({context.trace_id for context in contexts}) == len(contexts)


def test_without_a_collector_nothing_is_sampled() -> None:
    """The caller's trace id is still known, for the log; no span is made and nothing starts."""
    tracing = request_tracing(None, ratio=1.0)
    threads = threading.active_count()
    tracing.start()

    assert tracing.begin(None) is None
    context = tracing.begin(TRACEPARENT)
    assert context is not None
    assert not context.sampled
    assert tracing.record_error(context, facts(error="model_error")) is None
    assert threading.active_count() == threads
    tracing.close()


# -- the spans -------------------------------------------------------------------------------------


async def test_n1_eight_requests_meet_in_one_batch_span(collector: Collector) -> None:
    """8 requests with 8 contexts: one batch span with 8 links, each to a trace's own server span."""
    requests, batches = request_tracing(collector.endpoint), batch_tracing(collector.endpoint)
    requests.start()
    batches.start()
    headers = [b"00-%032x-%016x-01" % (n, n + 100) for n in range(1, 9)]

    contexts = [context for context in map(requests.begin, headers) if context]
    links = [(context.trace_id, context.span_id) for context in contexts]
    batches.record(batch_id=77, rows=8, start_ns=1, end_ns=2, links=links, failed=False)
    for position, context in enumerate(contexts):
        requests.finish(context, facts(position))
    await asyncio.to_thread(batches.close)
    await asyncio.to_thread(requests.close)
    spans = await collector.await_spans(lambda spans: len(spans) >= 17)

    (batch,) = named(spans, "batch")
    servers, queues = named(spans, f"POST {ROUTE}"), named(spans, "queue")
    assert len(spans) == 17
    assert {(link.trace_id, link.span_id) for link in batch.links} == {
        (span.trace_id, span.span_id) for span in servers
    }
    assert len(batch.links) == 8
    assert {span.trace_id for span in servers} == {n.to_bytes(16) for n in range(1, 9)}
    assert {span.parent_span_id for span in servers} == {(n + 100).to_bytes(8) for n in range(1, 9)}
    assert {span.parent_span_id for span in queues} == {span.span_id for span in servers}
    assert {attributes(span)["serving.batch.id"] for span in spans} == {f"{77:016x}"}
    assert sorted(attributes(span)["serving.batch.position"] for span in queues) == list(range(8))


async def test_a_span_tells_what_the_conventions_ask(collector: Collector) -> None:
    """Names, times and attributes of the server and queue spans; nothing that came from a tensor."""
    clock = ManualClock()
    tracing = request_tracing(collector.endpoint, clock=clock)
    tracing.start()
    context = tracing.begin(TRACEPARENT, b"vendor=value")
    assert context is not None

    tracing.finish(context, facts(3))
    await asyncio.to_thread(tracing.close)
    spans = await collector.await_spans(lambda spans: len(spans) == 2)

    (server,), (queue,) = named(spans, f"POST {ROUTE}"), named(spans, "queue")
    batch = {
        "serving.batch.id": f"{77:016x}",
        "serving.batch.size": 8,
        "serving.batch.position": 3,
        "serving.queue.wait": pytest.approx(3e-6),
    }
    assert attributes(server) == batch | {
        "http.request.method": "POST",
        "http.route": ROUTE,
        "http.response.status_code": 200,
        "serving.model.name": "m",
        "serving.model.version": "1",
        "serving.model.role": "primary",
        "serving.fate": "ok",
    }
    assert attributes(queue) == batch
    began_ns = clock.wall_ns()
    assert server.start_time_unix_nano == began_ns + 1_000
    assert server.end_time_unix_nano == began_ns + 9_000
    assert queue.start_time_unix_nano == began_ns + 2_000
    assert queue.end_time_unix_nano == began_ns + 5_000
    assert server.kind == Span.SPAN_KIND_SERVER
    assert server.trace_state == "vendor=value"
    assert server.status.code == Status.STATUS_CODE_UNSET


@pytest.mark.parametrize("header", [None, UNSAMPLED, TRACEPARENT])
async def test_a_failure_is_always_recorded(collector: Collector, header: bytes | None) -> None:
    """Sampled or not, with a context or without, a failed request leaves its spans."""
    tracing = request_tracing(collector.endpoint)
    tracing.start()

    context = tracing.record_error(tracing.begin(header), facts(status=500, error="model_error"))
    await asyncio.to_thread(tracing.close)
    spans = await collector.await_spans(lambda spans: len(spans) == 2)

    (server,) = named(spans, f"POST {ROUTE}")
    assert context is not None
    assert (server.trace_id, server.span_id) == (context.trace_id, context.span_id)
    assert attributes(server)["error.type"] == "model_error"
    assert server.status.code == Status.STATUS_CODE_ERROR


async def test_a_callers_fault_is_no_fault_of_the_span(collector: Collector) -> None:
    """A 4xx names its error type and leaves the status unset."""
    tracing = request_tracing(collector.endpoint)
    tracing.start()
    tracing.record_error(None, RequestFacts(ROUTE, 400, 1, 2, error="invalid_json"))
    await asyncio.to_thread(tracing.close)

    (server,) = await collector.await_spans(lambda spans: len(spans) == 1)

    assert attributes(server)["error.type"] == "invalid_json"
    assert server.status.code == Status.STATUS_CODE_UNSET
    assert server.parent_span_id == b""


async def test_links_are_capped_and_the_rest_counted(collector: Collector) -> None:
    """Of 200 sampled requests 128 are linked and 72 counted; a failed batch says so."""
    tracing = batch_tracing(collector.endpoint)
    tracing.start()
    links = [(n.to_bytes(16), n.to_bytes(8)) for n in range(1, 201)]
    tracing.record(batch_id=1, rows=200, start_ns=5, end_ns=9, links=links, failed=True)
    await asyncio.to_thread(tracing.close)

    (batch,) = await collector.await_spans(lambda spans: len(spans) == 1)

    assert len(batch.links) == 128
    assert batch.dropped_links_count == 0
    assert attributes(batch)["serving.batch.links_dropped"] == 72
    assert attributes(batch)["error.type"] == "model_error"
    assert (batch.start_time_unix_nano, batch.end_time_unix_nano) == (5, 9)


async def test_a_batch_without_sampled_requests_leaves_no_span(collector: Collector) -> None:
    """Only the second of two batches, which holds a sampled request, is seen."""
    tracing = batch_tracing(collector.endpoint)
    tracing.start()
    tracing.record(batch_id=1, rows=1, start_ns=1, end_ns=2, links=[], failed=False)
    tracing.record(
        batch_id=2, rows=1, start_ns=1, end_ns=2, links=[(b"a" * 16, b"b" * 8)], failed=False
    )
    await asyncio.to_thread(tracing.close)

    (batch,) = await collector.await_spans(lambda spans: len(spans) == 1)

    assert attributes(batch)["serving.batch.id"] == f"{2:016x}"


# -- a collector that is gone ----------------------------------------------------------------------


def test_ob_01_a_refused_collector_costs_nothing() -> None:
    """Spans for a closed port are counted as failed; sending and closing stay quick."""
    tracing = request_tracing(f"http://127.0.0.1:{free_port()}")
    usual_s, closed_s = flood(tracing, requests=100)

    assert usual_s < 0.1
    assert closed_s < 2.5


def test_ob_02_ob_03_a_silent_collector_drops_and_never_blocks(blackhole: str) -> None:
    """With 3,000 requests for a collector that never answers, what exceeds the queue is dropped."""
    tracing = request_tracing(blackhole)
    usual_s, closed_s = flood(tracing, requests=3000)

    assert usual_s < 0.1
    assert closed_s < 2.5
    # One full queue, and what the sending thread took out of it before it was stuck.
    assert tracing.statistics().dropped >= 2 * 3000 - 2048 - 2 * 512


def flood(tracing: RequestTracing, *, requests: int) -> tuple[float, float]:
    """Seconds that 95 of 100 sampled requests, and closing, took; the machine may stop any request, but
    a collector would stop all of them once its queue is full."""
    tracing.start()
    took_s = []
    for _ in range(requests):
        began_s = time.perf_counter()
        context = tracing.begin(TRACEPARENT)
        assert context is not None
        tracing.finish(context, facts())
        took_s.append(time.perf_counter() - began_s)
    began_s = time.perf_counter()
    tracing.close()
    return sorted(took_s)[requests * 95 // 100], time.perf_counter() - began_s


def test_a_storm_of_failures_is_traced_in_part(blackhole: str) -> None:
    """Each second has room for a bounded number of failures; the others are counted as dropped."""
    clock = ManualClock()
    tracing = request_tracing(blackhole, clock=clock)
    tracing.start()

    def storm() -> int:
        failures = (tracing.record_error(None, facts(error="overloaded")) for _ in range(150))
        return len([context for context in failures if context])

    recorded = [storm(), storm()]
    clock.advance(1)
    recorded.append(storm())
    tracing.close()

    assert recorded == [MAX_FAILURES_PER_S, 0, MAX_FAILURES_PER_S]
    assert tracing.statistics().dropped == 250


def test_nothing_is_sent_after_closing(blackhole: str) -> None:
    """Closing twice and finishing late are harmless."""
    tracing = request_tracing(blackhole)
    tracing.start()
    tracing.close()
    tracing.close()

    tracing.finish(TraceContext(b"a" * 16, b"", b"b" * 8, sampled=True), facts())

    assert tracing.statistics().exported == 0
