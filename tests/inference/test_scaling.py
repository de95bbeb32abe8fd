from collections.abc import Mapping
from typing import Any

import pytest

from serving.inference.counters import ReplicaStatistics
from serving.inference.scaling import LONG_QUEUE_MS, decide, replicas_wanted, scaling_figures


class Context:
    """The part of Serve's context that the policy reads."""

    def __init__(self, target: int, metrics: Mapping[str, Mapping[Any, float]] | None) -> None:
        self.current_num_replicas = target
        self.target_num_replicas = target
        self.aggregated_metrics = metrics


@pytest.mark.parametrize(
    ("busy", "current", "expected"),
    [
        ([0.7, 0.7], 2, 2),
        ([0.71, 0.71], 2, 3),
        ([1.0], 1, 2),
        ([1.0, 1.0, 1.0, 1.0], 4, 6),
        ([0.1, 0.1, 0.1], 3, 1),
        ([0.0], 1, 1),
        ([0.7], 2, 2),
    ],
)
def test_replicas_bring_the_busy_share_to_the_target(
    busy: list[float], current: int, expected: int
) -> None:
    """As many as it takes for 70 %; one that has not reported counts like the others."""
    assert expected == decide(busy=busy, queue_ms=[], current=current)


def test_long_wait_adds_a_replica_however_idle_they_look() -> None:
    """Rows that wait are the one thing a busy share can hide."""
    assert decide(busy=[0.1], queue_ms=[LONG_QUEUE_MS + 1], current=1) == 2


def test_nothing_changes_until_a_replica_has_reported() -> None:
    """Silence is no reason to scale."""
    silent: list[dict[str, dict[Any, float]] | None] = [None, {}]

    assert [replicas_wanted(Context(3, metrics))[0] for metrics in silent] == [3, 3]


def test_policy_reads_what_replicas_report() -> None:
    """The figures of a replica are the metrics that Serve hands to the policy."""
    figures = scaling_figures(ReplicaStatistics(busy_fraction=1.0, p95_queue_ms=3.0, queued_rows=9))
    metrics: dict[str, dict[Any, float]] = {name: {"r": value} for name, value in figures.items()}

    assert replicas_wanted(Context(1, metrics)) == (2, {})
