"""Sums over gateway workers that never fall, whoever starts again."""

import pytest

from serving.control.measures import Measures
from serving.core.clock import ManualClock
from serving.core.reports import LATENCY_BOUNDS_S, NO_BUCKETS, GatewayReport, VersionCounts


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def measures(clock: ManualClock) -> Measures:
    return Measures(clock)


def told(worker: str = "a/0", *, started_ns: int = 1, at_ns: int = 2, **ok: int) -> GatewayReport:
    """Version 2 answered so much, by its part."""
    counts = tuple(
        VersionCounts("m", "2", part, ok=count, failed={"timeout": 1})  # type: ignore[arg-type]
        for part, count in ok.items()
    )
    return GatewayReport(worker, started_ns, at_ns, epoch=at_ns, versions=counts)


def canary(*, generation: int, ok: int) -> VersionCounts:
    return VersionCounts("m", "2", "canary", generation=generation, ok=ok)


def test_workers_are_summed_up_by_part(measures: Measures) -> None:
    """A version's answers as a canary are not those to callers who chose it."""
    measures.take(told("a/0", canary=3, chosen=1))
    measures.take(told("a/1", canary=4))

    found = measures.of("m", "2", "canary")

    assert (found.ok, dict(found.failed), found.failures) == (7, {"timeout": 2}, 2)
    assert (measures.of("m", "2", "chosen").ok, measures.of("m", "2", "stable").ok) == (1, 0)


def test_newer_report_takes_the_place_of_the_older(measures: Measures) -> None:
    """Counts grow from a worker's start on; one that comes late says nothing."""
    measures.take(told(at_ns=2, canary=3))
    measures.take(told(at_ns=3, canary=5))
    measures.take(told(at_ns=1, canary=2))

    assert measures.of("m", "2", "canary").ok == 5


def test_worker_that_starts_again_takes_nothing_away(measures: Measures) -> None:
    """What its predecessor had told is kept, and what it counts comes on top."""
    measures.take(told(started_ns=1, at_ns=9, canary=5))
    measures.take(told(started_ns=10, at_ns=11, canary=2))
    measures.take(told(started_ns=10, at_ns=12, canary=3))

    assert measures.of("m", "2", "canary").ok == 8


def test_version_that_leaves_a_worker_keeps_its_counts(measures: Measures) -> None:
    """And when it comes back it counts anew, on top."""
    measures.take(told(at_ns=2, canary=5))
    measures.take(told(at_ns=3))
    measures.take(told(at_ns=4, canary=1))

    assert measures.of("m", "2", "canary").ok == 6


def test_version_that_left_and_came_back_between_two_reports_keeps_its_counts(
    measures: Measures,
) -> None:
    """The worker has not started again, but what it counts has: nobody sees a sum fall."""
    measures.take(GatewayReport("a/0", 1, 2, 2, (canary(generation=1, ok=5),)))
    measures.take(GatewayReport("a/0", 1, 3, 3, (canary(generation=2, ok=3),)))
    measures.take(GatewayReport("a/0", 1, 4, 4, (canary(generation=2, ok=4),)))

    assert measures.of("m", "2", "canary").ok == 9


def test_sh_10_epochs_of_the_workers_are_known(measures: Measures, clock: ManualClock) -> None:
    """Whether all gateways have arrived at a policy shows; who is silent for long does not count."""
    measures.take(told("a/0", at_ns=7))
    clock.advance(20)
    measures.take(told("a/1", at_ns=8))

    assert measures.epochs(within_s=10) == {"a/1": 8}
    assert measures.epochs(within_s=30) == {"a/0": 7, "a/1": 8}


def test_what_came_since_is_a_difference() -> None:
    """Of two sums, what lies between them; adding it again gives the later one."""
    before = VersionCounts("m", "2", "canary", ok=2, failed={"timeout": 1}, rows=5)
    after = VersionCounts("m", "2", "canary", ok=9, failed={"timeout": 1, "model_error": 3}, rows=8)

    lately = after.since(before)

    assert (lately.ok, dict(lately.failed), lately.rows) == (7, {"model_error": 3}, 3)
    assert before.plus(lately) == after


def test_quantiles_are_bounds_of_buckets() -> None:
    """The bound below which a share of the answers came; above the last it is infinite."""
    buckets = (*(90,) * (len(LATENCY_BOUNDS_S) - 1), 99, 100)
    counts = VersionCounts("m", "2", "canary", ok=100, latency_buckets=buckets)

    assert [counts.quantile_s(share) for share in (0.5, 0.95, 1.0)] == [
        LATENCY_BOUNDS_S[0],
        LATENCY_BOUNDS_S[-1],
        float("inf"),
    ]
    assert VersionCounts("m", "2", "canary", latency_buckets=NO_BUCKETS).quantile_s(0.5) is None
