"""Traffic moves one step at a time, and never to what is not there."""

from dataclasses import replace

import pytest

from serving.control.desired import Desired
from serving.control.rollout import SETTLE_S, Rollout, Stage
from serving.core.clock import ManualClock
from serving.core.models import ModelName, VersionName
from serving.core.traffic import Arm, Shadow, Snapshot, TrafficPolicy
from tests.plans import a_plan, a_version, an_endpoint

DRAIN_S = 3.0
LIVE_1, LIVE_2 = an_endpoint("a"), an_endpoint("b", version="2")


def wanting(stable: str, *shadows: str, refused: str = "") -> Desired:
    """Doubler answered by `stable`. refused: a version that must not run."""
    names = [name for name in (stable, *shadows) if name != refused]
    policy = TrafficPolicy(
        ModelName("doubler"),
        VersionName(stable),
        tuple(Shadow(VersionName(each)) for each in shadows),
    )
    return Desired(
        tuple(a_plan(version=name) for name in names),
        (policy,),
        refusals={f"doubler@{refused}": "no approvals"} if refused else {},
    )


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def rollout(clock: ManualClock) -> Rollout:
    """Version 1 answers and has settled."""
    rollout = Rollout(drain_s=DRAIN_S, clock=clock, before=None)
    rollout.look(wanting("1"), [LIVE_1])
    clock.advance(SETTLE_S)
    return rollout


def what(stage: Stage) -> tuple[str, tuple[str, ...], set[str]]:
    """Who answers, who shadows, what is published."""
    (policy,) = stage.policies
    shadows = tuple(each.version for each in policy.shadows)
    return policy.stable, shadows, {each.version for each in stage.versions}


def test_first_of_all_everything_desired_is_published(clock: ManualClock) -> None:
    """Gateways of a new instance learn what they are to wait for."""
    rollout = Rollout(drain_s=DRAIN_S, clock=clock, before=None)

    assert what(rollout.look(wanting("1", "2"), [])) == ("1", ("2",), {"1", "2"})


def test_version_without_a_replica_gets_no_traffic(rollout: Rollout, clock: ManualClock) -> None:
    """However long that takes, the last good one answers; gateways know nothing of the other."""
    for _ in range(3):
        clock.advance(100)
        assert what(rollout.look(wanting("2"), [LIVE_1])) == ("1", (), {"1"})


def test_swap_takes_its_steps_in_order(rollout: Rollout, clock: ManualClock) -> None:
    """Connect, move, drain, forget; each look says when the next step is due."""
    connect = rollout.look(wanting("2"), [LIVE_1, LIVE_2])
    clock.advance(SETTLE_S)
    move = rollout.look(wanting("2"), [LIVE_1, LIVE_2])
    clock.advance(DRAIN_S - 0.1)
    drain = rollout.look(wanting("2"), [LIVE_1, LIVE_2])
    clock.advance(0.1)
    forget = rollout.look(wanting("2"), [LIVE_1, LIVE_2])

    assert [what(each) for each in (connect, move, drain, forget)] == [
        ("1", (), {"1", "2"}),
        ("2", (), {"1", "2"}),
        ("2", (), {"1", "2"}),
        ("2", (), {"2"}),
    ]
    assert [each.due_ns is None for each in (connect, move, drain, forget)] == [
        False, False, False, True,
    ]  # fmt: skip
    assert drain.keys == {"doubler@1", "doubler@2"}


def test_version_that_comes_back_while_it_drains_answers_at_once(
    rollout: Rollout, clock: ManualClock
) -> None:
    """A roll-back within the drain needs no deployment and no wait."""
    both = [LIVE_1, LIVE_2]
    rollout.look(wanting("2"), both)
    clock.advance(SETTLE_S)
    rollout.look(wanting("2"), both)

    assert what(rollout.look(wanting("1"), both)) == ("1", (), {"1", "2"})


def test_roles_change_places(rollout: Rollout, clock: ManualClock) -> None:
    """A shadow that is promoted stays a shadow until traffic moves to it."""
    both = [LIVE_1, LIVE_2]
    rollout.look(wanting("1", "2"), both)
    clock.advance(SETTLE_S)
    shadowed = rollout.look(wanting("1", "2"), both)
    swapped = rollout.look(wanting("2", "1"), both)

    assert what(shadowed) == ("1", ("2",), {"1", "2"})
    assert what(swapped) == ("2", ("1",), {"1", "2"})


def test_new_shadow_is_published_when_it_lives(rollout: Rollout, clock: ManualClock) -> None:
    """Readiness of the gateways does not wait for a candidate that does not come up."""
    before = rollout.look(wanting("1", "2"), [LIVE_1])
    rollout.look(wanting("1", "2"), [LIVE_1, LIVE_2])
    clock.advance(SETTLE_S)
    after = rollout.look(wanting("1", "2"), [LIVE_1, LIVE_2])

    assert (what(before), what(after)) == (("1", (), {"1"}), ("1", ("2",), {"1", "2"}))


def test_model_that_is_added_is_known_when_it_can_answer(
    rollout: Rollout, clock: ManualClock
) -> None:
    """Until then it is none, so that nobody waits for it."""
    twin = TrafficPolicy(ModelName("twin"), VersionName("1"))
    one = wanting("1")
    two = Desired((*one.plans, a_plan("twin")), (*one.policies, twin))
    endpoint = an_endpoint("c", model="twin")

    before = rollout.look(two, [LIVE_1])
    rollout.look(two, [LIVE_1, endpoint])
    clock.advance(SETTLE_S)
    after = rollout.look(two, [LIVE_1, endpoint])

    assert ([each.model for each in before.policies], len(before.versions)) == (["doubler"], 1)
    assert [each.model for each in after.policies] == ["doubler", "twin"]


def test_model_that_goes_drains_too(rollout: Rollout, clock: ManualClock) -> None:
    """It is asked for nothing more at once, and forgotten after its drain."""
    first = rollout.look(Desired(), [LIVE_1])
    clock.advance(DRAIN_S)
    last = rollout.look(Desired(), [LIVE_1])

    assert (first.policies, set(first.keys), set(last.keys)) == ((), {"doubler@1"}, set())


def splitting(stable: str, *arms: str, refused: str = "") -> Desired:
    """Doubler answered by `stable` but for a tenth for each arm."""
    plain = wanting(stable, *arms, refused=refused)
    shares = tuple(Arm(VersionName(each), 1000) for each in arms)
    return replace(plain, policies=(replace(plain.policies[0], shadows=(), arms=shares),))


def arms(stage: Stage) -> tuple[str, tuple[str, ...]]:
    (policy,) = stage.policies
    return policy.stable, tuple(each.version for each in policy.arms)


def test_arm_gets_its_share_when_gateways_are_connected(
    rollout: Rollout, clock: ManualClock
) -> None:
    """Deployed, then published without traffic, then named; it stays named when its replica dies."""
    both = [LIVE_1, LIVE_2]
    deployed = rollout.look(splitting("1", "2"), [LIVE_1])
    connected = rollout.look(splitting("1", "2"), both)
    clock.advance(SETTLE_S)
    named = rollout.look(splitting("1", "2"), both)
    dead = rollout.look(splitting("1", "2"), [LIVE_1])

    assert [arms(each) for each in (deployed, connected, named, dead)] == [
        ("1", ()), ("1", ()), ("1", ("2",)), ("1", ("2",)),
    ]  # fmt: skip
    assert {each.version for each in connected.versions} == {"1", "2"}


def test_arm_that_is_promoted_answers_all_at_once(rollout: Rollout, clock: ManualClock) -> None:
    """It has settled long ago: one look moves everything, and the old version drains."""
    both = [LIVE_1, LIVE_2]
    rollout.look(splitting("1", "2"), both)
    clock.advance(SETTLE_S)
    rollout.look(splitting("1", "2"), both)
    promoted = rollout.look(wanting("2"), both)

    assert (arms(promoted), {each.version for each in promoted.versions}) == (("2", ()), {"1", "2"})


def test_refused_arm_is_taken_away_at_once(rollout: Rollout, clock: ManualClock) -> None:
    """Even where its replica lives."""
    both = [LIVE_1, LIVE_2]
    rollout.look(splitting("1", "2"), both)
    clock.advance(SETTLE_S)
    rollout.look(splitting("1", "2"), both)
    stage = rollout.look(splitting("1", "2", refused="2"), both)

    assert (arms(stage), {each.version for each in stage.versions}) == (("1", ()), {"1"})


def test_warm_version_stays_published_without_traffic(rollout: Rollout, clock: ManualClock) -> None:
    """As long as there is a plan for it, long after it has drained."""
    both = [LIVE_1, LIVE_2]
    warm = Desired((a_plan(version="1"), a_plan(version="2")), wanting("1").policies)
    rollout.look(warm, both)
    clock.advance(10 * DRAIN_S)

    assert what(rollout.look(warm, both)) == ("1", (), {"1", "2"})


def test_refused_version_leaves_the_last_good_one(rollout: Rollout, clock: ManualClock) -> None:
    """No approved digest, no traffic: even where its replica lives."""
    clock.advance(100)

    stage = rollout.look(wanting("2", refused="2"), [LIVE_1, LIVE_2])

    assert what(stage) == ("1", (), {"1"})


def test_version_that_answers_and_is_refused_leaves_the_policy_alone(rollout: Rollout) -> None:
    """Callers are told to come back; none is answered by what must not run."""
    stage = rollout.look(wanting("1", refused="1"), [LIVE_1])

    assert what(stage) == ("1", (), set())


@pytest.mark.parametrize("answering", ["1", "2"])
def test_restart_goes_on_from_what_gateways_were_told(clock: ManualClock, answering: str) -> None:
    """Killed before or after traffic moved: either way it arrives, and nothing moves back."""
    versions = (a_version(version="1"), a_version(version="2"))
    policy = TrafficPolicy(ModelName("doubler"), VersionName(answering))
    both = [LIVE_1, LIVE_2]
    rollout = Rollout(
        drain_s=DRAIN_S, clock=clock, before=Snapshot(7, versions, (policy,), tuple(both))
    )

    first = rollout.look(wanting("2"), both)
    clock.advance(SETTLE_S)
    second = rollout.look(wanting("2"), both)
    clock.advance(DRAIN_S)
    last = rollout.look(wanting("2"), both)

    assert [what(each)[0] for each in (first, second, last)] == [answering, "2", "2"]
    assert last.keys == {"doubler@2"}
