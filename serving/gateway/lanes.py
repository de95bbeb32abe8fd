"""Lanes: waiting calls by caller and priority, when more waits than leaves.

There is a lane for each caller. The next call comes from the lane that has had the fewest rows for
its weight: start-time fair queueing (Goyal et al., 1996). Of two callers that both have calls
waiting, neither is ever ahead by more than one call of each, divided by their weights, however much
the other one sends; a caller that was idle gets its turn at once and no credit for the time before.

Within a lane priorities are strict: a caller's own work of a lower level waits for all of its higher
ones, and only for those: it starves as long as its caller keeps the lane full, at most until its
deadline or the longest wait of a queue, when it is refused. No priority takes anything from another
caller. Within a level the oldest comes first, until the oldest has waited for too long; then the
newest does, because its caller is still there (adaptive LIFO: under overload somebody must be late,
and it is better that some are answered in time than that all are late).
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from serving.gateway.admission import Share
    from serving.gateway.calls import Call

LEVELS: Final = (-1, 0, 1)
"""Of `Call.level`, in the order in which they leave."""

_HIGHEST: Final = 1
_USUAL: Final = 2
_MOST_SKIPPED: Final = 64
"""Lanes whose next call does not fit a frame that are passed over before it closes."""
_MOST_COUNTED: Final = 32
"""Lanes that are looked at one by one to foresee a wait; of more, each is taken to be full."""


def level_of(priority: int) -> int:
    """The level of a request's `priority`: 1 is above, 0 and 2 are usual, more is below."""
    if priority == _HIGHEST:
        return -1
    return int(priority > _USUAL)


class FrameRoom:
    """What may still go into a frame. `late` has calls that could not be answered in time.

    horizon_ns: a call whose deadline is before it is late.
    """

    __slots__ = ("bytes", "calls", "horizon_ns", "late", "now_ns", "rows")

    def __init__(self, rows: int, size_bytes: int, now_ns: int, horizon_ns: int) -> None:
        self.rows = rows
        self.bytes = size_bytes
        self.now_ns = now_ns
        self.horizon_ns = horizon_ns
        self.calls: list[Call] = []
        self.late: list[Call] = []

    def fits(self, call: "Call") -> bool:
        """A frame holds rows of one shape; one call above its size travels alone."""
        return not self.calls or (
            call.rows <= self.rows
            and call.request.size_bytes <= self.bytes
            and call.shapes == self.calls[0].shapes
        )

    def add(self, call: "Call") -> None:
        self.calls.append(call)
        self.rows -= call.rows
        self.bytes -= call.request.size_bytes


class Lane:
    """The waiting calls of one caller, and their rows by level.

    tag: the rows it has had, divided by its weight. queued: whether it is in the heap.
    """

    __slots__ = ("levels", "queued", "rows", "tag", "total_rows", "weight")

    def __init__(self, weight: float, tag: float) -> None:
        self.weight = weight
        self.tag = tag
        self.queued = False
        self.rows = dict.fromkeys(LEVELS, 0)
        self.total_rows = 0
        self.levels: Mapping[int, deque[Call]] = {level: deque() for level in LEVELS}

    def count(self, call: "Call", rows: int) -> None:
        """So many rows more at the call's level, or fewer."""
        self.rows[call.level] += rows
        self.total_rows += rows

    def next_of(self, stale_ns: int) -> "tuple[deque[Call], bool] | None":
        """The level whose turn it is, and whether the newest of it; None when nobody waits."""
        for calls in self.levels.values():
            while calls and calls[0].done:
                calls.popleft()
            while calls and calls[-1].done:
                calls.pop()
            if calls:
                return calls, calls[0].since_ns < stale_ns
        return None

    def prune(self) -> None:
        for calls in self.levels.values():
            if any(call.done for call in calls):
                left = [call for call in calls if not call.done]
                calls.clear()
                calls.extend(left)


class Lanes:
    """Lanes of callers, and the heap of those in which somebody waits.

    contended: whether calls of several callers have come; whoever looks sets it back.
    """

    def __init__(self, weight_of: Callable[["Share | None"], float]) -> None:
        self.contended = False
        self._latest: Share | None = None
        self._weight_of = weight_of
        self._lanes: dict[Share | None, Lane] = {}
        self._heap: list[tuple[float, int, Lane]] = []
        self._turn = 0
        self._now = 0.0
        self._weights = 0.0

    def __iter__(self) -> "Iterator[Call]":
        for lane in self._lanes.values():
            for calls in lane.levels.values():
                yield from calls

    @property
    def empty(self) -> bool:
        return not self._heap

    def append(self, call: "Call") -> None:
        if call.share is not self._latest:
            self.contended = self.contended or self._latest is not None
            self._latest = call.share
        self._lane_for(call).levels[call.level].append(call)

    def appendleft(self, call: "Call") -> None:
        self._lane_for(call).levels[call.level].appendleft(call)

    def forget(self, call: "Call") -> None:
        lane = self._lanes.get(call.share)
        if lane is not None:
            lane.count(call, -call.rows)

    def rows_before(self, share: "Share", level: int) -> float:
        """A caller's own rows down to a level, and those of others that get their turn meanwhile."""
        lane = self._lanes.get(share)
        if lane is None:
            return 0
        own = lane.total_rows
        if level < LEVELS[-1]:
            own = sum(rows for each, rows in lane.rows.items() if each <= level)
        turns = own / lane.weight
        if len(self._lanes) > _MOST_COUNTED:
            return turns * self._weights
        ahead = float(own)
        for other in self._lanes.values():
            if other is not lane and other.total_rows:
                ahead += min(other.total_rows, turns * other.weight)
        return ahead

    def prune(self) -> None:
        for lane in self._lanes.values():
            lane.prune()
        waiting = [entry for entry in self._heap if any(entry[2].levels.values())]
        if len(waiting) < len(self._heap):
            for _, _, lane in self._heap:
                lane.queued = any(lane.levels.values())
            self._heap = waiting
            heapq.heapify(self._heap)
            self._weights = sum(lane.weight for _, _, lane in waiting)
        self._lanes = {
            share: lane
            for share, lane in self._lanes.items()
            if lane.queued or lane.tag > self._now
        }

    def take(self, room: FrameRoom, *, stale_ns: int) -> None:
        """Fills `room`. Lanes whose next call does not fit keep their turn."""
        passed: list[Lane] = []
        while self._heap and room.rows > 0 and len(passed) < _MOST_SKIPPED:
            lane = self._pop()
            following = lane.next_of(stale_ns)
            if following is None:
                continue
            calls, newest = following
            call = calls[-1] if newest else calls[0]
            late = call.deadline_ns < room.horizon_ns
            if not late and not room.fits(call):
                passed.append(lane)
                continue
            (calls.pop if newest else calls.popleft)()
            if late:
                room.late.append(call)
            else:
                room.add(call)
                self._serve(lane, call)
            if any(lane.levels.values()):
                self._push(lane)
        for lane in passed:
            self._push(lane)

    def _serve(self, lane: Lane, call: "Call") -> None:
        self._now = max(self._now, lane.tag)
        lane.tag += call.rows / lane.weight
        lane.count(call, -call.rows)

    def _lane_for(self, call: "Call") -> Lane:
        """The lane of the call's caller, with its rows counted in."""
        lane = self._lanes.get(call.share)
        if lane is None:
            weight = self._weight_of(call.share)
            lane = self._lanes[call.share] = Lane(weight, self._now)
        if not lane.queued:
            lane.tag = max(lane.tag, self._now)
            self._push(lane)
        lane.count(call, call.rows)
        return lane

    def _push(self, lane: Lane) -> None:
        self._turn += 1
        lane.queued = True
        self._weights += lane.weight
        heapq.heappush(self._heap, (lane.tag, self._turn, lane))

    def _pop(self) -> Lane:
        lane = heapq.heappop(self._heap)[2]
        lane.queued = False
        self._weights -= lane.weight
        return lane


def weights_by_subject(weights: Mapping[str, float]) -> Callable[["Share | None"], float]:
    """The weight of a caller, 1 unless it is named; copies for candidates are one caller."""

    def weight_of(share: "Share | None") -> float:
        return 1.0 if share is None else weights.get(share.subject, 1.0)

    return weight_of
