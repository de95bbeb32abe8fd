"""Whoever waits, whatever comes: nobody is lost, nobody is favoured, no bound is passed.

Virtual time throughout. The first world is the order alone, the second a whole request path before a
replica of known capacity.
"""

import itertools
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.core.predictions import Fate
from serving.gateway.admission import Share
from serving.gateway.calls import Call
from serving.gateway.lanes import FrameRoom, weights_by_subject
from serving.gateway.queueing import WaitingCalls
from tests.gateway.simulation import Caller, World
from tests.gateway.stand import Stand, a_request, a_stand

FRAME_ROWS = 8
TARGET_NS = 50_000_000
MOST_IN_FLIGHT = 2 * 64  # rows of frames that may come back unrun
SUBJECTS = ("ada", "bob", "eve")
WEIGHTS = {"eve": 3.0}

arriving = st.tuples(
    st.just("arrive"),
    st.sampled_from(SUBJECTS),
    st.integers(1, 5),
    st.sampled_from([0, 0, 0, -1, 1]),
)
happening = st.tuples(
    st.sampled_from(["take", "leave", "put back", "pass time", "prune"]),
    st.just(""),
    st.integers(0, 40),
    st.just(0),
)
steps = st.lists(st.one_of(arriving, arriving, happening), max_size=80)

Step = tuple[str, str, int, int]


class Order:
    """Waiting calls with a model of them: a plain list in order of arrival."""

    def __init__(self, stand: Stand) -> None:
        self.waiting = WaitingCalls(weights_by_subject(WEIGHTS))
        self.waiting.target_ns = TARGET_NS
        self.expected: list[Call] = []
        self.taken: list[Call] = []
        self.now_ns = 0
        self._frame: list[Call] = []
        self._shares = {subject: Share(subject) for subject in SUBJECTS}
        self._stand = stand

    def happen(self, step: Step) -> None:
        what, subject, number, level = step
        if what == "arrive":
            self.arrive(subject, number, level)
        elif what == "take":
            self.take()
        elif what == "leave" and self.expected:
            call = self.expected.pop(number % len(self.expected))
            call.done = True
            self.waiting.forget(call)
        elif what == "put back" and self._frame:
            self.waiting.put_back(self._frame, self.now_ns)
            self.expected = [*self._frame, *self.expected]
            del self.taken[-len(self._frame) :]
            self._frame = []
        elif what == "prune":
            self.waiting.prune()
        elif what == "pass time":
            self.now_ns += number * 1_000_000

    def arrive(self, subject: str, rows: int, level: int) -> None:
        request = a_request(rows=rows)
        call = Call(self._stand.pipeline, self._stand.queue(), request, subject.encode())
        call.share, call.level = self._shares[subject], level
        call.since_ns, call.deadline_ns = self.now_ns, 2**62
        self.waiting.append(call)
        self.expected.append(call)

    def take(self) -> None:
        """A frame, checked against what must be true of any."""
        before = list(self.expected)
        room = FrameRoom(rows=FRAME_ROWS, size_bytes=10**6, now_ns=self.now_ns, horizon_ns=0)
        if sum(call.rows for call in before) > FRAME_ROWS:
            self.waiting.arrange(self.now_ns)
        self.waiting.take(room)
        calls = self._frame = room.calls
        assert bool(calls) == bool(before)
        assert sum(call.rows for call in calls) <= FRAME_ROWS or len(calls) == 1
        for subject in SUBJECTS:
            self._check_order(subject.encode(), before, calls)
        self.expected = [call for call in before if call not in calls]
        self.taken += calls

    def _check_order(self, principal: bytes, before: list[Call], calls: list[Call]) -> None:
        """Of a caller's calls of one level: the oldest in order, or the newest when one is stale."""
        for level in (-1, 0, 1):
            own = [c for c in before if c.principal == principal and c.level == level]
            got = [c for c in calls if c.principal == principal and c.level == level]
            stale = any(self.now_ns - call.since_ns > TARGET_NS for call in own)
            if not stale:
                assert got == own[: len(got)]
        levels = [call.level for call in calls if call.principal == principal]
        if self.waiting.in_lanes:
            assert levels == sorted(levels)


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Stand:
    return a_stand(tmp_path_factory.mktemp("stand"))


@settings(max_examples=300)
@given(steps=steps)
def test_every_call_leaves_once_and_in_its_order(stand: Stand, steps: list[Step]) -> None:
    """Whatever comes, leaves, is put back and ages: all that wait are taken, each once."""
    order = Order(stand)
    for step in steps:
        order.happen(step)
        waiting = [call for call in order.waiting if not call.done]
        assert Counter(map(id, waiting)) == Counter(map(id, order.expected))
    while order.expected:
        order.take()

    assert not [call for call in order.waiting if not call.done]
    assert max(Counter(map(id, order.taken)).values(), default=1) == 1


@given(
    queued=st.lists(
        st.tuples(st.sampled_from(SUBJECTS), st.integers(1, 5)), min_size=1, max_size=120
    )
)
def test_no_caller_is_ever_ahead_by_more_than_a_call_of_each(
    stand: Stand, queued: list[tuple[str, int]]
) -> None:
    """While two callers both wait, their rows by weight differ by at most one call of each."""
    order = Order(stand)
    for subject, rows in queued:
        order.arrive(subject, rows, 0)
    left = Counter(call.principal for call in order.expected)
    served: Counter[bytes] = Counter()
    weights = {subject.encode(): WEIGHTS.get(subject, 1.0) for subject in SUBJECTS}
    order.waiting.arrange(0)
    while order.expected:
        order.take()
        break_down(order, served, left)
        both = [subject for subject in weights if left[subject] > 0]
        for one, other in itertools.combinations(both, 2):
            ahead = abs(served[one] / weights[one] - served[other] / weights[other])
            assert ahead <= 5 / weights[one] + 5 / weights[other] + FRAME_ROWS


def break_down(order: Order, served: Counter[bytes], left: Counter[bytes]) -> None:
    """Counts what was taken so far: rows by caller, and who still waits."""
    served.clear()
    for call in order.taken:
        served[call.principal] += call.rows
    left.clear()
    left.update(call.principal for call in order.expected)


loads = st.lists(
    st.tuples(
        st.sampled_from(SUBJECTS),
        st.floats(0.05, 4),
        st.integers(1, 4),
        st.sampled_from([None, 0.01, 0.05, 0.2, 1.0]),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=4,
)
troubles = st.lists(
    st.tuples(st.sampled_from(["leave", "slow", "fast", "stall"]), st.floats(0.05, 1.4)), max_size=8
)


@settings(max_examples=25)
@given(loads=loads, troubles=troubles)
def test_every_request_has_one_fate_and_none_runs_too_late(
    tmp_path_factory: pytest.TempPathFactory,
    loads: list[tuple[str, float, int, float | None, int]],
    troubles: list[tuple[str, float]],
) -> None:
    """Any load, callers that leave and a model that changes its pace: one reply or none, one record
    for each that was let in, bounds kept, and nothing run after its deadline."""
    world = World(tmp_path_factory.mktemp("world"), admission={"max_queued_rows": 100})
    callers: list[Caller] = []
    for seed, (subject, share, rows, timeout_s, priority) in enumerate(loads):
        callers += world.open_loop(
            400 * share / rows,
            subject=subject,
            end_s=1.5,
            seed=seed,
            rows=rows,
            timeout_s=timeout_s,
            priority=priority,
        ).asked
    for what, when_s in troubles:
        world.events.at(when_s, trouble(world, callers, what))
    for moment in range(1, 40):
        world.run(moment / 10)
        assert 0 <= world.queue.queued_rows <= 100 + MOST_IN_FLIGHT

    gone = [caller for caller in callers if not caller.heard]
    admitted = [caller for caller in callers if caller.admitted]
    assert all(caller.heard <= 1 for caller in callers)
    assert len(world.stand.log.records) == len(admitted)
    assert {record.fate for record in world.stand.log.records} <= {
        Fate.OK,
        Fate.TIMEOUT,
        Fate.CLIENT_GONE,
    }
    left = [r for r in world.stand.log.records if r.fate is Fate.CLIENT_GONE]
    assert len(gone) == len(left)
    assert world.late_rows == 0
    assert (world.queue.queued_rows, world.queue.idle) == (0, True)
    assert world.stand.pipeline.admission.in_flight == 0


def trouble(world: World, callers: list[Caller], what: str) -> Callable[[], None]:
    def happen() -> None:
        if what == "leave":
            for caller in [each for each in callers if each.call and not each.heard][::3]:
                caller.go_away()
        else:
            world.replica.run_s = {"slow": 0.06, "fast": 0.005, "stall": 0.3}[what]

    return happen
