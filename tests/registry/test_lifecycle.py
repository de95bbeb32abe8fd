"""The life of a version: any state, any step; a legal state or the one error."""

from hypothesis import given
from hypothesis import strategies as st

from serving.errors import TransitionRefused
from serving.registry.lifecycle import SERVING, TABLE, Demand, State, Step, step

LEGAL = {
    ("registered", "validate"): "validated",
    ("registered", "reject"): "rejected",
    ("validated", "approve"): "approved",
    ("validated", "reject"): "rejected",
    ("approved", "shadow"): "shadow",
    ("approved", "promote"): "stable",
    ("approved", "restore"): "stable",
    ("approved", "reject"): "rejected",
    ("approved", "revoke"): "validated",
    ("approved", "deprecate"): "deprecated",
    ("shadow", "canary"): "canary",
    ("shadow", "promote"): "stable",
    ("shadow", "restore"): "stable",
    ("shadow", "stand_down"): "approved",
    ("shadow", "reject"): "rejected",
    ("shadow", "revoke"): "validated",
    ("shadow", "deprecate"): "deprecated",
    ("canary", "shadow"): "shadow",
    ("canary", "promote"): "stable",
    ("canary", "restore"): "stable",
    ("canary", "stand_down"): "approved",
    ("canary", "reject"): "rejected",
    ("canary", "revoke"): "validated",
    ("canary", "deprecate"): "deprecated",
    ("stable", "shadow"): "shadow",
    ("stable", "stand_down"): "approved",
    ("stable", "revoke"): "validated",
    ("stable", "deprecate"): "deprecated",
    ("deprecated", "reinstate"): "approved",
    ("deprecated", "revoke"): "validated",
    ("deprecated", "retire"): "retired",
    ("rejected", "retire"): "retired",
}
"""Written down a second time, by hand: a change of the table has to be meant twice."""


@given(st.sampled_from(State), st.sampled_from(Step))
def test_rg_07_every_step_leads_to_a_legal_state_or_is_refused(state: State, wanted: Step) -> None:
    """What is not in the list above is refused, whatever is asked of whatever."""
    try:
        reached = step(state, wanted).target.value
    except TransitionRefused:
        reached = None

    assert reached == LEGAL.get((state.value, wanted.value))


@given(st.lists(st.sampled_from(Step), max_size=12))
def test_whatever_serves_was_approved_and_not_revoked_since(steps: list[Step]) -> None:
    """On any way through the table, no state with traffic is reached without an approval before it."""
    state, is_approved = State.REGISTERED, False
    for wanted in steps:
        try:
            state = step(state, wanted).target
        except TransitionRefused:
            continue
        is_approved = (is_approved or wanted is Step.APPROVE) and wanted is not Step.REVOKE

        assert is_approved or state not in SERVING


def test_the_end_is_the_end() -> None:
    """Nothing follows retirement, and every other state can reach it."""
    assert TABLE[State.RETIRED] == {}
    reaching = {State.RETIRED}
    for _ in State:
        reaching |= {
            s for s, row in TABLE.items() if {target for target, _ in row.values()} & reaching
        }
    assert reaching == set(State)


def test_evidence_is_demanded_where_it_decides() -> None:
    """Approval needs a validation, traffic needs approvals, retirement that nothing depends on it."""
    demands = {(s, w): step(s, w).demands for s, row in TABLE.items() for w in row}

    assert all(Demand.VALIDATION in d for (_, w), d in demands.items() if w is Step.APPROVE)
    to_traffic = [
        d for (s, w), d in demands.items() if TABLE[s][w][0] in SERVING and s is not State.STABLE
    ]
    assert all(
        Demand.APPROVALS in d
        for d in to_traffic
        if d is not demands.get((State.STABLE, Step.SHADOW))
    )
    assert all(Demand.NO_TRAFFIC in d for (_, w), d in demands.items() if w is Step.RETIRE)
