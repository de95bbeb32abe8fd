"""Rollouts in the database: each turn with its traffic, its row and its event, or none of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from serving.core.principals import Role
from serving.errors import (
    AlreadyThere,
    Forbidden,
    ModelNotFound,
    ParameterInvalid,
    StateConflict,
    TransitionRefused,
)
from serving.governance.rollout_plans import RolloutPlan
from serving.governance.rollout_states import RolloutState, Turn
from serving.governance.rollouts import Cause
from serving.registry.lifecycle import Step
from serving.registry.orders import TrafficOrder
from serving.registry.shares import ArmOrder, ShadowOrder
from tests.registries import ADA, person
from tests.rollouts import RolloutStand

PLACES: tuple[tuple[Turn, ...], ...] = (
    (),
    (Turn.READY,),
    (Turn.READY, Turn.ADVANCE),
    (Turn.READY, Turn.ADVANCE, Turn.ADVANCE),
    (Turn.READY, Turn.WAIT),
    (Turn.READY, Turn.PAUSE),
    (Turn.READY, Turn.FINISH),
    (Turn.READY, Turn.FINISH, Turn.ARRIVE),
)
"""Ways to every state that a rollout can be left from."""
PROMOTED = (Turn.READY, Turn.PROMOTE, Turn.ARRIVE)


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[RolloutStand]:
    made = RolloutStand(tmp_path)
    yield made
    made.close()


def test_start_gives_the_candidate_its_first_weight(stand: RolloutStand) -> None:
    """Traffic, row and event at once; the weight is worth nothing before it is up."""
    made = stand.start()

    assert (made.state, made.stable, made.candidate) == (RolloutState.PENDING, "1", "2")
    assert stand.shares() == ("1", {"2": 0.01})
    assert stand.stand.states()["2"] == "canary"
    assert stand.told() == ["rollout:canary:started"]


def test_sh_07_rollout_goes_through_its_steps_to_everything(stand: RolloutStand) -> None:
    """Each advance is a revision of the traffic; the old version stays warm at the end."""
    stand.start()
    seen = []
    for turn in (Turn.READY, Turn.ADVANCE, Turn.ADVANCE, Turn.FINISH, Turn.ARRIVE):
        stand.turn(turn)
        seen.append(stand.shares())
    done = stand.newest()

    assert seen == [("1", {"2": 0.01}), ("1", {"2": 0.1}), ("1", {"2": 0.5}), ("2", {}), ("2", {})]
    assert (done.state, done.warm_until_ns > stand.clock.wall_ns()) == (
        RolloutState.COMPLETED,
        True,
    )
    assert [each.version for each in stand.traffic().warm] == ["1"]
    assert [name.rpartition(":")[2] for name in stand.told()] == [
        "started",
        "ready",
        "advanced",
        "advanced",
        "promoted",
        "completed",
    ]


@pytest.mark.parametrize("turn", [Turn.BREAK, Turn.ROLL_BACK])
def test_sh_07_rolled_back_at_each_step_only_the_stable_version_answers(
    stand: RolloutStand, turn: Turn
) -> None:
    """From anywhere, by a gate or by hand, in one turn."""
    for before in PLACES:
        stand.clock.sleep(1)
        stand.start()
        stand.turn(*before)
        done = stand.turn(turn, cause=Cause(gate="errors", reason="too many"))

        assert (done.state, done.settled, done.gate) == (RolloutState.ROLLED_BACK, "1", "errors")
        assert stand.shares() == ("1", {})
        assert stand.stand.states()["2"] == "approved"
        assert stand.told()[-1] == "rollout:canary:rolled_back"


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(turns=st.lists(st.sampled_from([*Turn, "by hand", "start"]), max_size=12))
def test_no_interleaving_of_turns_leaves_traffic_half_way(
    stand: RolloutStand, turns: list[Turn | str]
) -> None:
    """Whatever happens in whatever order: traffic is what the rollout's state means, or somebody's."""
    stand.route(TrafficOrder(stable="1"))
    is_by_hand = True
    for turn in turns:
        stand.clock.sleep(1)
        try:
            if turn == "start":
                stand.start()
                is_by_hand = False
            elif turn == "by hand":
                stand.route(TrafficOrder(stable="3"))
                is_by_hand = True
            elif not is_by_hand or stand.told():
                stand.turn(Turn(turn))
        except StateConflict:
            continue
        if not is_by_hand:
            rollout = stand.newest()
            stable, arms = stand.shares()
            shares = {**arms, stable: 1 - sum(arms.values())}
            assert shares.get("2", 0.0) == rollout.weight
            assert not arms or rollout.is_active
            assert stable in ("1", "2", "3")


def test_traffic_set_by_hand_ends_a_rollout_and_stays(stand: RolloutStand) -> None:
    """What somebody decided meanwhile is not undone."""
    stand.start()
    stand.turn(Turn.READY)
    stand.route(TrafficOrder(stable="3", shadows=(ShadowOrder(version="2"),)))
    done = stand.turn(Turn.ADVANCE)

    assert (done.state, "ada set the traffic" in done.reason) == (RolloutState.ABORTED, True)
    assert stand.shares() == ("3", {})
    assert [each.version for each in stand.traffic().shadows] == ["2"]


def test_rollback_takes_the_candidate_out_whatever_weight_it_was_given_by_hand(
    stand: RolloutStand,
) -> None:
    """Whoever asks for a rollback wants it gone."""
    stand.start()
    stand.turn(Turn.READY)
    stand.route(TrafficOrder(stable="1", arms=(ArmOrder(version="2", weight=0.4),)))
    done = stand.turn(Turn.ROLL_BACK)

    assert (done.state, stand.shares()) == (RolloutState.ROLLED_BACK, ("1", {}))


def test_start_is_refused_where_it_makes_no_sense(stand: RolloutStand) -> None:
    """A second rollout, a candidate that answers already, divided traffic, a signature that is gone."""
    stand.refuse(["2"])
    with pytest.raises(TransitionRefused, match="signer was revoked"):
        stand.start()
    assert (stand.shares(), stand.told()) == (("1", {}), [])
    stand.refuse([])
    with pytest.raises(TransitionRefused):
        stand.start("1")
    with pytest.raises(ParameterInvalid):
        stand.start(plan=RolloutPlan(gates={"beauty": 1}))
    stand.start()
    with pytest.raises(AlreadyThere):
        stand.start("3")
    stand.turn(Turn.ROLL_BACK)
    stand.route(TrafficOrder(stable="1", arms=(ArmOrder(version="3", weight=0.4),)))
    with pytest.raises(TransitionRefused, match="divided"):
        stand.start()


def test_gate_that_reads_a_comparison_needs_copies(stand: RolloutStand) -> None:
    """It would wait for ever otherwise; the refusal says how to make them."""
    plan = RolloutPlan(gates={"loss": 0.01, "errors": 0.02})
    with pytest.raises(TransitionRefused, match=r"gate loss .* --stable 1 --shadow 2"):
        stand.start(plan=plan)
    assert stand.told() == []

    stand.route(TrafficOrder(stable="1", shadows=(ShadowOrder(version="2"),)))
    assert stand.start(plan=plan).state is RolloutState.PENDING


def test_only_operators_turn_a_rollout_and_strangers_see_none(stand: RolloutStand) -> None:
    """A pause changes no traffic and is an operator's all the same."""
    stand.start()
    stand.turn(Turn.READY)
    with pytest.raises(Forbidden):
        stand.turn(Turn.PAUSE, actor=person("eve", Role.DEVELOPER))
    with pytest.raises(ModelNotFound):
        stand.start(actor=person("eve", Role.CALLER))
    assert stand.newest().state is RolloutState.RUNNING


def test_sh_11_rollback_to_a_version_that_may_not_serve_chooses_the_last_good_one(
    stand: RolloutStand,
) -> None:
    """1 answered before 3 did; 3's signer is revoked, so 1 comes back, and an alarm is told."""
    stand.route(TrafficOrder(stable="3"))
    stand.start()
    stand.turn(*PROMOTED)
    stand.refuse(["3"])
    done = stand.turn(Turn.ROLL_BACK)

    assert (done.settled, stand.shares()) == ("1", ("1", {}))
    assert "rollout:target:refused" in stand.told()
    assert "registry:version:restored" in stand.told("registry:version:*")


def test_sh_11_nothing_good_to_go_back_to_is_refused(stand: RolloutStand) -> None:
    """Better the candidate than nobody; the traffic stays."""
    stand.start()
    stand.turn(*PROMOTED)
    stand.refuse(["1", "3"])
    with pytest.raises(TransitionRefused, match="nothing to go back to"):
        stand.turn(Turn.ROLL_BACK)
    assert stand.shares() == ("2", {})


def test_sh_11_candidate_whose_approval_is_taken_back_leaves_to_the_old_version(
    stand: RolloutStand,
) -> None:
    """The registry takes its traffic at once; the rollout gives it to what answered before."""
    stand.start()
    stand.turn(*PROMOTED)
    stand.stand.take(Step.REVOKE, "2")
    before = stand.shares()
    done = stand.turn(Turn.BREAK, cause=Cause(gate="release"))

    assert (before, stand.shares(), done.settled) == (("", {}), ("1", {}), "1")


def test_completed_rollout_that_was_replaced_is_not_rolled_back(stand: RolloutStand) -> None:
    """Another version answers by now: there is nothing to take back."""
    stand.start()
    stand.turn(*PROMOTED)
    stand.route(TrafficOrder(stable="3"))
    with pytest.raises(TransitionRefused, match="nothing to roll back"):
        stand.turn(Turn.ROLL_BACK)
    assert stand.shares() == ("3", {})


def test_p24_turn_that_fails_leaves_no_row_no_traffic_and_no_event(stand: RolloutStand) -> None:
    """All of it is one transaction."""
    stand.start()
    before = (stand.newest(), stand.traffic(), stand.told("*"))

    def killed(connection: Connection) -> None:
        stand.rollouts.turn(connection, before[0].id, Turn.READY, Cause(), actor=ADA)
        raise RuntimeError("killed before the end")

    with pytest.raises(TransitionRefused):
        stand.turn(Turn.RESUME)
    with pytest.raises(RuntimeError):
        stand.database.run(killed)

    assert (stand.newest(), stand.traffic(), stand.told("*")) == before


def test_copies_and_testers_survive_a_rollout(stand: RolloutStand) -> None:
    """A rollout moves weights; who gets copies is somebody else's decision."""
    copies = (ShadowOrder(version="2", share=0.5), ShadowOrder(version="3"))
    stand.route(TrafficOrder(stable="1", shadows=copies, testers=("tess",)))
    stand.start()
    stand.turn(Turn.READY, Turn.ADVANCE)
    during = stand.traffic()
    stand.turn(Turn.FINISH)
    after = stand.traffic()

    assert (during.shadows, during.testers) == (copies, ("tess",))
    assert (after.shadows, after.testers) == (copies[1:], ("tess",))
