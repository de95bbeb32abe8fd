"""Level 1 of batching: requests for the same model version become frames.

Natural batching. A frame leaves as soon as a replica has a credit, with whatever waits at that
moment; while all credits are spent, requests gather and are the next frame. Those that take the
replica longer than a frame costs do not wait for a credit: what is not there when a run ends misses
the next batch (`Pace.part_rows`). There is no timer: an idle system answers at once and a busy one
fills its frames. What arrives in one turn of the event
loop shares a frame, because the flush is scheduled, not called.

Rules: order of arrival, unless more waits than fits (`serving.gateway.queueing`); only rows of one
shape share a frame; at most `max_frame_rows` and `max_frame_bytes`, but one larger request travels
alone; a call that expired, that cannot be answered in time (`serving.gateway.pace`) or whose client
has gone is left out when the frame forms and never disturbs its neighbours; the replica with the
fewest outstanding rows is chosen. A frame lost with its replica, or handed back by one that shuts
down, goes back to the front of the queue. While no replica is up calls wait, each until its own
deadline; else no call waits for longer than `Pace.longest_ns`. Whatever goes wrong with one frame,
the queue goes on.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Final

import structlog

from serving.core.batches import BatchAnswer, RowFailure
from serving.core.clock import Clock
from serving.core.models import ModelVersion
from serving.errors import CallerLimitReached, DeadlineExceeded, QueueFull
from serving.gateway.admission import Share
from serving.gateway.cache import ResponseCache
from serving.gateway.calls import Call
from serving.gateway.forming import (
    FLOATS,
    Frame,
    Outcomes,
    ReplicaLink,
    columns_of,
    find_not_finite,
    seal,
)
from serving.gateway.lanes import LEVELS, FrameRoom, weights_by_subject
from serving.gateway.pace import NEWEST_FIRST, Pace
from serving.gateway.queueing import WaitingCalls
from serving.gateway_settings import AdmissionSettings, ChannelSettings

logger = structlog.get_logger()

MAX_ATTEMPTS: Final = 3
"""A call whose replica died this often is failed: it may be what kills them."""

ALARM: Final = 0.5
"""Of the rows that may wait: from here on newcomers are looked at, and copies are not made."""

_EVERYTHING: Final = 2**62
LATELY_NS: Final = 1_000_000_000
"""For so long after a request with a priority, or of a second caller, others are expected."""


class _Lately:
    """Whether something happened within the last second, for those who look now and then."""

    def __init__(self) -> None:
        self.now = False
        self._until_ns = 0

    def look(self, now_ns: int, *, happened: bool) -> None:
        if happened:
            self._until_ns = now_ns + LATELY_NS
        self.now = now_ns < self._until_ns


class VersionQueue:
    """The waiting calls of one model version, and the replicas that take them.

    alarm_rows, doubtful_s: `foresee` has to be asked about a request when so many rows wait, or
    when it has no more time than this; it is not worth asking otherwise.
    """

    def __init__(
        self,
        version: ModelVersion,
        *,
        settings: ChannelSettings,
        admission: AdmissionSettings,
        clock: Clock,
        outcomes: Outcomes,
        call_soon: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        self.version = version
        self.links: list[ReplicaLink] = []
        self.queued_rows = 0
        self.alarm_rows = ALARM * admission.max_queued_rows
        self.doubtful_s = 0.0
        self.kinds = False
        """Some of its calls are of a kind of their own (`Call.kind`)."""
        self.takes_copies = False
        """Calls of callers and copies may share a frame here: the version is a candidate."""
        self.takes_parts = False
        """Calls of callers and of ensembles may share a frame here: the version is a stage."""
        recording = version.recording
        self.guarded = bool(recording.fields)
        """Something is done to payloads before they are recorded: always, or since a request named
        a data subject."""
        self.seals = "encrypt" in dict(recording.fields).values()
        """Of that, that some are encrypted."""
        self.plain = recording.policy == "fail_closed" and not recording.fields
        """Records are what was sent and answered, and no answer leaves without them."""
        self._call_soon = soon = call_soon or asyncio.get_running_loop().call_soon
        cache = version.cache
        self.cache = (
            None if cache is None else ResponseCache(version, cache, clock=clock, call_soon=soon)
        )
        self._credits = settings.credits
        self._most_bytes = settings.max_frame_bytes
        self._clock = clock
        self._outcomes = outcomes
        self._waiting = WaitingCalls(weights_by_subject(admission.weights))
        self._pace = Pace(version, channel=settings, admission=admission)
        self._in_flight: set[Frame] = set()
        self._flush_is_due = False
        self._float_inputs = version.finite_inputs and any(
            tensor.datatype in FLOATS for tensor in version.inputs
        )
        self._latest: list[BatchAnswer] = []
        self._latest_batch = 0
        self._prioritised = _Lately()
        self._contended = _Lately()

    def note_subject(self) -> None:
        """From here on requests of this version may name data subjects."""
        self.guarded, self.seals, self.plain = True, True, False

    @property
    def ready(self) -> bool:
        """Whether a replica of this version could take a frame."""
        return any(link.ready for link in self.links)

    @property
    def idle(self) -> bool:
        return not self._in_flight and not self._waiting

    @property
    def pressed(self) -> bool:
        """Whether so much waits that newcomers may have to be refused soon."""
        return self.queued_rows >= self.alarm_rows

    @property
    def oldest_s(self) -> float:
        """How long the call that has waited longest has waited."""
        now_ns = self._clock.monotonic_ns()
        return max((now_ns - call.since_ns for call in self._waiting), default=0) / 1e9

    def foresee(self, share: Share, timeout_s: float, *, level: int | None = None) -> None:
        """Raises an error where a request would wait in vain.

        QueueFull or, while others want something too, CallerLimitReached; DeadlineExceeded. It is
        never refused for what other callers have queued beyond their share, and never while no
        replica is up or none has answered yet: then it waits until its deadline. level: None while
        the body is not decoded; then the best level counts if such calls come at all.
        """
        pace = self._pace
        if not pace.known or not self.ready:
            return
        if level is None:
            level = min(LEVELS) if self._prioritised.now else 0
        ahead = self._waiting.rows_before(share, level, self.queued_rows)
        if ahead >= pace.room_rows:
            if self._contended.now:
                raise CallerLimitReached("your share of the model's queue is full; retry later")
            raise QueueFull("the model's queue is full; retry later")
        if self._waiting:
            replicas = sum(link.ready for link in self.links)
            outstanding = sum(link.outstanding_rows for link in self.links)
            ahead += max(outstanding - pace.frame_rows * replicas, 0)
        if ahead * pace.row_ns + pace.run_ns > timeout_s * 1e9:
            raise DeadlineExceeded("the deadline cannot be met; permit more time or retry later")

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
            self._waiting.forget(call)

    def hand_over(self, to: "VersionQueue") -> int:
        """Gives waiting calls of callers that chose nothing to a version of the same signature.

        Returns how many.
        """
        now_ns, waiting = self._clock.monotonic_ns(), list[Call]()
        while self._waiting:
            room = FrameRoom(_EVERYTHING, _EVERYTHING, now_ns, 0)
            self._waiting.take(room)
            waiting += room.calls
        leaving = [call for call in waiting if call.exchange is not None and not call.kind]
        self._waiting.put_back([call for call in waiting if call not in leaving], now_ns)
        for call in leaving:
            self.queued_rows -= call.rows
            call.queue = to
            to.append(call)
        return len(leaving)

    def wake(self) -> None:
        """Looks again: a credit came back or a replica appeared."""
        if self._waiting and not self._flush_is_due:
            self._schedule()

    def sweep(self, now_ns: int) -> None:
        """Ends what cannot be answered any more, drops replicas that went silent, learns."""
        ready = self.ready
        if not ready:
            self._waiting.fresh_ns = now_ns
        for call in [*self._waiting, *(call for frame in self._in_flight for call in frame.calls)]:
            if call.deadline_ns < now_ns and not call.done:
                self._outcomes.expired(call)
        if ready and self._pace.known:
            self._shed(now_ns)
        self._waiting.prune()
        for link in list(self.links):
            link.check(now_ns)
        self._learn(now_ns)

    def _shed(self, now_ns: int) -> None:
        """Refuses calls that have waited too long; copies have all the time they were given."""
        late_ns = now_ns - self._pace.longest_ns
        if self._waiting.fresh_ns < late_ns:
            for call in list(self._waiting):
                if call.since_ns < late_ns and not call.done and not call.shadow_of:
                    self._outcomes.shed(call)

    def _learn(self, now_ns: int) -> None:
        """Brings the figures up to date by which newcomers are judged."""
        pace, waiting = self._pace, self._waiting
        if self._latest:
            pace.heard(self._latest, now_ns)
            self._latest = []
        replicas = sum(link.ready for link in self.links)
        pace.settle(now_ns, replicas=replicas)
        prioritised, waiting.prioritised = waiting.prioritised, False
        self._prioritised.look(now_ns, happened=prioritised)
        self._contended.look(now_ns, happened=waiting.contended())
        if pace.known:
            waiting.target_ns = round(NEWEST_FIRST * pace.longest_ns)
            sent_rows = self._credits * pace.frame_rows * max(replicas, 1)
            longest_ns = pace.longest_ns + sent_rows * pace.row_ns + pace.run_ns
            self.alarm_rows = ALARM * pace.room_rows
            self.doubtful_s = math.inf if self._prioritised.now else longest_ns / 1e9

    # -- fates of frames -------------------------------------------------------------------------

    def answered(self, frame: Frame, answer: BatchAnswer) -> None:
        self._in_flight.discard(frame)
        batch_id = answer.parts[-1].batch_id
        if batch_id != self._latest_batch:
            self._latest, self._latest_batch = [], batch_id
        self._latest.append(answer)
        if answer.failures:
            self._spare(frame, answer)
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

    def _spare(self, frame: Frame, answer: BatchAnswer) -> None:
        """If the frame came too late for one of its calls, and was not run: the others travel again."""
        if answer.failures.get(0) is not RowFailure.EXPIRED or answer.parts[-1].batch_id:
            return
        now_ns = self._clock.monotonic_ns()
        left = [call for call in frame.calls if call.deadline_ns > now_ns and not call.done]
        frame.calls = [call for call in frame.calls if call.deadline_ns <= now_ns or call.done]
        self._put_back(left)
        self.wake()

    def _put_back(self, calls: list[Call]) -> None:
        for call in calls:
            call.frame = None
            self.queued_rows += call.rows
        self._waiting.put_back(calls, self._clock.monotonic_ns())

    # -- forming ---------------------------------------------------------------------------------

    def _schedule(self) -> None:
        self._flush_is_due = True
        self._call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        while self._waiting:
            link, room = self._choose()
            if link is None:
                return
            self._send(link, room)

    def _send(self, link: ReplicaLink, room: int) -> None:
        """Sends a frame of those who are next, unless one of them is not finite."""
        now_ns = self._clock.monotonic_ns()
        calls = self._take(link, room, now_ns=now_ns)
        if not calls:
            return
        try:
            frame = self._form(calls, now_ns)
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

    def _choose(self) -> tuple[ReplicaLink | None, int]:
        """The replica that takes a frame now and has the fewest outstanding rows; how many rows."""
        best, most = None, 0
        for link in self.links:
            room = self._room(link)
            if room and (best is None or link.outstanding_rows < best.outstanding_rows):
                best, most = link, room
        return best, most

    def _room(self, link: ReplicaLink) -> int:
        """How many rows a frame to this replica may have now; 0 where none may leave.

        One leaves for each credit; and without one when enough waits to be worth it and the
        replica has less than credits and full frames let out.
        """
        pace = self._pace
        if link.has_credit:
            return pace.frame_rows
        room = link.credits * pace.frame_rows - link.outstanding_rows
        if not link.ready or min(room, self.queued_rows) < pace.part_rows:
            return 0
        return min(room, pace.frame_rows)

    def _take(self, link: ReplicaLink, rows: int, *, now_ns: int) -> list[Call]:
        """The calls of the next frame. Those who cannot be answered in time are told so."""
        pace = self._pace
        needed_ns = pace.run_ns + link.outstanding_rows * pace.row_ns * len(self.links)
        horizon_ns = now_ns + int(needed_ns)
        room = FrameRoom(rows, self._most_bytes, now_ns, horizon_ns)
        if self.queued_rows > pace.frame_rows:
            self._waiting.arrange(now_ns)
        self._waiting.take(room)
        for call in room.calls:
            self.queued_rows -= call.rows
        for call in room.late:
            self._outcomes.hopeless(call)
        return room.calls

    def _form(self, calls: list[Call], now_ns: int) -> Frame | None:
        """A frame of `calls`; None when some were not finite and the others wait again."""
        tensors = columns_of(self.version, calls)
        rows = sum(call.rows for call in calls)
        if self._float_inputs and not all(call.request.vetted for call in calls):
            guilty = find_not_finite(calls, tensors, rows)
            if guilty:
                self._put_back(calls)
                for call in guilty:
                    self._outcomes.not_finite(call)
                return None
        frame = Frame(self, calls)
        seal(frame, tensors, rows=rows, now_ns=now_ns)
        return frame
