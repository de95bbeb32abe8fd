"""Ensembles: one request that is answered by several model versions, one after the other.

An `EnsembleQueue` stands where the queue of any version stands, and has no replicas. For each call it
keeps a `Run`: the tensors that there are so far, and the parts that are under way. A part is a call of
its own to a stage's version: it waits in that version's queue and shares frames with everybody else's
calls, at its caller's turn, with the priority and the deadline of the request. Stages run as soon as
all they take is there, so those that do not need each other run at the same time.

Rows may become more or fewer from stage to stage. A stage that counts rows and gets none is not run:
what it gives is empty. More rows than its largest batch become several calls, up to `pool.MAX_STAGE_ROWS`.

Every part has a record of its own, which names the ensemble's. The next stage begins while it is being
written; the answer leaves when all of them and the ensemble's own are durable, or not at all. A part
that fails ends the request, and whatever else of it is under way; the message names the stage.
"""

from collections.abc import Callable
from typing import Final, Protocol

from serving.core.batches import BatchAnswer
from serving.core.clock import Clock
from serving.core.models import ModelVersion, Stage
from serving.core.predictions import Fate
from serving.errors import (
    ServingError,
)
from serving.gateway.admission import Share
from serving.gateway.batching import VersionQueue
from serving.gateway.calls import Call
from serving.gateway.forming import Frame, Outcomes, columns_of, find_not_finite
from serving.gateway.runs import Run
from serving.gateway_settings import AdmissionSettings, ChannelSettings

_NEVER: Final = 2**62


class StageOutcomes(Outcomes, Protocol):
    """Who is told what became of an ensemble's calls: `pipeline.Pipeline`."""

    def identify(self, call: Call) -> None:
        """Gives a part its place in the log: from here on it ends with exactly one record."""

    def stage_failed(self, call: Call, fate: Fate, error: ServingError, *, stage: str) -> None:
        """The call fails because that stage did."""


class EnsembleQueue(VersionQueue):
    """The calls of one ensemble. find: the queue of a stage's version, by `model@version`."""

    def __init__(
        self,
        version: ModelVersion,
        *,
        settings: ChannelSettings,
        admission: AdmissionSettings,
        clock: Clock,
        outcomes: StageOutcomes,
        find: Callable[[str], VersionQueue | None],
        call_soon: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        super().__init__(
            version,
            settings=settings,
            admission=admission,
            clock=clock,
            outcomes=outcomes,
            call_soon=call_soon,
        )
        self.outcomes = outcomes
        self._find = find
        self._runs: dict[Call, Run] = {}
        self.alarm_rows = _NEVER

    @property
    def ready(self) -> bool:
        """Whether every stage could be run now."""
        return all(self.stage_queue(stage) is not None for stage in self.version.stages)

    @property
    def idle(self) -> bool:
        return not self._runs

    @property
    def oldest_s(self) -> float:
        now_ns = self._clock.monotonic_ns()
        return max((now_ns - call.since_ns for call in self._runs), default=0) / 1e9

    def stage_queue(self, stage: Stage) -> VersionQueue | None:
        """The queue of a stage's version; None when it is another version, or has no replica."""
        queue = self._find(stage.key)
        is_right = queue is not None and queue.version.digest == stage.digest
        return queue if is_right and queue is not None and queue.ready else None

    def foresee(self, share: Share, timeout_s: float, *, level: int | None = None) -> None:
        """As each of the stages foresees it."""
        for stage in self.version.stages:
            queue = self.stage_queue(stage)
            if queue is not None:
                queue.foresee(share, timeout_s, level=level)

    def append(self, call: Call) -> None:
        """Begins with the next turn of the loop, when everything about the call is known."""
        run = self._runs[call] = Run(self, call)
        self.later(run.begin)

    def discard(self, call: Call) -> None:
        """Nobody waits for the call any more: what is under way for it ends."""
        run = self._runs.pop(call, None)
        if run is not None:
            run.give_up()

    def sweep(self, now_ns: int) -> None:
        """Ends what cannot be answered any more; newcomers are judged by the fullest stage."""
        for call, run in list(self._runs.items()):
            if call.deadline_ns < now_ns and not call.done:
                run.expire()
        queues = [queue for each in self.version.stages if (queue := self._find(each.key))]
        self.queued_rows = max((queue.queued_rows for queue in queues), default=0)
        self.alarm_rows = 0 if any(queue.pressed for queue in queues) else _NEVER
        self.doubtful_s = max((queue.doubtful_s for queue in queues), default=0.0)

    def answered(self, frame: Frame, answer: BatchAnswer) -> None:
        """All stages of a run have answered."""
        for call in frame.calls:
            self._runs.pop(call, None)
        self.outcomes.answered(frame, answer)

    def later(self, act: Callable[[], None]) -> None:
        self._call_soon(act)

    def now_ns(self) -> int:
        return self._clock.monotonic_ns()

    def is_finite(self, call: Call) -> bool:
        """Whether the caller's numbers are, as far as the ensemble cares."""
        if call.request.vetted or not self._float_inputs:
            return True
        return not find_not_finite([call], columns_of(self.version, [call]), call.rows)
