"""One request of an ensemble on its way through its stages: see `ensembles`.

A `Run` is driven by events on the loop: its beginning, an answer to all parts of a stage, a record that
became durable, a refusal. It ends once, with an answer, an error, or because nobody waits any more.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from serving.access.certificates import Credential
from serving.core.batches import BatchAnswer, BatchPart, RowBatch
from serving.core.models import ModelVersion, Stage
from serving.core.predictions import Fate
from serving.errors import (
    DeadlineExceeded,
    ModelFailed,
    NonFiniteInput,
    NoReplica,
    OutputInvalid,
    ReplicaLost,
    ServingError,
)
from serving.gateway.batching import VersionQueue
from serving.gateway.calls import Call, InferenceRequest, PartCall
from serving.gateway.forming import Frame
from serving.gateway.pool import PoolTensor, joined, nothing_of, outputs_of, requests_of
from serving.predictionlog.format import Flag

if TYPE_CHECKING:
    from serving.gateway.ensembles import EnsembleQueue

_FATES: Final = (
    (DeadlineExceeded, Fate.TIMEOUT),
    (ModelFailed, Fate.MODEL_ERROR),
    (OutputInvalid, Fate.INVALID_OUTPUT),
    (NoReplica, Fate.REPLICA_LOST),
    (ReplicaLost, Fate.REPLICA_LOST),
)


class Run:
    """One call of an ensemble: what there is, what is under way, what is still to come."""

    def __init__(self, queue: "EnsembleQueue", call: Call) -> None:
        self._queue = queue
        self._call = call
        self._pool: dict[str, PoolTensor] = {}
        self._left: list[Stage] = list(queue.version.stages)
        self._steps: dict[str, Step] = {}
        self._unsettled = 0
        self._run_us = 0.0
        self._queue_us = 0
        self._over = False

    def begin(self) -> None:
        call, version = self._call, self._queue.version
        if self._ended:
            return
        if not self._queue.is_finite(call):
            self._queue.outcomes.not_finite(call)
            return
        for tensor, shape, content in zip(version.inputs, call.shapes, call.inputs, strict=True):
            whole = (call.rows, *shape) if version.batched else shape
            self._pool[tensor.name] = PoolTensor(tensor.datatype, whole, content)
        self._advance()

    def expire(self) -> None:
        """The deadline has passed."""
        names = ", ".join(self._steps) or "its first stage"
        error = DeadlineExceeded("the deadline passed before there was an answer")
        self.fail(names, error)

    def give_up(self) -> None:
        """The call has its fate; parts that are under way have theirs now."""
        self._over = True
        for step in self._steps.values():
            for part in step.parts:
                part.abandon()

    def fail(self, stage: str, error: ServingError) -> None:
        if self._ended:
            return
        fate = next((fate for kind, fate in _FATES if isinstance(error, kind)), Fate.TIMEOUT)
        if isinstance(error, NonFiniteInput):
            error = OutputInvalid("the stages before it gave NaN or infinity")
            fate = Fate.INVALID_OUTPUT
        named = type(error)(f"stage {stage}: {error.message}")
        self._queue.outcomes.stage_failed(self._call, fate, named, stage=stage)

    # -- what parts tell -------------------------------------------------------------------------

    def delivered(self, step: "Step") -> None:
        """All parts of a stage have answered; their records are being written."""
        self._queue.later(lambda: self._take(step))

    def settled(self) -> None:
        """The record of a part is durable."""
        self._unsettled -= 1
        if not self._unsettled and not self._left and not self._steps:
            self._queue.later(self._finish)

    # -- inside ----------------------------------------------------------------------------------

    @property
    def _ended(self) -> bool:
        return self._over or self._call.done

    def _take(self, step: "Step") -> None:
        """Puts what a stage gave among the tensors, and goes on."""
        if self._ended:
            return
        del self._steps[step.stage.name]
        try:
            found = step.outputs()
        except ServingError as error:
            self.fail(step.stage.name, error)
            return
        self._pool |= found
        self._run_us += step.run_us
        self._queue_us += step.queue_us
        self._advance()

    def _advance(self) -> None:
        """Starts every stage that has all it takes."""
        progress = True
        while progress and not self._ended:
            due = [
                stage
                for stage in self._left
                if all(source in self._pool for _, source in stage.inputs)
            ]
            progress = bool(due)
            for stage in due:
                self._left.remove(stage)
                try:
                    self._start(stage)
                except ServingError as error:
                    self.fail(stage.name, error)
                    return
        if not self._left and not self._steps and not self._unsettled and not self._ended:
            self._finish()

    def _start(self, stage: Stage) -> None:
        """Raises NoReplica, OutputInvalid."""
        queue = self._queue.stage_queue(stage)
        if queue is None:
            raise NoReplica("no replica of it is up")
        sources = dict(stage.inputs)
        tensors = [self._pool[sources[each.name]] for each in queue.version.inputs]
        version = queue.version
        if version.batched and all(tensor.is_empty for tensor in tensors):
            self._pool |= nothing_of(stage, version)
            return
        step = Step(stage, version, self)
        for request in requests_of(self._call, version, tensors):
            step.parts.append(self._part(step, queue, request))
        self._steps[stage.name] = step
        self._unsettled += len(step.parts)
        if self._call.request.subject or self._call.queue.seals:
            queue.note_subject()
        queue.takes_parts = True
        for part in step.parts:
            queue.append(part)

    def _part(self, step: "Step", queue: VersionQueue, request: InferenceRequest) -> PartCall:
        whole = self._call
        part = PartCall(whole.pipeline, queue, request, whole.principal)
        part.exchange = PartExchange(step)
        part.shadow_of = whole.sequence
        part.kind = Flag.PART
        part.share = whole.share
        part.level = whole.level
        part.trace_id = whole.trace_id
        part.arrived_ns = part.since_ns = self._queue.now_ns()
        part.deadline_ns = whole.deadline_ns
        self._queue.outcomes.identify(part)
        return part

    def _finish(self) -> None:
        """All stages have answered and every part's record is durable."""
        if self._ended:
            return
        call, queue = self._call, self._queue
        try:
            outputs = outputs_of(call, queue.version, self._pool)
        except ServingError as error:
            queue.outcomes.stage_failed(call, Fate.INVALID_OUTPUT, error, stage="")
            return
        # No batch of its own: the call is all there is in it.
        part = BatchPart(call.rows, 0, call.rows, 0, self._queue_us, round(self._run_us))
        frame = Frame(queue, [call])
        frame.batch = RowBatch(queue.version.digest, call.rows, ())
        call.frame = frame
        frame.answered(BatchAnswer(call.rows, outputs, (part,)))


class Step:
    """A stage of a run that is under way: its parts, in the order of their rows."""

    def __init__(self, stage: Stage, version: ModelVersion, run: Run) -> None:
        self.stage = stage
        self.run = run
        self.parts: list[PartCall] = []
        self._version = version
        self._blocks: dict[Call, Sequence[PoolTensor]] = {}

    @property
    def run_us(self) -> float:
        """Its share of the batches that it was in."""
        return sum(part.run_us * part.rows / max(part.batch_size, 1) for part in self.parts)

    @property
    def queue_us(self) -> int:
        return max(part.queue_us for part in self.parts)

    def deliver(self, part: Call) -> None:
        frame = part.frame
        if frame is None or frame.answer is None:
            raise ValueError("a part without an answer was delivered. This is a bug")
        self._blocks[part] = [
            PoolTensor(
                block.datatype,
                (part.rows, *block.row_shape) if self._version.batched else block.row_shape,
                content,
            )
            for block, content in zip(frame.answer.outputs, part.outputs, strict=True)
        ]
        if len(self._blocks) == len(self.parts):
            self.run.delivered(self)

    def outputs(self) -> dict[str, PoolTensor]:
        """By their names in the ensemble. Raises OutputInvalid."""
        columns = zip(*(self._blocks[part] for part in self.parts), strict=True)
        own = [tensor.name for tensor in self._version.outputs]
        by_name = dict(zip(own, columns, strict=True))
        return {tensor: joined(by_name[name]) for name, tensor in self.stage.outputs}


class PartExchange:
    """The ensemble as the caller of one of its stages; fits `calls.Exchange`."""

    authorization: Credential = b""
    traceparent: bytes | None = None
    timeout_s: float | None = None

    def __init__(self, step: Step) -> None:
        self.model: str = step.stage.model
        self.version: str | None = step.stage.version
        self._step = step

    def header(self, name: str) -> bytes:
        del name
        return b""

    def decode(self, version: ModelVersion) -> InferenceRequest:
        raise NotImplementedError("a part was never encoded. This is a bug")

    def encode(self, call: Call) -> bytes:
        """The stage has answered; its record is written next."""
        self._step.deliver(call)
        return b""

    def send(self, payload: bytes) -> None:
        """The record is durable."""
        del payload
        self._step.run.settled()

    def refuse(self, error: ServingError, *, prediction_id: str | None = None) -> None:
        del prediction_id
        self._step.run.fail(self._step.stage.name, error)

    def watch(self, call: Call) -> None:
        """Nobody goes away but the ensemble, which ends its parts itself."""
