"""Rollouts in a storm: whatever happens in whatever order, traffic is never left half-way."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import RegistryUnavailable, StateConflict, TransitionRefused
from serving.governance.rollout_plans import PlanStep, RolloutPlan
from serving.governance.rollout_states import Turn
from serving.registry.journal import Claim
from serving.registry.lifecycle import Step
from serving.registry.orders import TrafficOrder
from tests.control.hall import Hall

PLAN = RolloutPlan(
    steps=(
        PlanStep(weight=0.1, hold_s=3, min_requests=20),
        PlanStep(weight=0.5, hold_s=3, min_requests=20),
    ),
    warm_s=8,
)
SHARES = {0.0, 0.1, 0.5, 1.0}
EVENTS = (
    "wait", "wait", "start", "fail", "mend", "hide", "return", "kill", "lose", "find",
    "pause", "resume", "promote", "roll_back", "hand",
)  # fmt: skip


class Storm:
    """A hall, and everything that can befall it. by_hand: the traffic is an operator's own."""

    def __init__(self, hall: Hall) -> None:
        self.hall = hall
        self.is_away = False

    async def befall(self, event: str) -> None:
        hall = self.hall
        events: dict[str, Callable[[], object]] = {
            "fail": lambda: hall.failing.update({"2": 1.0}),
            "mend": hall.failing.clear,
            "hide": self.take_away,
            "return": self.bring_back,
            "kill": hall.kill,
            "lose": lambda: hall.alive.discard("2"),
            "find": lambda: hall.alive.add("2"),
            "hand": lambda: hall.registry.route(TrafficOrder(stable="1")),
            "start": lambda: hall.registry.start(plan=PLAN),
        }
        if event == "wait":
            await hall.tick(3)
        elif event in events:
            events[event]()
        else:
            hall.order(Turn(event))
        await hall.tick()

    def take_away(self) -> None:
        if not self.is_away:
            self.hall.hide_database()
            self.is_away = True

    def bring_back(self) -> None:
        if self.is_away:
            self.hall.return_database()
            self.is_away = False


@settings(max_examples=6, deadline=None, derandomize=True)
@given(events=st.lists(st.sampled_from(EVENTS), max_size=14))
async def test_sh_09_no_storm_leaves_traffic_half_way(events: list[str]) -> None:
    """At every look a share is one of the plan's, and when it is over, a rollback is one turn away."""
    with tempfile.TemporaryDirectory() as folder:
        hall = Hall(Path(folder))
        storm = Storm(hall)
        await hall.tick(2)
        hall.registry.start(plan=PLAN)
        for event in events:
            try:
                await storm.befall(event)
            except (RegistryUnavailable, StateConflict):
                await hall.tick()
            assert hall.published in SHARES
        storm.bring_back()
        hall.alive.add("2")
        await hall.tick(2)
        rollout = hall.registry.newest()
        assert rollout.is_active or hall.published in (0.0, 1.0)
        assert not hall.overlay.entries
        if rollout.is_active or hall.published:
            hall.order(Turn.ROLL_BACK)
        await hall.tick(2)
        assert (hall.policy.stable, hall.published) == ("1", 0.0)
        hall.close()


class Verdicts:
    """A guard that lets nothing be promoted before there is a verdict."""

    def __init__(self) -> None:
        self.is_there = False

    def check(self, connection: object, claim: Claim) -> None:
        del connection
        if claim.transition.step is Step.PROMOTE and not self.is_there:
            raise TransitionRefused("missing: evidence verdict: there is none")


async def test_promotion_without_a_verdict_waits_at_the_last_step(tmp_path: Path) -> None:
    """It says what is missing, and goes on as soon as that is there."""
    hall, guard = Hall(tmp_path), Verdicts()
    await hall.tick(2)
    hall.registry.start(plan=PLAN)
    hall.registry.guard.inner = guard
    await hall.until(lambda: hall.state() == "holding")
    reason, weight = hall.registry.newest().reason, hall.published
    await hall.tick(3)
    guard.is_there = True
    await hall.until(lambda: hall.state() == "completed")
    hall.close()

    assert ("evidence verdict" in reason, weight) == (True, 0.5)


async def test_sh_11_roll_back_needs_no_new_verdict(tmp_path: Path) -> None:
    """What has answered before comes back with its approvals alone."""
    hall = Hall(tmp_path)
    await hall.tick(2)
    hall.registry.start(plan=PLAN)
    await hall.until(lambda: hall.state() == "completed")
    hall.registry.guard.inner = Verdicts()
    with pytest.raises(TransitionRefused):
        hall.registry.route(TrafficOrder(stable="1"))
    hall.order(Turn.ROLL_BACK)
    await hall.tick()
    hall.close()

    assert hall.policy.stable == "1"
