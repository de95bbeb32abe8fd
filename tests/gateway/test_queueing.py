"""Order without a queue around it: who leaves next, of those that wait."""

from collections import Counter

import pytest

from serving.gateway.admission import Share
from serving.gateway.calls import Call
from serving.gateway.lanes import FrameRoom, level_of, weights_by_subject
from serving.gateway.queueing import WaitingCalls
from tests.gateway.stand import Stand, a_request

MS = 1_000_000


class Line:
    """Waiting calls, and the callers that make them."""

    def __init__(self, stand: Stand, **weights: float) -> None:
        self.waiting = WaitingCalls(weights_by_subject(weights))
        self._shares: dict[str, Share] = {}
        self._stand = stand

    def call(
        self,
        subject: str = "ada",
        *,
        level: int = 0,
        rows: int = 1,
        since_ms: int = 0,
        columns: int = 2,
        deadline_ms: int = 1000,
    ) -> Call:
        """A call of a caller that waits since a moment."""
        request = a_request(rows=rows, columns=columns)
        call = Call(self._stand.pipeline, self._stand.queue(), request, subject.encode())
        call.share = self._shares.setdefault(subject, Share(subject))
        call.level = level
        call.since_ns = since_ms * MS
        call.deadline_ns = deadline_ms * MS
        self.waiting.append(call)
        return call

    def take(self, *, rows: int = 4, now_ms: int = 0, horizon_ms: int = 0) -> list[Call]:
        """The calls of the next frame, as a queue with more than fits would take them."""
        room = self.room(rows=rows, now_ms=now_ms, horizon_ms=horizon_ms)
        self.waiting.arrange(now_ms * MS)
        self.waiting.take(room)
        return room.calls

    def room(self, *, rows: int = 4, now_ms: int = 0, horizon_ms: int = 0) -> FrameRoom:
        return FrameRoom(
            rows=rows, size_bytes=10**6, now_ns=now_ms * MS, horizon_ns=horizon_ms * MS
        )


@pytest.fixture
def line(stand: Stand) -> Line:
    return Line(stand)


def subjects(calls: list[Call]) -> Counter[str]:
    return Counter(call.principal.decode() for call in calls)


def test_one_caller_leaves_in_order_of_arrival(line: Line) -> None:
    """Alone there is nothing to be fair about, and nothing is sorted."""
    calls = [line.call() for _ in range(6)]

    assert line.take() == calls[:4]
    assert not line.waiting.in_lanes


def test_two_callers_that_fit_leave_in_order_of_arrival(line: Line) -> None:
    """Where everybody leaves with the next frame order does not matter."""
    calls = [line.call("ada"), line.call("bob"), line.call("ada")]
    room = line.room()
    line.waiting.take(room)

    assert (room.calls, line.waiting.in_lanes, bool(line.waiting)) == (calls, False, False)


def test_flood_of_one_caller_does_not_delay_another(line: Line) -> None:
    """However many are before it, the other caller's call is in the next frame."""
    for _ in range(100):
        line.call("ada")
    last = line.call("bob")

    assert last in line.take()


def test_callers_that_both_wait_get_the_same(line: Line) -> None:
    """Row by row, until one has no more."""
    for subject in ("ada", "bob"):
        for _ in range(10):
            line.call(subject)

    assert [subjects(line.take()) for _ in range(5)] == [{"ada": 2, "bob": 2}] * 5
    assert not line.waiting.in_lanes


def test_rows_are_shared_and_not_requests(line: Line) -> None:
    """A caller with wide requests gets fewer of them."""
    for _ in range(10):
        line.call("ada", rows=3)
    for _ in range(10):
        line.call("bob")

    taken = line.take(rows=12)

    assert subjects(taken) == {"ada": 2, "bob": 6}


def test_weights_share_what_there_is(stand: Stand) -> None:
    """A weight of three is three times as many rows."""
    line = Line(stand, ada=3.0)
    for subject in ("ada", "bob"):
        for _ in range(20):
            line.call(subject)

    assert subjects([call for _ in range(5) for call in line.take()]) == {"ada": 15, "bob": 5}


def test_higher_level_leaves_first_within_a_caller(line: Line) -> None:
    """A caller's own order of importance holds; it takes nothing from anybody else."""
    calls = {level: [line.call(level=level) for _ in range(3)] for level in (1, 0, -1)}
    other = [line.call("bob") for _ in range(3)]

    first, second = line.take(rows=6), line.take(rows=6)

    assert set(first) == {*calls[-1], *other}
    assert second == [*calls[0], *calls[1]]


@pytest.mark.parametrize(
    ("priority", "level"), [(0, 0), (1, -1), (2, 0), (3, 1), (4_000_000_000, 1)]
)
def test_priorities_are_those_of_triton(priority: int, level: int) -> None:
    """1 is the highest; 0 leaves it to the server; what is above 2 is background."""
    assert level_of(priority) == level


def test_newest_leave_first_when_the_oldest_is_stale(line: Line) -> None:
    """Who has waited for longer than the target has probably been given up."""
    line.waiting.target_ns = 50 * MS
    old = [line.call(since_ms=0) for _ in range(4)]
    new = [line.call(since_ms=90) for _ in range(4)]

    assert line.take(now_ms=100) == new[::-1]
    assert line.take(now_ms=100) == old[::-1]


def test_oldest_leave_first_while_none_is_stale(line: Line) -> None:
    """A short wait is no overload: order of arrival."""
    line.waiting.target_ns = 50 * MS
    calls = [line.call(since_ms=each) for each in range(8)]

    assert line.take(now_ms=40) == calls[:4]


def test_late_caller_does_not_turn_the_order_of_others(line: Line) -> None:
    """Each lane looks at its own oldest."""
    line.waiting.target_ns = 50 * MS
    old = [line.call("ada", since_ms=0) for _ in range(4)]
    new = [line.call("bob", since_ms=80 + each) for each in range(4)]

    assert line.take(now_ms=100) == [old[3], new[0], old[2], new[1]]


def test_time_without_a_replica_makes_nobody_stale(line: Line) -> None:
    """A wait counts from when a replica came back."""
    line.waiting.target_ns = 50 * MS
    line.waiting.fresh_ns = 60 * MS
    calls = [line.call(since_ms=0) for _ in range(8)]

    assert line.take(now_ms=100) == calls[:4]


def test_calls_that_were_put_back_are_the_next(line: Line) -> None:
    """What was taken and did not run leaves before what waits, in its order, fresh again."""
    calls = [line.call(subject) for subject in ("ada", "bob", "ada", "bob", "ada", "bob")]
    taken = line.take(rows=2)
    line.waiting.put_back(taken, 7 * MS)

    assert line.take(rows=2) == taken == [calls[0], calls[1]]
    assert [call.since_ns for call in taken] == [7 * MS] * 2


@pytest.mark.parametrize("callers", [("ada",), ("ada", "bob")], ids=["alone", "in lanes"])
def test_call_that_would_be_late_is_not_taken(line: Line, callers: tuple[str, ...]) -> None:
    """Whose deadline is before the horizon is handed over separately, and takes no room."""
    calls = [line.call(who, deadline_ms=5 + each) for each in range(6) for who in callers]
    room = line.room(rows=2, horizon_ms=7)
    line.waiting.arrange(0)
    line.waiting.take(room)

    assert sorted(map(id, room.late)) == sorted(map(id, calls[: 2 * len(callers)]))
    assert room.calls == calls[2 * len(callers) :][:2]


@pytest.mark.parametrize("callers", [("ada",), ("ada", "bob")], ids=["alone", "in lanes"])
def test_calls_that_are_done_are_passed_over(line: Line, callers: tuple[str, ...]) -> None:
    """They take no room, and are gone when somebody comes upon them or prunes."""
    calls = [line.call(who) for _ in range(6) for who in callers]
    line.take(rows=2)
    for call in calls[2:-2]:
        call.done = True
        line.waiting.forget(call)

    line.waiting.prune()

    assert list(line.waiting) == calls[-2:]
    assert line.take() == calls[-2:]
    assert not line.waiting


def test_lane_whose_call_does_not_fit_keeps_its_turn(line: Line) -> None:
    """Another shape travels in the next frame, first of all."""
    for _ in range(3):
        line.call("ada")
    odd = line.call("bob", columns=3)
    line.call("eve")

    assert subjects(line.take()) == {"ada": 3, "eve": 1}
    line.call("ada")
    assert line.take() == [odd]


def test_wait_is_foreseen_by_the_callers_own_share(line: Line) -> None:
    """Before a newcomer leave its own rows and as many of each other caller, no more."""
    for _ in range(100):
        line.call("ada")
    ada, bob = line.call("ada").share, line.call("bob").share
    assert ada is not None
    assert bob is not None

    before = [line.waiting.rows_before(share, 0, 102) for share in (ada, bob, Share("eve"))]

    assert before == [102, 2, 0]


def test_higher_level_foresees_only_what_leaves_before_it(line: Line) -> None:
    """A caller's background work is not before its urgent call."""
    for level in (0, 0, 1, 1, -1):
        line.call(level=level)
    share = line.call().share
    assert share is not None

    assert [line.waiting.rows_before(share, level, 6) for level in (-1, 0, 1)] == [1, 4, 6]
