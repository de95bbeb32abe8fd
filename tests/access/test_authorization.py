"""Who may do what; and a refusal tells nothing about what exists."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.access.authorization import authorize_inference, authorize_operation
from serving.core.principals import Principal, Role
from serving.errors import Forbidden

MODELS = ["a", "b", "c"]
principals = st.builds(
    Principal,
    st.just("someone"),
    st.frozensets(st.sampled_from(Role)),
    st.none() | st.frozensets(st.sampled_from(MODELS)),
)


@given(principals, st.sampled_from(MODELS))
def test_inference_needs_a_role_and_the_model(principal: Principal, model: str) -> None:
    """Default deny: without a role nothing, with a role the listed models, or all without a list."""
    permitted = bool(principal.roles) and (principal.models is None or model in principal.models)

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
    """Role operator passes, every other set of roles is forbidden."""
    authorize_operation(Principal("a", frozenset({Role.OPERATOR})))
    for roles in (frozenset(), frozenset({Role.CALLER})):
        with pytest.raises(Forbidden, match="operator"):
            authorize_operation(Principal("a", roles))
