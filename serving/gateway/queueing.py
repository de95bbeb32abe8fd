"""In which order waiting calls leave.

Theory of operation. One deque in order of arrival is all there is while what waits fits a frame, or
is of one caller and waits for a short time: order does not matter then, and costs nothing. Only
when more waits than a frame takes, and it is of several callers or priorities or has waited for
longer than `target_ns`, is it sorted into lanes (`serving.gateway.lanes`): fair between callers, and
newest first where it is late. When the last lane is empty, the deque is back.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from serving.gateway.lanes import FrameRoom, Lanes

if TYPE_CHECKING:
    from serving.gateway.admission import Share
    from serving.gateway.calls import Call


class WaitingCalls:
    """The calls of one queue that wait for a frame.

    target_ns: how old the oldest may get before the newest leave first. fresh_ns: no call's wait
    counts from before this moment: there was no replica. prioritised: whether a call of another
    level than the usual one has come; whoever looks sets it back.
    """

    def __init__(self, weight_of: Callable[["Share | None"], float]) -> None:
        self.target_ns = 2**63
        self.fresh_ns = 0
        self.prioritised = False
        self._weight_of = weight_of
        self._plain: deque[Call] = deque()
        self._sole: Share | None = None
        self._mixed = False
        self._lanes: Lanes | None = None

    def __bool__(self) -> bool:
        """Whether any call is here, be it one that is done."""
        return bool(self._plain) or self._lanes is not None

    def __iter__(self) -> "Iterator[Call]":
        return iter(self._plain) if self._lanes is None else iter(self._lanes)

    def contended(self) -> bool:
        """Whether calls of several callers have come to lanes since this was last asked."""
        lanes = self._lanes
        if lanes is None:
            return False
        contended, lanes.contended = lanes.contended, False
        return contended

    @property
    def in_lanes(self) -> bool:
        """Whether calls leave by lanes instead of in order of arrival."""
        return self._lanes is not None

    def append(self, call: "Call") -> None:
        if call.share is not self._sole or call.level:
            self._meet(call)
        if self._lanes is None:
            self._plain.append(call)
        else:
            self._lanes.append(call)

    def put_back(self, calls: "list[Call]", now_ns: int) -> None:
        """Calls that were taken and did not run: the next to leave. Their wait begins again."""
        for call in reversed(calls):
            call.since_ns = now_ns
            if call.share is not self._sole or call.level:
                self._meet(call)
            if self._lanes is None:
                self._plain.appendleft(call)
            else:
                self._lanes.appendleft(call)

    def forget(self, call: "Call") -> None:
        """The call is done; it is dropped when it is come upon."""
        if self._lanes is not None:
            self._lanes.forget(call)

    def prune(self) -> None:
        """Drops the calls that are done."""
        if self._lanes is not None:
            self._lanes.prune()
            self._unsort_if_empty()
        elif any(call.done for call in self._plain):
            self._plain = deque(call for call in self._plain if not call.done)
            self._mixed = self._mixed and bool(self._plain)

    def rows_before(self, share: "Share", level: int, queued_rows: int) -> float:
        """How many rows leave before the next call of a caller's; of `queued_rows` in all."""
        if self._lanes is None and self._mixed:
            self._sort()
        if self._lanes is None:
            return queued_rows if share is self._sole and level >= 0 else 0
        return min(self._lanes.rows_before(share, level), queued_rows)

    def arrange(self, now_ns: int) -> None:
        """More waits than a frame takes: whose turn it is may matter from now on."""
        if self._lanes is None and (self._mixed or self._oldest_is_stale(now_ns)):
            self._sort()

    def take(self, room: FrameRoom) -> None:
        """Moves the next calls into `room`, as many as fit."""
        if self._lanes is not None:
            self._lanes.take(room, stale_ns=self._stale_ns(room.now_ns))
            self._unsort_if_empty()
            return
        plain, calls, late = self._plain, room.calls, room.late
        rows, size, horizon_ns = room.rows, room.bytes, room.horizon_ns
        while plain:
            call = plain[0]
            if call.done or call.deadline_ns < horizon_ns:
                if not call.done:
                    late.append(call)
                plain.popleft()
                continue
            rows -= call.rows
            size -= call.request.size_bytes
            if calls and (rows < 0 or size < 0 or call.shapes != calls[0].shapes):
                return
            calls.append(plain.popleft())
        self._mixed = False

    def _meet(self, call: "Call") -> None:
        """A call that is not of the caller alone here, or not of the usual priority."""
        self.prioritised = self.prioritised or bool(call.level)
        if self._lanes is not None:
            return
        if not self._plain:
            self._sole = call.share
            self._mixed = bool(call.level)
        else:
            self._mixed = True

    def _stale_ns(self, now_ns: int) -> int:
        """A call that has waited since before this moment is older than the target."""
        return now_ns - self.target_ns if now_ns - self.fresh_ns > self.target_ns else -1

    def _oldest_is_stale(self, now_ns: int) -> bool:
        return bool(self._plain) and self._plain[0].since_ns < self._stale_ns(now_ns)

    def _sort(self) -> None:
        self._lanes = Lanes(self._weight_of)
        for call in self._plain:
            if not call.done:
                self._lanes.append(call)
        self._plain.clear()

    def _unsort_if_empty(self) -> None:
        if self._lanes is not None and self._lanes.empty:
            self._lanes = None
            self._mixed = False
