"""Overload (RELIABILITY OV), in virtual time before a model of known capacity: 400 rows a second.

Deterministic, and as fast as the gateway's own code. What only a real machine can show, that health
and metrics stay reachable, runs against a process.
"""

import asyncio
from functools import partial
from pathlib import Path

import httpx
import pytest

from loadtests.fixed_capacity import CAPACITY_PER_S
from loadtests.openloop import OpenLoad, Step, run
from loadtests.targets import fixed_target
from serving.core.clock import SystemClock
from serving.core.predictions import Fate
from serving.core.principals import Role
from serving.core.traffic import Snapshot, TrafficPolicy
from serving.edge.problems import problem
from serving.errors import LogUnavailable, Overloaded, QueueFull, ServingError
from tests.gateway.simulation import CAPACITY, Caller, Outcome, World
from tests.gateway.stand import DOUBLER, MemoryLink, a_stand
from tests.plans import a_version

OBJECTIVE_S = 0.1
WARM_S = 1.0
END_S = 4.0


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def loaded(world: World, share: float) -> Outcome:
    """What became of a load of a share of the capacity, after a warm-up."""
    outcome = world.open_loop(share * CAPACITY, end_s=END_S)
    world.run(END_S + 2)
    return outcome.between(WARM_S, END_S)


@pytest.mark.parametrize("share", [0.5, 0.8, 1.0, 2.0, 5.0, 10.0])
def test_ov_01_goodput_survives_any_load(world: World, tmp_path: Path, share: float) -> None:
    """Up to ten times the capacity it is served in full, in time, and refusals come at once (P8)."""
    usual = loaded(World(tmp_path / "usual"), 0.8)
    outcome = loaded(world, share)

    goodput = outcome.rate_within(OBJECTIVE_S, over_s=END_S - WARM_S)
    refused = [caller for caller in outcome.asked if caller.refusals]
    assert goodput >= 0.95 * CAPACITY * min(share, 1) * (0.97 if share <= 1 else 1)
    assert outcome.quantile_s(0.99) <= min(2 * usual.quantile_s(0.99), OBJECTIVE_S)
    assert sum(caller.took_s > 0.05 for caller in refused) <= 0.01 * len(refused)
    assert outcome.codes <= {"queue_full"}


def test_ov_02_step_up_and_down_is_forgotten_at_once(world: World) -> None:
    """Five times the capacity for a while, and within a second everything is as before."""
    steps = [(0.5, 0, 3), (5, 3, 6), (0.5, 6, 9)]
    before, over, after = [
        world.open_loop(share * CAPACITY, start_s=start, end_s=end, seed=start + 1)
        for share, start, end in steps
    ]
    world.run(11)

    assert over.rate_within(OBJECTIVE_S, over_s=3) >= 0.95 * CAPACITY
    assert after.between(7, 9).success == 1
    assert after.between(7, 9).quantile_s(0.99) <= 1.1 * before.between(1, 3).quantile_s(0.99)


def test_ov_03_one_caller_at_20x_does_not_concern_others(world: World, tmp_path: Path) -> None:
    """The others' latency stays within 1.3 of what it is without it; the one is told so with 429."""
    alone = World(tmp_path / "alone")
    quiet = alone.open_loop(0.25 * CAPACITY, subject="bob", end_s=END_S, seed=2)
    alone.run(END_S + 2)
    normal = world.open_loop(0.25 * CAPACITY, subject="bob", end_s=END_S, seed=2)
    flood = world.open_loop(5 * CAPACITY, subject="ada", end_s=END_S, seed=3)
    world.run(END_S + 2)

    others, one = normal.between(WARM_S, END_S), flood.between(WARM_S, END_S)
    assert others.success >= 0.999
    assert others.quantile_s(0.99) <= 1.3 * quiet.between(WARM_S, END_S).quantile_s(0.99)
    assert "caller_limit" in one.codes
    assert one.rate_within(0.2, over_s=END_S - WARM_S) >= 0.65 * CAPACITY


def test_ov_03_five_callers_beside_a_flood(world: World) -> None:
    """Each of many that want less than their share gets all of it."""
    normals = [
        world.open_loop(0.1 * CAPACITY, subject=f"caller {each}", end_s=END_S, seed=each)
        for each in range(5)
    ]
    world.open_loop(2 * CAPACITY, subject="ada", end_s=END_S, seed=9)
    world.run(END_S + 2)

    assert min(each.between(WARM_S, END_S).success for each in normals) >= 0.99


def test_weights_share_an_overloaded_model(tmp_path: Path) -> None:
    """A caller with a weight of three is answered three times as often."""
    world = World(tmp_path, admission={"weights": {"gold": 3}})
    gold, tin = (
        world.open_loop(2 * CAPACITY, subject=subject, end_s=END_S, seed=seed).between(
            WARM_S, END_S
        )
        for seed, subject in enumerate(("gold", "tin"))
    )
    world.run(END_S + 2)

    assert len(gold.answered) / len(tin.answered) == pytest.approx(3, rel=0.05)


def test_ov_04_hot_model_does_not_concern_another(tmp_path: Path) -> None:
    """A model whose places are all taken refuses; another one answers as if nothing were."""
    stand = a_stand(tmp_path, admission={"max_in_flight_per_caller": 1000})
    cold = a_version("cold")
    policies = tuple(TrafficPolicy(each.model, each.version) for each in (DOUBLER, cold))
    stand.pipeline.apply(Snapshot(epoch=2, versions=(DOUBLER, cold), policies=policies))
    link = stand.connect(MemoryLink(), cold)
    for _ in range(512):
        stand.pipeline.infer(stand.client(subject="ada"))
    with pytest.raises(Overloaded, match="this model"):
        stand.pipeline.infer(stand.client(subject="bob"))

    client = stand.client(3, subject="ada")
    client.model = cold.model
    stand.send(client)
    link.answer()

    assert client.answers == [[6, 6]]


def test_ov_05_high_priority_comes_before_low(world: World) -> None:
    """At three times the capacity the urgent is all served; the rest gets what it leaves."""
    high = world.open_loop(0.8 * CAPACITY, end_s=END_S, seed=4, priority=1)
    low = world.open_loop(2.2 * CAPACITY, end_s=END_S, seed=5, priority=3)
    world.run(END_S + 2)

    urgent, rest = high.between(WARM_S, END_S), low.between(WARM_S, END_S)
    assert urgent.success >= 0.99
    assert urgent.quantile_s(0.99) < rest.quantile_s(0.99)
    assert len(urgent.answered) + len(rest.answered) >= 0.95 * CAPACITY * (END_S - WARM_S)


def test_ov_06_clients_that_retry_at_once_do_not_break_it(world: World) -> None:
    """150 callers that ask again 5 ms after every answer: what runs is still the capacity."""
    token = world.stand.issuer.issue(subject="ada", roles=[Role.CALLER])
    outcome = Outcome()

    def ask() -> None:
        now_s = world.clock.monotonic_ns() / 1e9
        caller = Caller(now_s, world.clock, len(outcome.asked), token=token)
        caller.then = again
        outcome.asked.append(caller)
        world.ask(caller)

    def again() -> None:
        world.events.after(0.005, ask)

    for _ in range(150):
        ask()
    world.run(1.5)

    settled = outcome.between(0.5, 1.4)
    assert settled.rate_within(1.2 * OBJECTIVE_S, over_s=0.9) >= 0.9 * CAPACITY
    assert world.queue.queued_rows <= 2 * 20


def test_ov_07_memory_is_bounded_by_bytes(tmp_path: Path) -> None:
    """Large requests are refused when they do not fit any more; small ones go on."""
    world = World(tmp_path, admission={"max_queued_bytes": 500_000})
    small = world.open_loop(0.1 * CAPACITY, subject="bob", end_s=END_S, seed=6)
    large = world.open_loop(20, subject="ada", end_s=END_S, seed=7, columns=60_000)
    most = 0
    for moment in range(1, 61):
        world.run(moment / 10)
        most = max(most, world.stand.pipeline.admission.in_flight_bytes)

    assert 240_000 < most <= 500_000
    assert "overloaded" in large.codes
    assert small.between(WARM_S, END_S).success >= 0.99


def test_ov_08_deadline_below_a_run_wastes_no_place(world: World) -> None:
    """10 ms for a model of 20: refused when it comes, but for one a second that finds out."""
    hopeless = world.open_loop(CAPACITY, end_s=END_S, timeout_s=0.01)
    world.run(END_S + 2)

    ran = sum(len(batch) for batch in world.replica.ran)
    assert hopeless.codes == {"deadline_exceeded"}
    assert ran <= 0.01 * END_S * CAPACITY + 8
    assert sorted(c.took_s for c in hopeless.asked)[-20] < 0.04
    assert world.late_rows == 0


def test_ov_08_tight_and_patient_callers_share_a_model(world: World) -> None:
    """Whoever has time gets an answer; nobody's row is run when its time has passed."""
    tight = world.open_loop(0.5 * CAPACITY, subject="bob", end_s=END_S, seed=8, timeout_s=0.045)
    patient = world.open_loop(0.5 * CAPACITY, subject="ada", end_s=END_S, seed=9, timeout_s=2.0)
    world.run(END_S + 3)

    assert patient.between(WARM_S, END_S).success >= 0.99
    assert tight.codes == {"deadline_exceeded"}
    assert all(caller.took_s <= 0.045 + 0.05 for caller in tight.asked)
    assert world.late_rows == 0


def test_ov_09_cancelled_requests_are_never_run(tmp_path: Path) -> None:
    """A thousand that left while they waited cost nothing: those behind them are served in full."""
    world = World(tmp_path, admission={"max_queue_wait_s": 60})
    gone = [*world.open_loop(100_000, end_s=0.01, subject="ada", timeout_s=30.0).asked][:1000]
    world.run(0.011)
    waiting = [caller for caller in gone if caller.call and caller.call.frame is None]
    for caller in waiting:
        caller.go_away()
    world.run(0.5)
    after = world.open_loop(CAPACITY * 0.8, start_s=0.5, end_s=2, subject="bob")
    world.run(4)

    ran = {value for batch in world.replica.ran for value in batch}
    fates = [record.fate for record in world.stand.log.records]
    assert len(waiting) > 800
    assert not ran & {caller.value for caller in waiting}
    assert fates.count(Fate.CLIENT_GONE) == len(waiting)
    assert after.success == 1
    assert after.quantile_s(0.99) < OBJECTIVE_S


def test_ov_10_memory_pressure_refuses_large_requests_first(tmp_path: Path) -> None:
    """At 90 % of the memory what is large stays out, at 95 % everything; below it all come in."""
    stand = a_stand(tmp_path)
    large, small = partial(stand.client, columns=20_000), stand.client

    stand.pipeline.admission.press(0.91)
    with pytest.raises(Overloaded, match="memory"):
        stand.pipeline.infer(large())
    stand.pipeline.infer(small())
    stand.pipeline.admission.press(0.96)
    with pytest.raises(Overloaded):
        stand.pipeline.infer(small())
    stand.pipeline.admission.press(0.5)
    stand.pipeline.infer(large())

    assert stand.pipeline.admission.in_flight == 2


def test_ov_11_log_that_is_slower_than_the_load_holds_it_back(tmp_path: Path) -> None:
    """Answers that wait for their records keep their places: newcomers are refused, memory is not
    taken; when the log says so itself nobody is let in at all."""
    world = World(tmp_path, admission={"max_in_flight": 100})
    world.stand.log.held = True
    outcome = world.open_loop(CAPACITY, end_s=1.0)
    world.run(1.5)
    assert world.stand.pipeline.admission.in_flight == 100
    assert outcome.codes == {"overloaded"}

    world.stand.log.commit()
    assert world.stand.pipeline.admission.in_flight == 0
    world.stand.log.refusal = LogUnavailable("the log is behind")
    late = world.open_loop(CAPACITY, start_s=2, end_s=2.1)
    world.run(3)

    assert late.codes == {"log_unavailable"}
    assert len(outcome.answered) == 100


@pytest.mark.faults
async def test_ov_12_health_and_metrics_at_ten_times_the_capacity(tmp_path: Path) -> None:
    """Under 200 ms each, and ready throughout: overload is no reason to be taken out of service."""

    def ask(url: str) -> list[tuple[int, float]]:
        """Statuses and times of the health routes, a few times a second."""
        heard = []
        clock = SystemClock()
        with httpx.Client(base_url=url, trust_env=False) as client:
            for _ in range(8):
                for route in ("/v2/health/live", "/v2/health/ready"):
                    began_ns = clock.monotonic_ns()
                    status = client.get(route).status_code
                    heard.append((status, (clock.monotonic_ns() - began_ns) / 1e9))
                clock.sleep(0.2)
        return heard

    with fixed_target(tmp_path) as target:
        url = f"http://{target.host}:{target.port}"
        load = OpenLoad(
            target.host, target.port, [target.request], [Step(10 * CAPACITY_PER_S, 2.5)], 128
        )
        outcome, heard = await asyncio.gather(
            asyncio.to_thread(run, load), asyncio.to_thread(ask, url)
        )

    assert {status for status, _ in heard} == {200}
    assert sorted(took_s for _, took_s in heard)[-2] < 0.2
    assert len(outcome.accepted.due_s) > CAPACITY_PER_S
    assert outcome.unanswered == 0


def test_rl_05_retry_after_is_whole_jittered_seconds() -> None:
    """At least one second, not the same for everybody: those refused together come back apart."""
    answers = [problem(QueueFull("full")) for _ in range(100)]

    waits = {int(answer.partition(b"Retry-After: ")[2].split(b"\r\n")[0]) for answer in answers}
    assert len(waits) > 1
    assert min(waits) >= 1
    assert len(set(answers)) > 90  # each with an id of its own


def test_rl_06_refusal_leaves_no_record_and_costs_little(tmp_path: Path) -> None:
    """Refused before admission: not in the log, told once, in less than 0.2 ms."""
    stand = a_stand(tmp_path, admission={"max_in_flight_per_model": 1})
    stand.pipeline.infer(stand.client())
    clients = [stand.client() for _ in range(200)]
    told: list[ServingError] = []
    clock = SystemClock()

    began_ns = clock.thread_ns()
    for client in clients:
        try:
            stand.pipeline.infer(client)
        except Overloaded as error:
            told.append(error)
            problem(error)
    spent_ns = clock.thread_ns() - began_ns

    assert (len(told), stand.log.records) == (200, [])
    assert spent_ns / 200 < 200_000
