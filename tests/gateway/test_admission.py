import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import CallerLimitReached, Overloaded, QueueFull, ServingError
from serving.gateway.admission import Admission, Share
from serving.gateway_settings import AdmissionSettings

SMALL = AdmissionSettings(
    max_in_flight=3,
    max_in_flight_per_caller=2,
    max_in_flight_per_model=2,
    max_queued_rows=8,
    max_queued_bytes=100,
)


@pytest.fixture
def admission() -> Admission:
    return Admission(SMALL)


def test_caller_may_have_so_many_requests_in_flight(admission: Admission) -> None:
    """At the limit a caller is told that it is its own; another caller is not concerned."""
    admission.admit("ada", "m", 0)
    admission.admit("ada", "n", 0)

    with pytest.raises(CallerLimitReached, match="2"):
        admission.admit("ada", "m", 0)
    assert admission.admit("bob", "m", 0).in_flight == 1


def test_model_may_have_so_many_requests_in_flight(admission: Admission) -> None:
    """One model cannot take all places; another model is not concerned."""
    admission.admit("ada", "m", 0)
    admission.admit("bob", "m", 0)

    with pytest.raises(Overloaded, match="model"):
        admission.admit("eve", "m", 0)
    assert admission.admit("eve", "n", 0).in_flight == 1


def test_worker_may_have_so_many_requests_in_flight(admission: Admission) -> None:
    """Beyond its capacity the worker refuses, whoever asks for what."""
    for number in range(3):
        admission.admit(f"caller {number}", f"model {number}", 0)

    with pytest.raises(Overloaded, match="capacity"):
        admission.admit("ada", "m", 0)


def test_full_queue_refuses_now(admission: Admission) -> None:
    """Rows that wait at the limit refuse the next request, with the queue's own error."""
    admission.admit("ada", "m", 7)

    with pytest.raises(QueueFull):
        admission.admit("ada", "m", 8)


def test_bytes_bound_memory_whatever_the_rows(admission: Admission) -> None:
    """Inputs at their limit in bytes refuse the next request."""
    share = admission.admit("ada", "m", 0)
    admission.hold(100)
    with pytest.raises(Overloaded):
        admission.admit("ada", "m", 0)

    admission.release(share, "m", 100)

    assert admission.admit("ada", "m", 0).in_flight == 1


def test_request_that_does_not_fit_is_refused(admission: Admission) -> None:
    """One byte too many is refused and counts for nothing; what fits is let in (OV-07)."""
    admission.admit("ada", "m", 0)
    admission.hold(60)
    with pytest.raises(Overloaded, match="memory"):
        admission.hold(41)

    admission.hold(40)

    assert admission.in_flight_bytes == 100


def test_pressure_begins_at_half_of_any_limit(admission: Admission) -> None:
    """Before anybody is refused there is a time in which what nobody waits for is left out."""
    assert not admission.pressed("m")
    share = admission.admit("ada", "m", 0)
    assert not admission.pressed("m")
    admission.hold(51)
    assert admission.pressed("m")

    admission.release(share, "m", 51)
    admission.admit("ada", "m", 0)
    admission.admit("bob", "m", 0)

    assert admission.pressed("m")


def test_refused_request_takes_no_place(admission: Admission) -> None:
    """A refusal leaves every counter as it was."""
    with pytest.raises(QueueFull):
        admission.admit("ada", "m", 8)
    shares = [admission.admit("ada", "m", 0), admission.admit("ada", "n", 0)]

    assert (admission.in_flight, shares[0].in_flight) == (2, 2)


@given(
    steps=st.lists(
        st.tuples(
            st.booleans(),
            st.sampled_from(["ada", "bob"]),
            st.sampled_from("mno"),
            st.integers(0, 60),
        ),
        max_size=60,
    )
)
def test_everything_admitted_can_be_given_back(
    steps: list[tuple[bool, str, str, int]],
) -> None:
    """After any coming and going no limit was passed, and what is released leaves nothing behind."""
    admission = Admission(SMALL)
    inside: list[tuple[Share, str, int]] = []
    for come, caller, model, size in steps:
        if come:
            try:
                share = admission.admit(caller, model, 0)
            except ServingError:
                continue
            try:
                admission.hold(size)
            except Overloaded:
                inside.append((share, model, 0))
            else:
                inside.append((share, model, size))
        elif inside:
            admission.release(*inside.pop(0))
        callers = [share.subject for share, _, _ in inside]
        assert admission.in_flight == len(inside) <= 3
        assert admission.in_flight_bytes <= 100
        assert max([callers.count(each) for each in callers], default=0) <= 2
    for each in inside:
        admission.release(*each)

    assert (admission.in_flight, admission.in_flight_bytes) == (0, 0)
