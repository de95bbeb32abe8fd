"""Metrics are exact, cheap to update, and read by Prometheus' own parsers."""

import math
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from serving.telemetry.metrics import Definition, Histogram, MetricFamilies

ACCEPT_OPEN = b"application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
ANSWERS = Definition("answers_total", "Answers.", ("model",))
DEPTH = Definition("depth", "Depth.", ("model",))
WAIT = Definition("wait_seconds", "Wait.", ("model",), (0.5, 1.0, 2.0))


@pytest.fixture
def families() -> MetricFamilies:
    return MetricFamilies()


def samples(metrics: Iterable[Metric]) -> dict[tuple[str, str], float]:
    """Name and label text to value."""
    return {
        (sample.name, ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))): sample.value
        for metric in metrics
        for sample in metric.samples
    }


def test_counters_and_gauges_show_their_values(families: MetricFamilies) -> None:
    """What was counted or assigned is what a scrape reads, by label."""
    families.counter(ANSWERS).child("a").value += 3
    families.gauge(DEPTH).child("b").value = 7

    read = samples(parse_plain(families.render()[0].decode()))

    assert read == {("answers_total", "model=a"): 3, ("depth", "model=b"): 7}


def test_a_value_on_a_bound_belongs_to_its_bucket(families: MetricFamilies) -> None:
    """Buckets are cumulative, bounds inclusive; what exceeds the last is in +Inf only."""
    wait = families.histogram(WAIT).child("a")
    for value in (0.1, 0.5, 0.6, 2.0, 99.0):
        wait.observe(value)

    read = samples(parse_plain(families.render()[0].decode()))

    assert read == {
        ("wait_seconds_bucket", "le=0.5,model=a"): 2,
        ("wait_seconds_bucket", "le=1.0,model=a"): 3,
        ("wait_seconds_bucket", "le=2.0,model=a"): 4,
        ("wait_seconds_bucket", "le=+Inf,model=a"): 5,
        ("wait_seconds_count", "model=a"): 5,
        ("wait_seconds_sum", "model=a"): pytest.approx(102.2),
    }


@given(st.lists(st.floats(0, 100), max_size=50))
def test_observing_many_is_observing_each(values: list[float]) -> None:
    """One call for a batch counts what a call for each value would."""
    each, many = Histogram((1.0, 10.0)), Histogram((1.0, 10.0))
    for value in values:
        each.observe(value)

    many.observe_many(values)

    assert each.counts == many.counts
    assert math.isclose(each.total, many.total)
    assert sum(many.counts) == len(values)


def test_exemplars_travel_in_openmetrics_only(families: MetricFamilies) -> None:
    """A sampled request is the example of its bucket where the scraper understands exemplars."""
    wait = families.histogram(WAIT).child("a")
    wait.observe(0.7)
    wait.exemplify(0.7, trace_id=b"\xab" * 16, now_s=1_700_000_000.5)

    text, kind = families.render(ACCEPT_OPEN)
    plain, plain_kind = families.render(b"*/*")
    metric, *_ = parse_open(text.decode())  # type: ignore[no-untyped-call]  # No types there.
    exemplars = [(s.labels["le"], s.exemplar) for s in metric.samples if s.exemplar]

    assert kind.startswith("application/openmetrics-text")
    assert plain_kind.startswith("text/plain; version=0.0.4")
    assert b"# {" not in plain
    assert [(le, e.labels, e.value) for le, e in exemplars] == [
        ("1.0", {"trace_id": "ab" * 16}, 0.7)
    ]


def test_a_child_is_made_once(families: MetricFamilies) -> None:
    """The same label values always give the same object, so it can be kept."""
    family = families.counter(ANSWERS)

    assert family.child("a") is family.child("a")
    assert family.child("a") is not family.child("b")


def test_series_of_what_is_gone_are_dropped(families: MetricFamilies) -> None:
    """After `retain` a scrape shows the kept series only."""
    family = families.counter(ANSWERS)
    family.child("a").value = 1
    family.child("b").value = 2

    family.retain(lambda labels: labels == ("b",))

    read = samples(parse_plain(families.render()[0].decode()))
    assert read == {("answers_total", "model=b"): 2}


def test_readings_are_taken_at_scrape_time(families: MetricFamilies) -> None:
    """A source is asked at every scrape and never before."""
    asked: list[int] = []

    def depth() -> float:
        asked.append(1)
        return len(asked)

    families.read_one(Definition("depth", "Depth."), depth)
    assert asked == []

    read = [samples(parse_plain(families.render()[0].decode())) for _ in range(2)]
    assert read == [{("depth", ""): 1}, {("depth", ""): 2}]


def test_label_values_are_escaped(families: MetricFamilies) -> None:
    """Quotes, backslashes and line ends in a label cannot forge another sample."""
    hostile = 'a"} 1\nother_total{x="\\'
    families.counter(ANSWERS).child(hostile).value += 1

    read = samples(parse_plain(families.render()[0].decode()))

    assert read == {("answers_total", f"model={hostile}"): 1}


def test_wrong_use_is_named(families: MetricFamilies) -> None:
    """Another kind, a second definition and a wrong number of labels fail where they are made."""
    family = families.counter(ANSWERS)

    with pytest.raises(ValueError, match="twice"):
        families.counter(ANSWERS)
    with pytest.raises(TypeError, match="is a gauge, not a counter"):
        families.counter(DEPTH)
    with pytest.raises(ValueError, match=r"has labels \('model',\), not 2"):
        family.child("a", "b")
