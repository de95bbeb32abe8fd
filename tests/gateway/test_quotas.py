"""Quotas over several workers: exact, honest about when to come back, harmless to others."""

import random
from pathlib import Path

import pytest

from serving.core.clock import ManualClock
from serving.core.principals import Principal, Role
from serving.errors import QuotaExceeded
from serving.gateway.buckets import Buckets
from serving.gateway.concurrency import Concurrency
from serving.gateway.quotas import Quotas
from serving.gateway_settings import QuotaRule

SECOND_NS = 1_000_000_000


def a_caller(subject: str = "ann", tenant: str = "") -> Principal:
    return Principal(subject, frozenset({Role.CALLER}), tenant=tenant)


class Node:
    """The workers of one node, on one clock and one file of buckets."""

    def __init__(self, path: Path, *rules: QuotaRule, workers: int = 4) -> None:
        self.clock = ManualClock()
        self.clock.advance(1.0)
        self.workers = [
            Quotas(
                rules,
                Buckets.open(path),
                concurrency=Concurrency.open(
                    path.with_name("concurrency"), workers=workers, index=index
                ),
                clock=self.clock,
            )
            for index in range(workers)
        ]

    def admits(self, caller: Principal, *, worker: int = 0) -> bool:
        account = self.workers[worker].of(caller)
        if account is None:
            return True
        try:
            account.admit(self.clock.monotonic_ns())
        except QuotaExceeded:
            return False
        return True


def test_rl_01_a_limit_is_exact_over_four_workers(tmp_path: Path) -> None:
    """100 requests a second and a burst of 20 admit 6,020 in 60 s, within 1 %, out of 24,000."""
    node = Node(tmp_path / "b", QuotaRule(requests_per_s=100, burst_s=0.2))
    arrivals = random.Random(1)  # noqa: S311 -- a seed, not a secret
    admitted = 0
    end_ns = node.clock.monotonic_ns() + 60 * SECOND_NS
    while node.clock.monotonic_ns() < end_ns:
        admitted += node.admits(a_caller(), worker=arrivals.randrange(4))
        node.clock.advance(arrivals.expovariate(400))

    assert admitted == pytest.approx(6020, rel=0.01)


def test_fast_limits_are_exact_too(tmp_path: Path) -> None:
    """Drawing in portions changes nothing: 20,000 a second for 2 s, over four workers."""
    node = Node(tmp_path / "b", QuotaRule(requests_per_s=20_000, burst_s=0.1))
    admitted = 0
    for turn in range(4 * 40_000):
        admitted += node.admits(a_caller(), worker=turn % 4)
        node.clock.advance(2.0 / 160_000)

    assert admitted == pytest.approx(42_000, rel=0.01)


def test_rl_05_who_waits_as_told_is_admitted(tmp_path: Path) -> None:
    """After the time that a refusal names the next request passes."""
    node = Node(tmp_path / "b", QuotaRule(requests_per_s=2, burst_s=1))
    account = node.workers[0].of(a_caller())
    assert account is not None
    account.admit(node.clock.monotonic_ns())
    account.admit(node.clock.monotonic_ns())
    for _ in range(20):
        with pytest.raises(QuotaExceeded) as refusal:
            account.admit(node.clock.monotonic_ns())
        assert 0 < refusal.value.retry_after_s <= 0.5
        node.clock.advance(refusal.value.retry_after_s + 1e-6)
        account.admit(node.clock.monotonic_ns())


def test_what_is_known_afterwards_is_owed(tmp_path: Path) -> None:
    """A caller that used 3 s worth of rows is refused until the debt has run out, on any worker."""
    node = Node(tmp_path / "b", QuotaRule(rows_per_s=100, burst_s=1))
    account = node.workers[0].of(a_caller())
    assert account is not None
    account.admit(node.clock.monotonic_ns())
    account.charge(rows=300, compute_ms=0.0, now_ns=node.clock.monotonic_ns())

    assert not node.admits(a_caller(), worker=0)
    assert not node.admits(a_caller(), worker=3)
    node.clock.advance(1.9)
    assert not node.admits(a_caller(), worker=3)
    node.clock.advance(0.2)
    assert node.admits(a_caller(), worker=3)


def test_compute_time_is_a_limit_of_its_own(tmp_path: Path) -> None:
    """The time that a caller's rows took in the model is bounded whatever their number."""
    node = Node(tmp_path / "b", QuotaRule(compute_ms_per_s=50, burst_s=1), workers=1)
    account = node.workers[0].of(a_caller())
    assert account is not None
    for _ in range(6):
        account.charge(rows=1, compute_ms=10.0, now_ns=node.clock.monotonic_ns())

    assert not node.admits(a_caller())
    node.clock.advance(0.3)
    assert node.admits(a_caller())


def test_rules_bind_whom_they_name(tmp_path: Path) -> None:
    """Patterns choose; others have no account and no cost; the scarcest of several rules decides."""
    node = Node(
        tmp_path / "b",
        QuotaRule(subject="batch-*", requests_per_s=1000),
        QuotaRule(tenant="small", requests_per_s=1),
        workers=1,
    )

    assert node.workers[0].of(a_caller("ann")) is None
    assert [node.admits(a_caller("batch-1", "small")) for _ in range(3)] == [True, False, False]
    assert [node.admits(a_caller("batch-2", "large")) for _ in range(3)] == [True, True, True]


def test_a_shared_rule_is_one_allowance_for_all(tmp_path: Path) -> None:
    """Two callers of a tenant draw from one bucket; without `shared` each has its own."""
    apart = Node(tmp_path / "apart", QuotaRule(tenant="t", requests_per_s=1))
    shared = Node(tmp_path / "shared", QuotaRule(tenant="t", requests_per_s=1, shared=True))
    ann, bob = a_caller("ann", "t"), a_caller("bob", "t")

    assert (apart.admits(ann), apart.admits(bob)) == (True, True)
    assert (shared.admits(ann), shared.admits(bob, worker=2)) == (True, False)


def test_a_day_is_a_rolling_day(tmp_path: Path) -> None:
    """What was used comes back evenly over 24 hours, and survives a restart of the workers."""
    rule = QuotaRule(requests_per_day=24)
    node = Node(tmp_path / "b", rule)
    assert sum(node.admits(a_caller(), worker=i % 4) for i in range(30)) == 24

    concurrency = Concurrency.open(tmp_path / "c", workers=1, index=0)
    later = Quotas([rule], Buckets.open(tmp_path / "b"), concurrency=concurrency, clock=node.clock)
    again = later.of(a_caller())
    assert again is not None
    with pytest.raises(QuotaExceeded):
        again.admit(node.clock.monotonic_ns())
    node.clock.advance(3601.0)
    again.admit(node.clock.monotonic_ns())


def test_what_a_quiet_worker_holds_goes_back(tmp_path: Path) -> None:
    """A portion drawn and not used is there for the others a moment later."""
    node = Node(tmp_path / "b", QuotaRule(requests_per_s=1000, burst_s=0.01), workers=2)
    assert node.admits(a_caller(), worker=0)
    assert not node.admits(a_caller(), worker=1)

    node.clock.advance(0.06)
    node.workers[0].rest()

    account = node.workers[1].of(a_caller())
    assert account is not None
    standing = account.standing(node.clock.monotonic_ns())
    assert standing is not None
    assert standing.remaining == 10


def test_places_are_counted_over_all_workers(tmp_path: Path) -> None:
    """Five inside on a node of four workers, never six; one that leaves makes room for one."""
    node = Node(tmp_path / "b", QuotaRule(concurrent=5))
    assert [node.admits(a_caller(), worker=i % 4) for i in range(7)] == [True] * 5 + [False] * 2

    inside = node.workers[3].of(a_caller())
    assert inside is not None
    inside.leave()

    assert [node.admits(a_caller(), worker=i % 4) for i in range(2)] == [True, False]


def test_rl_03_a_clock_that_is_set_back_neither_locks_out_nor_opens(tmp_path: Path) -> None:
    """Limits follow monotonic time: an hour back on the wall changes nothing."""
    node = Node(tmp_path / "b", QuotaRule(requests_per_s=10, burst_s=1))
    assert sum(node.admits(a_caller()) for _ in range(20)) == 10

    node.clock.step_wall(-3600.0)

    assert not node.admits(a_caller())
    node.clock.advance(0.5)
    assert sum(node.admits(a_caller()) for _ in range(20)) == 5
