from dataclasses import dataclass, replace

import pytest

from serving.control.desired import Desired
from serving.control.endpoints import Lease
from serving.control.reconciler import Failure
from serving.control.status import Facts, VersionState, status_of, version_status
from serving.core.models import ModelName, VersionName
from serving.core.traffic import Arm, Snapshot, TrafficPolicy
from serving.inference.plans import ApplicationReport
from serving.inference.registration import PhaseReport
from tests.plans import a_plan, a_renewal, a_version, an_endpoint

PLAN = a_plan()
DESIRED = Desired((PLAN,), (TrafficPolicy(ModelName("doubler"), VersionName("1")),))
LEASE = Lease(an_endpoint("a"), renewed_ns=0, renewal=a_renewal("a"))
FAILURE = Failure("no such file", attempts=1, retry_ns=0)
LOADING = PhaseReport("doubler", "1", "loading")
STARTING = ApplicationReport("starting")


@dataclass(frozen=True)
class Known:
    """What the parts of control know about one version."""

    leases: tuple[Lease, ...] = ()
    failure: Failure | None = None
    phase: PhaseReport | None = None
    report: ApplicationReport | None = STARTING


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (Known(report=None), "waiting"),
        (Known(), "starting"),
        (Known(phase=LOADING), "loading"),
        (Known(phase=PhaseReport("doubler", "1", "warming")), "warming"),
        (Known(phase=LOADING, failure=FAILURE), "failed"),
        (Known(phase=LOADING, failure=FAILURE, leases=(LEASE,)), "ready"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_state_is_the_furthest_thing_known(known: Known, expected: VersionState) -> None:
    """A lease beats a failure, a failure beats what was under way before it."""
    status = version_status(
        PLAN,
        desired=DESIRED,
        leases=known.leases,
        report=known.report,
        failure=known.failure,
        phase=known.phase,
        now_ns=2_000_000_000,
    )

    assert expected == status.state
    assert ("no such file" if expected == "failed" else "") == status.message


def test_replica_tells_when_it_renewed_and_what_it_runs_on() -> None:
    """Each lease is one row with its age, its device and its figures."""
    status = version_status(
        PLAN,
        desired=DESIRED,
        leases=[LEASE],
        report=None,
        failure=None,
        phase=None,
        now_ns=2_000_000_000,
    )
    (replica,) = status.replicas

    assert (
        replica.replica,
        replica.renewed_s,
        replica.providers,
    ) == ("a", 2.0, ("CPUExecutionProvider",))
    assert replica.statistics is not None
    assert replica.statistics.rows == 7


def test_role_says_whether_callers_get_the_answer() -> None:
    """Versions that a policy names as stable answer; all others are shadows."""
    assert [
        DESIRED.role("doubler", "1"),
        DESIRED.role("doubler", "2"),
    ] == ["stable", "shadow"]


def test_weights_are_those_that_gateways_were_told() -> None:
    """And where they are not what they should be, that is drift."""
    first, second = VersionName("1"), VersionName("2")
    published = TrafficPolicy(ModelName("doubler"), first, arms=(Arm(second, 1000),))
    desired = replace(DESIRED, policies=(replace(published, arms=(Arm(second, 2500),)),))
    snapshot = Snapshot(1, (PLAN.order.version, a_version(version="2")), (published,))
    facts = Facts(
        engine="local",
        connected=True,
        desired=replace(desired, plans=(PLAN, a_plan(version="2"))),
        trouble="",
        snapshot=snapshot,
        reported={},
        failures={},
        leases=(LEASE,),
        phases={},
        now_ns=0,
    )

    status = status_of(facts)

    rows = {(each.version, each.role, each.weight) for each in status.versions}
    assert rows == {("1", "stable", 0.9), ("2", "canary", 0.1)}
    assert ("doubler@2", "25.00% of the requests are its share, not 10.00%") in [
        (each.what, each.detail) for each in status.drift
    ]
