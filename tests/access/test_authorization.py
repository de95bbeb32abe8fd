"""Who may do what; and a refusal tells nothing about what exists."""

import contextlib
import statistics
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.access.authorization import (
    MOST_REMEMBERED,
    NO_MODEL,
    OURSELVES,
    authorize,
    authorize_description,
    authorize_inference,
    authorize_operation,
    may,
)
from serving.access.live import LiveAccess
from serving.core.clock import ManualClock, SystemClock
from serving.core.principals import Action, Principal, Role
from serving.errors import Forbidden, ModelNotFound, ServingError

MODELS = ["a", "b", "c"]
INFERRING = {Role.CALLER, Role.DEVELOPER, Role.OPERATOR}
principals = st.builds(
    Principal,
    st.just("someone"),
    st.frozensets(st.sampled_from(Role)),
    st.none() | st.frozensets(st.sampled_from(MODELS)),
)


@given(principals, st.sampled_from(MODELS))
def test_inference_needs_a_role_and_the_model(principal: Principal, model: str) -> None:
    """Default deny: a role that infers, and the listed models, or all without a list."""
    named = principal.models is None or model in principal.models
    permitted = bool(principal.roles & INFERRING) and named

    for _ in range(2):  # The second answer is a remembered one.
        try:
            authorize_inference(principal, model)
            allowed = True
        except Forbidden:
            allowed = False
        assert permitted == allowed


def test_a_refusal_does_not_tell_whether_the_model_exists() -> None:
    """The words of a refusal are the same for every model and every principal."""
    messages = set()
    for principal in (Principal("a", frozenset()), Principal("b", frozenset(Role), frozenset())):
        for model in ("census-employment", "no-such-model", ""):
            with pytest.raises(Forbidden) as refusal:
                authorize_inference(principal, model)
            messages.add(refusal.value.message)

    assert len(messages) == 1


def test_only_operators_operate() -> None:
    """Role operator passes, every other role is forbidden."""
    authorize_operation(Principal("a", frozenset({Role.OPERATOR})))
    for roles in (frozenset(), frozenset(Role) - {Role.OPERATOR}):
        with pytest.raises(Forbidden, match="operator"):
            authorize_operation(Principal("a", roles))


@pytest.mark.parametrize("action", Action)
def test_our_own_processes_may_do_everything(action: Action) -> None:
    """They have shown the secret that only they share; nobody else may take part."""
    authorize(OURSELVES, action)

    assert may(OURSELVES, action, "m")
    assert not may(Principal("a", frozenset(Role)), Action.TAKE_PART)


def test_refusal_of_a_product_wide_action_names_the_role_that_has_it() -> None:
    """Whoever is refused knows what to ask for."""
    with pytest.raises(Forbidden, match="it needs role admin"):
        authorize(Principal("a", frozenset()), Action.MANAGE_ACCESS)


def test_what_is_remembered_of_a_principal_is_bounded() -> None:
    """Asking for more names than there are models gains nothing."""
    principal = Principal("a", frozenset({Role.CALLER}))

    for number in range(3 * MOST_REMEMBERED):
        authorize_inference(principal, str(number))

    assert len(principal.permitted) <= MOST_REMEMBERED


# -- another tenant's model ------------------------------------------------------------------------


@pytest.fixture
def access() -> LiveAccess:
    """Model `theirs` belongs to tenant acme."""
    return LiveAccess(pepper=bytes(32), tenants={"theirs": "acme"}, clock=ManualClock())


def refusal(ask: Callable[[], None]) -> ServingError:
    with pytest.raises(ServingError) as raised:
        ask()
    return raised.value


def test_az_06_another_tenants_model_is_answered_as_one_that_is_not_there(
    access: LiveAccess,
) -> None:
    """404 in the words of a missing model for whoever would get that; 403 for whoever gets 403."""
    caller = access.adopt(Principal("a", frozenset({Role.CALLER})))
    limited = access.adopt(Principal("a", frozenset({Role.CALLER}), frozenset({"m"})))
    member = access.adopt(Principal("a", frozenset({Role.CALLER}), tenant="acme"))

    authorize_inference(caller, "missing")  # The routing table says that there is no such model.
    authorize_inference(member, "theirs")

    for ask in (authorize_inference, authorize_description):
        hidden = refusal(lambda ask=ask: ask(caller, "theirs"))  # type: ignore[misc]  # bound now
        assert (type(hidden), hidden.message) == (ModelNotFound, NO_MODEL)
        told = [
            refusal(lambda ask=ask, model=model: ask(limited, model))  # type: ignore[misc]
            for model in ("theirs", "missing")
        ]
        assert [type(error) for error in told] == [Forbidden, Forbidden]
        assert len({error.message for error in told}) == 1
    assert not may(caller, Action.DESCRIBE, "theirs")


def test_az_07_guessing_is_not_answered_faster_or_slower(access: LiveAccess) -> None:
    """Over 100,000 names the median of hidden and missing models differs by far less than 1 ms."""
    clock = SystemClock()
    caller = access.adopt(Principal("a", frozenset({Role.CALLER})))

    def median_ns(ask: Callable[[int], str]) -> float:
        times = []
        for number in range(50_000):
            model = ask(number)
            begun_ns = clock.monotonic_ns()
            with contextlib.suppress(ModelNotFound):
                authorize_inference(caller, model)
            times.append(clock.monotonic_ns() - begun_ns)
        return statistics.median(times)

    difference_ns = median_ns(lambda _number: "theirs") - median_ns(lambda number: f"m{number}")

    assert abs(difference_ns) < 100_000
