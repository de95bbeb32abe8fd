"""Metrics of several processes become one exposition that Prometheus reads."""

from itertools import pairwise

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from serving.telemetry.exposition import merge_expositions
from serving.telemetry.metrics import Definition, MetricFamilies

ACCEPT_OPEN = b"application/openmetrics-text"
ANSWERS = Definition("answers_total", "Answers.", ("model",))
DEPTH = Definition("depth", "Depth, process='x'.")
WAIT = Definition("wait_seconds", "Wait.", (), (0.5, 1.0))


def rendered(answers: int, *, accept: bytes = b"", depth: bool = True) -> str:
    families = MetricFamilies()
    families.counter(ANSWERS).child("a } b").value = answers
    if depth:
        families.read_one(DEPTH, lambda: 5)
    wait = families.histogram(WAIT).child()
    wait.observe(0.7)
    wait.exemplify(0.7, trace_id=bytes(16), now_s=1.0)
    return families.render(accept)[0].decode()


def test_every_sample_names_its_process() -> None:
    """No sample is lost or added up; each carries the process beside its own labels."""
    merged = merge_expositions({"gateway-0": rendered(1), "gateway-1": rendered(2)}).decode()

    families = {family.name: family for family in parse_plain(merged)}
    answers = {s.labels["process"]: s.value for s in families["answers"].samples}
    assert answers == {"gateway-0": 1, "gateway-1": 2}
    assert {s.labels["model"] for s in families["answers"].samples} == {"a } b"}
    assert [s.labels for s in families["depth"].samples] == [
        {"process": "gateway-0"},
        {"process": "gateway-1"},
    ]


def test_each_family_has_one_heading_and_stands_together() -> None:
    """HELP and TYPE appear once; families that only one process has are kept."""
    texts = {"a": rendered(1, depth=False), "b": rendered(2), "c": ""}

    lines = merge_expositions(texts).decode().splitlines()

    headings = [line for line in lines if line.startswith("# TYPE")]
    assert len(headings) == len(set(headings)) == 3
    families = [line.split("{")[0].split("_")[0] for line in lines if not line.startswith("#")]
    changes = sum(1 for one, other in pairwise(families) if one != other)
    assert changes == 2


def test_openmetrics_keeps_exemplars_and_its_end() -> None:
    """OpenMetrics texts merge into one that a strict parser accepts, with one end mark."""
    texts = {name: rendered(1, accept=ACCEPT_OPEN) for name in ("a", "b")}

    merged = merge_expositions(texts).decode()

    parsed = parse_open(merged)  # type: ignore[no-untyped-call]  # The library has no types here.
    (wait,) = (family for family in parsed if family.name == "wait_seconds")
    assert len([sample for sample in wait.samples if sample.exemplar]) == 2
    assert merged.count("# EOF") == 1


def test_nothing_merges_into_nothing() -> None:
    """Without any process that answers the exposition is empty."""
    assert merge_expositions({"a": ""}).strip() == b""
