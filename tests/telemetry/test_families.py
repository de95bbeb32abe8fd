"""The table of families: named by convention, filled by version, read from replicas."""

import re
from dataclasses import dataclass, field

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from serving.core.models import ModelName, VersionName
from serving.core.predictions import Fate
from serving.core.traffic import ReplicaEndpoint
from serving.telemetry import comparison_families, ledger_families, replicas
from serving.telemetry import families as table
from serving.telemetry.families import GatewayMetrics
from serving.telemetry.ledger_families import LEDGER_FAMILIES
from serving.telemetry.metrics import Definition, MetricFamilies
from serving.telemetry.replicas import REPLICA_FAMILIES, ReplicaReport, add_replica_families

UNITS = ("_total", "_seconds", "_bytes", "_ratio", "_rows", "_info")
THINGS = (
    *("_requests", "_connections", "_segments", "_records", "_events", "_files", "_nodes"),
    *("_reports", "_open", "_ending", "_damaged", "_epoch", "_up"),
)
TABLE = (
    *table.GATEWAY_FAMILIES,
    *REPLICA_FAMILIES,
    *table.LABEL_FAMILIES,
    *LEDGER_FAMILIES,
    *comparison_families.COMPARISON_FAMILIES,
    *table.EVIDENCE_FAMILIES,
    *table.ROLLOUT_FAMILIES,
    *table.SUPERVISOR_FAMILIES,
)
EXPOSED = ("serving_requests_total", "serving_request_duration_seconds", "serving_batch_rows")


@dataclass
class Figures:
    """What a replica would report."""

    busy_fraction: float = 0.5
    queued_rows: int = 3
    batches: int = 4
    rows: int = 20
    failures: int = 1
    expired_rows: int = 2
    run_seconds: float = 1.5
    best_batch_size: int = 16
    p95_queue_ms: float = 2.5
    batch_sizes: dict[int, int] = field(default_factory=lambda: {1: 1, 2: 0, 16: 3})


def values(families: MetricFamilies, name: str) -> dict[tuple[str, ...], float]:
    """Label values, without `le`, in alphabetical order of the names, to the value."""
    return {
        tuple(value for label, value in sorted(sample.labels.items())): sample.value
        for family in parse(families.render()[0].decode())
        for sample in family.samples
        if sample.name == name
    }


@pytest.mark.parametrize("definition", TABLE, ids=lambda d: d.name)
def test_names_follow_the_conventions(definition: Definition) -> None:
    """Own prefix, a unit or what is counted at the end, a sentence as documentation, no label that
    names a caller."""
    assert re.fullmatch(r"serving_[a-z0-9_]+", definition.name)
    assert definition.name.endswith(UNITS + THINGS)
    assert definition.documentation.endswith(".")
    assert not {"principal", "subject", "tenant", "request_id"} & set(definition.labels)


def test_every_family_is_in_the_table_once() -> None:
    """The table has no two rows of one name, and no definition stands outside it."""
    names = [definition.name for definition in TABLE]
    modules = [table, replicas, ledger_families, comparison_families]
    defined = {
        each.name
        for module in modules
        for each in vars(module).values()
        if isinstance(each, Definition)
    }

    assert len(names) == len(set(names))
    assert defined == set(names)


def test_fates_are_counted_by_version_and_role() -> None:
    """A version's counters are indexed by fate; primary and shadow are kept apart."""
    metrics = GatewayMetrics()
    metrics.version("m", "1", "primary").requests[Fate.OK].value += 5
    metrics.version("m", "1", "shadow").requests[Fate.TIMEOUT].value += 2

    read = values(metrics.families, "serving_requests_total")

    assert {labels: value for labels, value in read.items() if value} == {
        ("ok", "m", "primary", "1"): 5,
        ("timeout", "m", "shadow", "1"): 2,
    }
    assert len(read) == 2 * len(Fate)


def test_refusals_are_counted_by_code() -> None:
    """Each refusal adds one to its code."""
    metrics = GatewayMetrics()
    for code in ("queue_full", "unauthenticated", "queue_full"):
        metrics.refused(code)

    read = values(metrics.families, "serving_refusals_total")

    assert read == {("queue_full",): 2, ("unauthenticated",): 1}


def test_a_version_has_one_object_until_it_is_retired() -> None:
    """The same version gives the same object; after `retain` a retired one has no series."""
    metrics = GatewayMetrics()
    kept, gone = metrics.version("m", "1", "primary"), metrics.version("m", "2", "shadow")
    assert metrics.version("m", "1", "primary") is kept

    metrics.retain({("m", "1")})

    text = metrics.families.render()[0].decode()
    assert all(name in text for name in EXPOSED)
    assert 'version="2"' not in text
    assert metrics.version("m", "1", "primary") is kept
    assert metrics.version("m", "2", "shadow") is not gone


def test_the_figures_of_live_replicas_are_exported() -> None:
    """Every figure of every replica that is there at the scrape, and none that has left."""
    endpoint = ReplicaEndpoint("r1", ModelName("m"), VersionName("1"), "unix:x", "node")
    reports = [ReplicaReport(endpoint, Figures(), "CPUExecutionProvider")]
    families = MetricFamilies()
    add_replica_families(families, lambda: reports)

    assert values(families, "serving_replica_busy_ratio") == {("m", "r1", "1"): 0.5}
    assert values(families, "serving_replica_queue_p95_seconds") == {("m", "r1", "1"): 0.0025}
    assert values(families, "serving_replica_batch_rows_count") == {("m", "r1", "1"): 4}
    assert values(families, "serving_replica_info") == {("m", "CPUExecutionProvider", "r1", "1"): 1}
    exported = {definition.name for definition in REPLICA_FAMILIES}
    assert exported == {line.split()[2] for line in headings(families)}

    reports.clear()
    assert values(families, "serving_replica_info") == {}


def headings(families: MetricFamilies) -> list[str]:
    lines = families.render()[0].decode().splitlines()
    return [line for line in lines if line.startswith("# TYPE")]
