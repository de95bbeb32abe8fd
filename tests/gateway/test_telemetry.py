from pathlib import Path

from serving.core.batches import RowFailure
from tests.gateway.stand import MemoryLink, Stand, a_stand, counted

TRACE = "0af7651916cd43dd8448eb211c80319c"


def serve(stand: Stand, *values: float, link: MemoryLink | None = None) -> None:
    link = link or stand.connect(MemoryLink())
    stand.send(*[stand.client(value) for value in values])
    stand.clock.advance(0.002)
    link.answer()


def test_answered_requests_are_counted_and_timed(stand: Stand) -> None:
    """Fate, duration, wait and the frame's rows, under model, version and role."""
    serve(stand, 1, 2, 3)
    labels = ('model="doubler"', 'version="1"', 'role="primary"')

    assert counted(stand, "serving_requests_total", *labels, 'fate="ok"') == 3
    assert counted(stand, "serving_request_duration_seconds_count", *labels) == 3
    assert round(counted(stand, "serving_request_duration_seconds_sum", *labels), 6) == 0.006
    assert round(counted(stand, "serving_queue_seconds_sum", *labels), 6) == 0.0003
    assert counted(stand, "serving_batch_rows_sum", *labels) == 3
    assert counted(stand, "serving_batch_rows_count", *labels) == 1


def test_frame_is_measured_as_it_was_sent(stand: Stand) -> None:
    """The rows of a frame count whole, also when some of its calls failed."""
    link = stand.connect(MemoryLink())
    stand.send(stand.client(1), stand.client(2, rows=4))
    link.answer({0: RowFailure.MODEL_ERROR})

    assert counted(stand, "serving_batch_rows_sum", 'role="primary"') == 5


def test_missed_deadlines_are_counted(stand: Stand) -> None:
    """A timeout is a fate and a missed deadline."""
    stand.connect(MemoryLink(allowed_frames=0))
    stand.send(stand.client())
    stand.pass_time(1.01)

    assert counted(stand, "serving_requests_total", 'fate="timeout"') == 1
    assert counted(stand, "serving_deadline_misses_total", 'role="primary"') == 1


def test_version_that_comes_back_is_counted_again(stand: Stand) -> None:
    """After a version left and its series were dropped, a rollback to it is seen by a scrape."""
    link = stand.connect(MemoryLink())
    serve(stand, 1, link=link)
    stand.metrics.retain({("doubler", "2")})
    assert counted(stand, "serving_requests_total", 'version="1"') == 0

    serve(stand, 1, 2, link=link)

    assert counted(stand, "serving_requests_total", 'version="1"', 'fate="ok"') == 2


def test_record_carries_the_callers_trace(stand: Stand) -> None:
    """A caller's trace context is in the record, sampled or not; a broken one is no context."""
    link = stand.connect(MemoryLink())
    traced, broken = stand.client(), stand.client()
    traced.traceparent = f"00-{TRACE}-b7ad6b7169203331-00".encode()
    broken.traceparent = b"00-nothing-01"
    stand.send(traced, broken)
    link.answer()

    assert [record.trace_id for record in stand.log.records] == [TRACE, ""]


def test_sampled_request_is_the_example_of_its_bucket(tmp_path: Path) -> None:
    """A slow bucket of the histogram names a trace to look at, where the scraper wants examples."""
    stand = a_stand(tmp_path, telemetry={"otlp_endpoint": "http://127.0.0.1:9"})
    link = stand.connect(MemoryLink())
    sampled, other = stand.client(), stand.client()
    sampled.traceparent = f"00-{TRACE}-b7ad6b7169203331-01".encode()
    other.traceparent = f"00-{'9' * 32}-b7ad6b7169203331-00".encode()
    stand.send(sampled, other)
    link.answer()

    text = stand.metrics.families.render(b"application/openmetrics-text")[0].decode()
    assert (f'trace_id="{TRACE}"' in text, "9" * 32 in text) == (True, False)
    assert [each.trace_id for each in link.sent[0].links] == [bytes.fromhex(TRACE)]
