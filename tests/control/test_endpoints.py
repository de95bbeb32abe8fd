import pytest

from serving.control.endpoints import Leases
from serving.core.clock import ManualClock
from tests.plans import a_renewal, an_endpoint


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def leases(clock: ManualClock) -> Leases:
    return Leases(lease_s=10, clock=clock)


def test_first_renewal_changes_the_endpoints_and_later_ones_do_not(leases: Leases) -> None:
    """Only a new replica is news; renewing is not."""
    changes = [leases.renew(a_renewal("a")), leases.renew(a_renewal("a"))]

    assert changes == [True, False]


def test_lease_lasts_while_it_is_renewed(leases: Leases, clock: ManualClock) -> None:
    """A replica that renews in time stays for ever."""
    for _ in range(5):
        leases.renew(a_renewal("a"))
        clock.advance(9.9)

    assert leases.expire() == []
    assert tuple(lease.endpoint.replica for lease in leases.live()) == ("a",)


def test_lease_ends_when_it_is_not_renewed(leases: Leases, clock: ManualClock) -> None:
    """A replica that stays silent for longer than its lease is dropped, alone."""
    leases.renew(a_renewal("silent"))
    clock.advance(9)
    leases.renew(a_renewal("alive"))
    clock.advance(2)

    assert [an_endpoint("silent")] == leases.expire()
    assert tuple(lease.endpoint.replica for lease in leases.live()) == ("alive",)


def test_leaving_ends_a_lease_at_once(leases: Leases) -> None:
    """A replica that says goodbye is gone; saying it twice is no news."""
    leases.renew(a_renewal("a"))

    assert [leases.leave("a"), leases.leave("a")] == [True, False]
    assert leases.live() == ()


def test_restored_replicas_have_one_lease_to_renew(clock: ManualClock) -> None:
    """What was published before a restart lives on, and expires if nobody is there."""
    leases = Leases(lease_s=10, clock=clock, restored=[an_endpoint("a"), an_endpoint("b")])
    clock.advance(8)
    renewal_is_news = leases.renew(a_renewal("a"))
    clock.advance(4)

    assert renewal_is_news is False
    assert [an_endpoint("b")] == leases.expire()


def test_live_replicas_are_ordered_by_name(leases: Leases) -> None:
    """Equal sets of replicas are equal values, whatever the order of arrival."""
    for replica in ("c", "a", "b"):
        leases.renew(a_renewal(replica))

    assert [lease.endpoint.replica for lease in leases.live()] == ["a", "b", "c"]
