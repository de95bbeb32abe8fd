"""Rollouts conducted in virtual time: advanced by good figures, ended by bad ones, killed and resumed."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from serving.audit.reading import Filter, find
from serving.core.principals import Role
from serving.errors import Forbidden
from serving.governance.comparisons import ComparisonReport
from serving.governance.rollout_plans import PlanStep, RolloutPlan
from serving.governance.rollout_states import Turn
from serving.inference.registration import PhaseReport
from serving.ledger.pairs import PairCounts
from serving.monitoring.figures import Decision, Figure
from serving.monitoring.specification import ComparisonSpecification
from serving.registry.lifecycle import Step
from serving.registry.orders import TrafficOrder
from serving.registry.shares import ShadowOrder
from tests.control.hall import Hall
from tests.places import eventually
from tests.registries import ADA, person

AT_TEN = RolloutPlan(
    steps=(PlanStep(weight=0.1, hold_s=10), PlanStep(weight=0.5, hold_s=10)), warm_s=20
)
LATER_NS = 2**62
"""After everything that happens in a test."""


@pytest.fixture
async def hall(tmp_path: Path) -> AsyncIterator[Hall]:
    hall = Hall(tmp_path)
    await hall.tick(2)
    yield hall
    hall.close()


def newest_event(hall: Hall, name: str) -> dict[str, object]:
    """What the newest event of this name says."""
    (event,) = find(hall.registry.database, Filter(name=name, limit=1))
    assert isinstance(event.after, dict)
    return event.after


async def test_good_candidate_takes_over_step_by_step(hall: Hall) -> None:
    """1 %, 10 %, 50 %, everything: each weight for its time, never another one."""
    steps = tuple(
        PlanStep(weight=weight, hold_s=20, min_requests=30) for weight in (0.01, 0.1, 0.5)
    )
    hall.registry.start(plan=RolloutPlan(steps=steps))
    seen = [hall.published]
    for _ in range(100):
        await hall.tick()
        if hall.published != seen[-1]:
            seen.append(hall.published)

    assert seen == [0.0, 0.01, 0.1, 0.5, 1.0]
    assert hall.state() == "completed"
    assert [each.version for each in hall.publisher.current.versions] == ["1", "2"]
    assert 60 < (hall.registry.newest().ended_ns - hall.registry.newest().created_ns) / 1e9 < 90


async def test_too_few_requests_hold_a_rollout(hall: Hall) -> None:
    """Its time is over, and it waits at its weight, saying for what, until there are enough."""
    hall.asked_each_s = 20
    hall.registry.start(plan=AT_TEN)
    await hall.until(lambda: hall.state() == "holding")
    reason, weight = hall.registry.newest().reason, hall.published
    hall.asked_each_s = 2000
    await hall.until(lambda: hall.published == 0.5)

    assert ("of 100 requests" in reason, weight) == (True, 0.1)


@pytest.mark.parametrize(
    ("failing", "slow_s", "gate"),
    [(1.0, 0.004, "errors"), (0.2, 0.004, "errors"), (0.0, 0.3, "latency")],
)
async def test_sh_08_degraded_candidate_at_ten_percent_is_out_within_30_s(
    hall: Hall, failing: float, slow_s: float, gate: str
) -> None:
    """The gate, its counts and its limit are in the trail; version 1 answers everything."""
    hall.registry.start(plan=AT_TEN)
    await hall.until(lambda: hall.state() == "running")
    await hall.tick(5)
    hall.failing["2"], hall.slow_s["2"] = failing, slow_s
    took_s = await hall.until(lambda: not hall.published, within_s=30)

    assert took_s <= 30
    assert hall.state() == "rolled_back"
    told = newest_event(hall, "rollout:canary:rolled_back")
    evidence = told["evidence"]
    assert isinstance(evidence, list)
    assert told["gate"] == gate
    broken = next(each for each in evidence if each["gate"] == gate)
    assert broken["status"] == "breach"
    assert broken["value"] > broken["limit"]
    assert broken["n"] > 0


async def test_sh_08_candidate_that_goes_bad_late_in_a_long_step_is_out_as_soon(hall: Hall) -> None:
    """An hour of good answers buys nobody time."""
    long = PlanStep(weight=0.1, hold_s=7200, min_requests=100)
    hall.registry.start(plan=RolloutPlan(steps=(long,)))
    await hall.until(lambda: hall.state() == "running")
    hall.asked_each_s = 20_000
    await hall.tick(60)
    hall.asked_each_s = 200
    hall.failing["2"] = 0.3

    assert await hall.until(lambda: not hall.published) <= 30


async def test_sh_08_candidate_that_does_not_come_up_gets_no_traffic_and_is_given_up(
    hall: Hall,
) -> None:
    """Nobody was asked to wait for it; the trail says why."""
    hall.alive.discard("2")
    hall.registry.start()
    await hall.tick(20)
    during = (hall.state(), hall.published)
    await hall.until(lambda: hall.state() == "rolled_back", within_s=30)

    assert during == ("pending", 0.0)
    assert newest_event(hall, "rollout:canary:rolled_back")["gate"] == "warm_up"
    assert "did not come up within 30 s" in hall.registry.newest().reason


async def test_sh_08_candidate_that_its_replica_refuses_is_given_up_at_once(hall: Hall) -> None:
    """A digest that is not the approved one never answers."""
    hall.alive.discard("2")
    hall.registry.start()
    await hall.tick()
    hall.plane.report_phase(PhaseReport("fraud", "2", "refused", reason="another digest"))
    await hall.tick()

    assert (hall.state(), hall.registry.newest().gate) == ("rolled_back", "release")


async def test_sh_08_candidate_that_loses_all_replicas_is_out_at_the_next_look(hall: Hall) -> None:
    """Health failed after it had served for 30 s; the old one keeps serving."""
    hall.registry.start()
    await hall.until(lambda: hall.state() == "running")
    await hall.tick(30)
    hall.alive.discard("2")
    await hall.tick()

    assert (hall.state(), hall.published) == ("rolled_back", 0.0)
    assert hall.registry.newest().gate == "replicas"


async def test_sh_09_machine_that_loses_every_replica_blames_nobody(hall: Hall) -> None:
    """When all are gone together the rollout goes on where it was, once they are back."""
    hall.registry.start(plan=AT_TEN)
    await hall.until(lambda: hall.state() == "running")
    hall.alive.clear()
    await hall.tick(10)
    during = hall.state()
    hall.alive.update({"1", "2"})
    await hall.until(lambda: hall.state() == "completed")

    assert during == "running"


async def test_sh_09_gate_that_breaks_while_the_database_is_away_is_obeyed_at_once(
    hall: Hall,
) -> None:
    """Gateways are told in the same second; registry and trail follow when it is back, once."""
    hall.registry.start(plan=AT_TEN)
    await hall.until(lambda: hall.state() == "running")
    hall.hide_database()
    hall.failing["2"] = 1.0
    await hall.until(lambda: not hall.published, within_s=30)
    kept = (hall.folder / "rollbacks.json").exists()
    await hall.tick(5)
    still_out = hall.published
    hall.return_database()
    before = hall.state()
    await hall.tick(3)

    assert (kept, still_out, before) == (True, 0.0, "running")
    assert (hall.state(), hall.registry.newest().gate) == ("rolled_back", "errors")
    assert hall.registry.told("rollout:canary:rolled_back") == ["rollout:canary:rolled_back"]
    assert not (hall.folder / "rollbacks.json").exists()
    assert hall.published == 0.0
    assert hall.conductor.rollbacks["fraud", "errors"] == 1


async def test_sh_09_control_killed_between_gateways_and_registry_finishes_the_rollback(
    hall: Hall,
) -> None:
    """What gateways were told is on disk; the next process begins with it and writes it down."""
    hall.registry.start(plan=AT_TEN)
    await hall.until(lambda: hall.state() == "running")
    hall.hide_database()
    hall.failing["2"] = 1.0
    await hall.until(lambda: not hall.published, within_s=30)
    hall.kill()
    hall.failing.clear()
    hall.return_database()
    seen = set()
    for _ in range(5):
        await hall.tick()
        seen.add(hall.published)

    assert (seen, hall.state()) == ({0.0}, "rolled_back")


@pytest.mark.parametrize("every_s", [11, 23])
async def test_sh_09_control_killed_again_and_again_goes_on_where_it_was(
    hall: Hall, every_s: int
) -> None:
    """No step is taken twice, none is left out, and traffic never goes back by itself."""
    hall.registry.start(plan=AT_TEN)
    seen = [0.0]
    for second in range(1, 200):
        await hall.tick()
        if hall.published != seen[-1]:
            seen.append(hall.published)
        if second % every_s == 0:
            hall.kill()
        if hall.state() == "completed":
            break

    assert seen == [0.0, 0.1, 0.5, 1.0]
    assert [each.turn.value for each in hall.registry.newest().history][-1] == "arrive"


async def test_sh_09_disk_that_is_full_does_not_stop_a_rollback(hall: Hall) -> None:
    """Where the overlay cannot be kept gateways are told all the same."""
    hall.registry.start(plan=AT_TEN)
    await hall.until(lambda: hall.state() == "running")
    (hall.folder / "rollbacks.new").mkdir()
    hall.failing["2"] = 1.0
    await hall.until(lambda: hall.state() == "rolled_back", within_s=30)

    assert hall.published == 0.0


async def test_sums_that_fall_break_nothing_and_advance_nothing(hall: Hall) -> None:
    """A gateway that forgot what it had told is no evidence against a candidate, nor for it."""
    hall.registry.start(plan=AT_TEN)
    await hall.until(lambda: hall.published == 0.5)
    await hall.tick(2)
    before = hall.conductor.seen["fraud"].sight.requests
    hall.forget()
    hall.slow_s["2"] = 0.0001  # Its lower buckets are fuller than they were.
    await hall.tick()
    after = hall.conductor.seen["fraud"].sight.requests
    await hall.tick(5)

    assert (hall.state(), hall.published) == ("running", 0.5)
    assert before > after == 0


async def test_fault_in_judging_does_not_end_control(hall: Hall) -> None:
    """The rollout waits, and is judged again at the next look."""
    hall.registry.start(plan=AT_TEN)
    await hall.until(lambda: hall.state() == "running")
    hall.fault = RuntimeError("a bug")
    conducting = asyncio.create_task(hall.conductor.run())
    await eventually(lambda: hall.faults >= 1)
    hall.conductor.nudge()
    await eventually(lambda: hall.faults >= 2)
    conducting.cancel()  # From here on it turns when the hall says so, and nobody beside.
    (ending,) = await asyncio.gather(conducting, return_exceptions=True)
    hall.fault = None
    hall.failing["2"] = 1.0
    await hall.until(lambda: hall.state() == "rolled_back", within_s=30)

    assert isinstance(ending, asyncio.CancelledError)


async def test_paused_rollout_stays_and_is_still_watched(hall: Hall) -> None:
    """Nothing advances; a gate that breaks ends it all the same."""
    hall.registry.start(plan=AT_TEN)
    await hall.until(lambda: hall.state() == "running")
    hall.order(Turn.PAUSE)
    await hall.tick(30)
    during = (hall.state(), hall.published)
    hall.failing["2"] = 1.0
    await hall.until(lambda: hall.state() == "rolled_back", within_s=30)

    assert during == ("paused", 0.1)


async def test_resumed_rollout_holds_its_step_anew(hall: Hall) -> None:
    """A pause is no way to shorten a step."""
    hall.registry.start(plan=AT_TEN)
    await hall.until(lambda: hall.state() == "running")
    await hall.tick(8)
    hall.order(Turn.PAUSE)
    await hall.tick(15)
    hall.order(Turn.RESUME)
    await hall.tick(8)
    during = hall.published
    await hall.tick(5)

    assert (during, hall.published) == (0.1, 0.5)


async def test_rollback_after_completion_needs_no_deployment(hall: Hall) -> None:
    """The old version is warm: it never left the snapshot, and answers again with the next one."""
    hall.registry.start(plan=AT_TEN)
    await hall.until(lambda: hall.state() == "completed")
    await hall.tick(15)
    warm = [each.version for each in hall.publisher.current.versions]
    hall.order(Turn.ROLL_BACK)
    await hall.tick()

    assert (warm, hall.policy.stable, hall.published) == (["1", "2"], "1", 0.0)


async def test_warm_time_ends_and_the_old_version_goes(hall: Hall) -> None:
    """After `warm_s` nothing holds it any more."""
    hall.registry.start(plan=AT_TEN)
    await hall.until(lambda: hall.state() == "completed")
    await hall.tick(25)

    assert [each.version for each in hall.publisher.current.versions] == ["2"]


async def test_sh_08_promoted_candidate_is_watched_while_the_old_version_is_warm(
    hall: Hall,
) -> None:
    """It dies after the promotion; the old one answers again by itself."""
    hall.registry.start(plan=AT_TEN)
    await hall.until(lambda: hall.state() == "completed")
    await hall.tick(10)
    hall.alive.discard("2")
    await hall.tick()

    assert (hall.state(), hall.policy.stable) == ("rolled_back", "1")


@pytest.mark.parametrize("how", ["signature", "approval"])
async def test_sh_11_candidate_that_may_not_serve_any_more_is_out(hall: Hall, how: str) -> None:
    """Its signer is revoked, or its approval is taken back: gate `release`, told to everybody."""
    hall.registry.start(plan=AT_TEN)
    await hall.until(lambda: hall.state() == "running")
    if how == "signature":
        hall.verdicts.refused["fraud@2"] = "its signer was revoked"
    else:
        hall.registry.stand.take(Step.REVOKE, "2")
    await hall.tick(2)

    done = hall.registry.newest()
    assert (done.state, done.gate, hall.published) == ("rolled_back", "release", 0.0)


async def test_sh_11_promoted_candidate_that_may_not_serve_leaves_to_the_last_good_one(
    hall: Hall,
) -> None:
    """3 answered before, and may not serve either: 1 is chosen, and an alarm is told."""
    hall.registry.stand.route("3")
    await hall.tick(5)
    hall.registry.start(plan=AT_TEN)
    await hall.until(lambda: hall.state() == "completed")
    hall.registry.refuse(["3"])
    hall.registry.stand.take(Step.REVOKE, "2")
    await hall.tick(3)

    assert (hall.state(), hall.policy.stable) == ("rolled_back", "1")
    assert "rollout:target:refused" in hall.registry.told()


async def test_traffic_set_by_hand_aborts_a_rollout(hall: Hall) -> None:
    """It is seen at the next look, and what was set stays."""
    hall.registry.start(plan=AT_TEN)
    await hall.until(lambda: hall.state() == "running")
    hall.registry.route(TrafficOrder(stable="1"))
    await hall.tick(2)

    assert (hall.state(), hall.published) == ("aborted", 0.0)


async def test_rollback_by_hand_works_while_the_database_is_away(hall: Hall) -> None:
    """Gateways are told at once; who wanted it, and why, is in the trail afterwards."""
    hall.registry.start(plan=AT_TEN)
    await hall.until(lambda: hall.state() == "running")
    hall.hide_database()
    with pytest.raises(Forbidden):
        hall.conductor.retreat("fraud", actor=person("eve", Role.DEVELOPER), reason="because")
    hall.conductor.retreat("fraud", actor=ADA, reason="complaints")
    at_once = hall.published
    hall.return_database()
    await hall.tick(2)

    done = hall.registry.newest()
    assert (at_once, done.state, done.reason) == (0.0, "rolled_back", "complaints")
    assert done.history[-1].actor == "ada"


def a_report(
    low: float, *, primary: str = "1", stated: bool = True, at_ns: int = LATER_NS
) -> ComparisonReport:
    """Answers that differ from those of the primary at least so often."""
    figure = Figure(
        name="y.tolerance",
        n=1000,
        estimate=low + 0.01,
        low=low,
        high=low + 0.02,
        limit=0.01,
        status="breach" if low > 0.01 else "ok",
    )
    return ComparisonReport(
        model="fraud",
        primary=primary,
        candidate="2",
        primary_digest="",
        candidate_digest="",
        source="live",
        specification={},
        specification_digest="stated" if stated else ComparisonSpecification().digest(),
        decision=Decision(outcome="hold", reasons=(), final=False, pairs=1000, outcomes=0),
        figures=(figure,),
        counts=PairCounts(),
        at_ns=at_ns,
    )


@pytest.mark.parametrize(
    ("gates", "report", "gate"),
    [
        ({"disagreement": 0.05}, a_report(0.1, stated=False), "disagreement"),
        ({}, a_report(0.1), "comparison"),
        ({}, a_report(0.1, stated=False), ""),
        ({"disagreement": 0.05}, a_report(0.1, primary="3"), None),
        ({"disagreement": 0.05}, a_report(0.1, at_ns=1), None),
        ({"disagreement": 0.2}, a_report(0.1, stated=False), ""),
    ],
)
async def test_comparison_breaks_a_gate_that_is_named_or_whose_limit_is_stated(
    hall: Hall, gates: dict[str, float], report: ComparisonReport, gate: str | None
) -> None:
    """One that is read and ok lets the rollout pass; one of another primary, or from before the rollout
    (which other rules may have made), says nothing, and waits."""
    hall.report = report
    hall.registry.route(TrafficOrder(stable="1", shadows=(ShadowOrder(version="2"),)))
    hall.registry.start(plan=msgspec.structs.replace(AT_TEN, gates=gates))
    await hall.until(lambda: hall.state() in ("rolled_back", "completed", "holding"))

    done = hall.registry.newest()
    assert (done.state, done.gate) == {
        None: ("holding", ""),
        "": ("completed", ""),
    }.get(gate, ("rolled_back", gate))


async def test_sh_11_promoted_candidate_goes_on_where_nothing_else_may_serve(hall: Hall) -> None:
    """It lost its replicas, and no earlier version may serve: said once, and traffic is left alone."""
    hall.registry.start(plan=AT_TEN)
    await hall.until(lambda: hall.state() == "completed")
    hall.registry.refuse(["1", "3"])
    hall.verdicts.refused["fraud@1"] = "its signer was revoked"
    await hall.tick()
    hall.alive.discard("2")
    await hall.tick(5)

    assert (hall.state(), hall.policy.stable) == ("completed", "2")
    assert hall.registry.told("rollout:canary:rolled_back") == []
    assert hall.conductor.rollbacks["fraud", "replicas"] <= 1
