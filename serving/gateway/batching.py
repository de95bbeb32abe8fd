"""Level 1 of batching: requests for the same model version become frames.

Natural batching. A frame leaves as soon as a replica has a credit, with whatever waits at that
moment; while all credits are spent, requests gather and are the next frame. There is no timer: an
idle system answers at once and a busy one fills its frames. What arrives in one turn of the event
loop shares a frame, because the flush is scheduled, not called.

Rules: order of arrival; only rows of one shape share a frame; at most `max_frame_rows` and
`max_frame_bytes`, but one larger request travels alone; a call that expired or whose client has
gone is skipped when the frame forms and never disturbs its neighbours; the replica with the fewest
outstanding rows is chosen. A frame lost with its replica, or handed back by one that shuts down,
goes back to the front of the queue. While no replica is up calls wait, each until its own
deadline. Whatever goes wrong with one frame, the queue goes on.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

import numpy as np
import structlog

from serving.core.batches import BatchAnswer, RowBatch, SpanLink, TensorBlock
from serving.core.clock import Clock
from serving.core.models import ModelVersion
from serving.gateway.calls import Call
from serving.settings import ChannelSettings

logger = structlog.get_logger()

MAX_ATTEMPTS: Final = 3
"""A call whose replica died this often is failed: it may be what kills them."""

_U32: Final = 2**32 - 1
_FLOATS: Final = frozenset({"FP16", "FP32", "FP64"})


class ReplicaLink(Protocol):
    """A connection to one replica; `serving.inference.channel.Channel` fits by shape."""

    ready: bool
    closed: bool
    outstanding_rows: int

    @property
    def has_credit(self) -> bool: ...
    def send(self, sink: "Frame") -> None:
        """Exactly one of `sink.answered`, `sink.returned` and `sink.lost` follows."""

    def check(self, now_ns: int) -> None: ...
    def abort(self) -> None: ...


class Outcomes(Protocol):
    """Who is told what became of calls."""

    def answered(self, frame: "Frame", answer: BatchAnswer) -> None: ...
    def expired(self, call: Call) -> None: ...
    def exhausted(self, call: Call) -> None:
        """The call's replicas died `MAX_ATTEMPTS` times."""

    def retried(self, call: Call) -> None:
        """The call's replica died; the call waits for another one."""

    def not_finite(self, call: Call) -> None: ...
    def broken(self, call: Call) -> None:
        """No frame could be made of the call. This is a bug."""


class Frame:
    """Calls that travel together. `rendered` is the wire adapter's memory, encoded once a frame."""

    __slots__ = ("answer", "batch", "calls", "queue", "rendered")

    def __init__(self, queue: "VersionQueue", calls: list[Call], batch: RowBatch) -> None:
        self.queue = queue
        self.calls = calls
        self.batch = batch
        self.answer: BatchAnswer | None = None
        self.rendered: dict[int, Any] = {}

    def answered(self, answer: BatchAnswer) -> None:
        self.answer = answer
        self.queue.answered(self, answer)
        # Ends the cycle of frame and calls: else the collector has to find every answered request.
        self.calls = []

    def returned(self) -> None:
        self.queue.returned(self)

    def lost(self) -> None:
        self.queue.lost(self)


class VersionQueue:
    """The waiting calls of one model version, and the replicas that take them."""

    def __init__(
        self,
        version: ModelVersion,
        *,
        settings: ChannelSettings,
        clock: Clock,
        outcomes: Outcomes,
        call_soon: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        self.version = version
        self.links: list[ReplicaLink] = []
        self.queued_rows = 0
        self.takes_copies = False
        """Calls of callers and copies may share a frame here: the version is a candidate."""
        self._settings = settings
        self._clock = clock
        self._outcomes = outcomes
        self._call_soon = call_soon or asyncio.get_running_loop().call_soon
        self._waiting: deque[Call] = deque()
        self._in_flight: set[Frame] = set()
        self._flush_is_due = False
        self._float_inputs = version.finite_inputs and any(
            tensor.datatype in _FLOATS for tensor in version.inputs
        )

    @property
    def ready(self) -> bool:
        """Whether a replica of this version could take a frame."""
        return any(link.ready for link in self.links)

    @property
    def idle(self) -> bool:
        return not self._in_flight and not self._waiting

    def append(self, call: Call) -> None:
        """Queues a call; it leaves with the next frame that has room and a credit."""
        self._waiting.append(call)
        self.queued_rows += call.rows
        if not self._flush_is_due:
            self._schedule()

    def discard(self, call: Call) -> None:
        """Forgets a call that is done; its rows no longer count as waiting."""
        if call.frame is None:
            self.queued_rows -= call.rows

    def wake(self) -> None:
        """Looks again: a credit came back or a replica appeared."""
        if self._waiting and not self._flush_is_due:
            self._schedule()

    def sweep(self, now_ns: int) -> None:
        """Ends what cannot be answered any more, drops replicas that went silent."""
        for call in [*self._waiting, *(call for frame in self._in_flight for call in frame.calls)]:
            if call.deadline_ns < now_ns and not call.done:
                self._outcomes.expired(call)
        if any(call.done for call in self._waiting):
            self._waiting = deque(call for call in self._waiting if not call.done)
        for link in list(self.links):
            link.check(now_ns)

    # -- fates of frames -------------------------------------------------------------------------

    def answered(self, frame: Frame, answer: BatchAnswer) -> None:
        self._in_flight.discard(frame)
        self._outcomes.answered(frame, answer)

    def returned(self, frame: Frame) -> None:
        """Puts the calls of a frame that no replica took back to the front, in their order."""
        self._in_flight.discard(frame)
        self._put_back([call for call in frame.calls if not call.done])
        self.wake()

    def lost(self, frame: Frame) -> None:
        """Like `returned`, except for calls that have been in too many lost frames."""
        self._in_flight.discard(frame)
        calls = [call for call in frame.calls if not call.done]
        self._put_back(calls)
        for call in calls:
            call.attempts += 1
            if call.attempts >= MAX_ATTEMPTS:
                self._outcomes.exhausted(call)
            else:
                self._outcomes.retried(call)
        self.wake()

    def _put_back(self, calls: list[Call]) -> None:
        for call in calls:
            call.frame = None
            self.queued_rows += call.rows
        self._waiting.extendleft(reversed(calls))

    # -- forming ---------------------------------------------------------------------------------

    def _schedule(self) -> None:
        self._flush_is_due = True
        self._call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        while self._waiting:
            link = self._choose()
            if link is None:
                return
            self._send(link, self._take())

    def _send(self, link: ReplicaLink, calls: list[Call]) -> None:
        """Sends a frame of `calls`, unless nobody waits for it or one of them is not finite."""
        if not calls:
            return
        try:
            frame = self._form(calls)
            if frame is not None:
                self._in_flight.add(frame)
                link.send(frame)
        except Exception:
            # Outermost: a frame that cannot be made must not cost the ones behind it.
            logger.exception("no frame", model=self.version.key)
            self._in_flight = {frame for frame in self._in_flight if frame.calls is not calls}
            left = [call for call in calls if not call.done]
            self._put_back(left)
            for call in left:
                self._outcomes.broken(call)

    def _choose(self) -> ReplicaLink | None:
        """The replica with a credit and the fewest outstanding rows."""
        links = self.links
        if len(links) == 1:
            return links[0] if links[0].has_credit else None
        free = [link for link in links if link.has_credit]
        return min(free, key=lambda link: link.outstanding_rows, default=None)

    def _take(self) -> list[Call]:
        settings = self._settings
        waiting = self._waiting
        calls: list[Call] = []
        rows = size = 0
        while waiting:
            call = waiting[0]
            if call.done:
                waiting.popleft()
                continue
            if calls and (
                rows + call.rows > settings.max_frame_rows
                or size + call.request.size_bytes > settings.max_frame_bytes
                or call.shapes != calls[0].shapes
            ):
                break
            waiting.popleft()
            calls.append(call)
            rows += call.rows
            size += call.request.size_bytes
        self.queued_rows -= rows
        return calls

    def _form(self, calls: list[Call]) -> Frame | None:
        """A frame of `calls`; None when some were not finite and the others wait again."""
        columns = zip(*(call.inputs for call in calls), strict=True)
        tensors = tuple(
            TensorBlock(declared.datatype, shape, (b"".join(column),))
            for declared, shape, column in zip(
                self.version.inputs, calls[0].shapes, columns, strict=True
            )
        )
        rows = sum(call.rows for call in calls)
        if self._float_inputs and not all(call.request.vetted for call in calls):
            guilty = _find_not_finite(calls, tensors, rows)
            if guilty:
                self._put_back(calls)
                for call in guilty:
                    self._outcomes.not_finite(call)
                return None
        return self._seal(calls, tensors, rows)

    def _seal(self, calls: list[Call], tensors: tuple[TensorBlock, ...], rows: int) -> Frame:
        now_ns = self._clock.monotonic_ns()
        deadline_ns = 0
        links = []
        first_row = 0
        batch_frame = Frame(self, calls, RowBatch(self.version.digest, rows, tensors))
        for call in calls:
            call.frame = batch_frame
            call.first_row = first_row
            call.queue_us = (now_ns - call.arrived_ns) // 1000
            deadline_ns = max(deadline_ns, call.deadline_ns)
            trace = call.trace
            if trace is not None and trace.sampled:
                links.append(SpanLink(first_row, trace.trace_id, trace.span_id))
            first_row += call.rows
        budget_us = min(max((deadline_ns - now_ns) // 1000, 1), _U32)
        batch_frame.batch = RowBatch(
            self.version.digest, rows, tensors, budget_us, tuple(links), now_ns // 1000 & _U32
        )
        return batch_frame


def _find_not_finite(calls: list[Call], tensors: tuple[TensorBlock, ...], rows: int) -> list[Call]:
    """The calls with a NaN or an infinity in a float tensor; one check per frame when none has."""
    bad_rows = np.zeros(rows, np.bool_)
    for tensor in tensors:
        if tensor.datatype in _FLOATS:
            finite = np.isfinite(tensor.array(rows))
            if not finite.all():
                bad_rows |= ~finite.reshape(rows, -1).all(axis=1)
    if not bad_rows.any():
        return []
    guilty = []
    first_row = 0
    for call in calls:
        if bad_rows[first_row : first_row + call.rows].any():
            guilty.append(call)
        first_row += call.rows
    return guilty
