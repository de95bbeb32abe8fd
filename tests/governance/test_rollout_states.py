"""The life of a rollout as one table: every pair of state and turn, and every way through it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import TransitionRefused
from serving.governance.rollout_states import (
    ACTIVE,
    TABLE,
    WORDS,
    RolloutState,
    Turn,
    share_in,
    turned,
)

ENDS = {RolloutState.COMPLETED, RolloutState.ROLLED_BACK, RolloutState.ABORTED}


@pytest.mark.parametrize("state", RolloutState)
@pytest.mark.parametrize("turn", Turn)
def test_every_pair_has_one_outcome(state: RolloutState, turn: Turn) -> None:
    """It is in the table, or it is refused with what is possible instead."""
    if turn in TABLE[state]:
        assert turned(state, turn) is TABLE[state][turn]
    else:
        with pytest.raises(TransitionRefused, match="possible"):
            turned(state, turn)


@given(st.lists(st.sampled_from(Turn), max_size=40))
def test_no_interleaving_leaves_a_candidate_with_traffic_it_should_not_have(
    turns: list[Turn],
) -> None:
    """Whatever happens in whatever order: an end gives the candidate everything or nothing."""
    state = RolloutState.PENDING
    for turn in turns:
        try:
            state = turned(state, turn)
        except TransitionRefused:
            continue
    share = share_in(state, 0.1)

    assert (state in ACTIVE) == (state not in ENDS)
    if state in ENDS:
        assert share == (1.0 if state is RolloutState.COMPLETED else 0.0)
    else:
        assert share in (0.1, 1.0)


@pytest.mark.parametrize("state", sorted(ACTIVE))
@pytest.mark.parametrize("turn", [Turn.BREAK, Turn.ROLL_BACK, Turn.DISPLACE])
def test_sh_07_every_active_state_can_be_left_for_the_stable_version_at_once(
    state: RolloutState, turn: Turn
) -> None:
    """One turn from anywhere takes all traffic from the candidate."""
    assert share_in(turned(state, turn), 0.5) == 0.0


@pytest.mark.parametrize("turn", WORDS)
def test_what_has_ended_stays_ended(turn: Turn) -> None:
    """Nobody wakes a rollout that was rolled back or aborted."""
    for state in (RolloutState.ROLLED_BACK, RolloutState.ABORTED):
        with pytest.raises(TransitionRefused):
            turned(state, turn)
