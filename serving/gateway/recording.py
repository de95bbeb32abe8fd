"""From calls to log records: the gateway's use of the prediction log."""

from collections.abc import Callable, Sequence
from itertools import chain, groupby
from operator import attrgetter
from typing import Final, Protocol

from serving.core.clock import SystemClock
from serving.core.models import Recording
from serving.core.predictions import Fate
from serving.core.tensors import TensorSpecification
from serving.errors import LogUnavailable, ServingError
from serving.gateway.batching import VersionQueue
from serving.gateway.calls import Call, ShapeKey
from serving.gateway.policies import Policies
from serving.predictionlog.format import Definition, TensorShape
from serving.predictionlog.payloads import NO_LIMITS, PayloadLimits
from serving.predictionlog.records import BatchFacts, encode_predictions, encode_record
from serving.predictionlog.writing.accounts import Accounts
from serving.predictionlog.writing.guards import Guard
from serving.predictionlog.writing.writer import MAX_DEFINITIONS

MAX_KNOWN_DEFINITIONS: Final = MAX_DEFINITIONS // 4
"""Well below what the log remembers: shapes are the callers' choice, there is no end of them."""

Done = Callable[[ServingError | None], None]


class PredictionLog(Protocol):
    """What the request path needs of the log; `PredictionLogWriter` fits by shape."""

    log_id: str

    @property
    def refusal(self) -> ServingError | None: ...
    def next_sequence(self) -> int: ...
    def define(self, definition: Definition) -> int: ...
    def append(self, records: Sequence[bytes], done: Done) -> None: ...


class EventLog:
    """The log for what is no request: its sequences are not counted as admitted ones."""

    def __init__(self, log: PredictionLog, accounts: Accounts) -> None:
        self.log_id = log.log_id
        self.append = log.append
        self.define = log.define
        self._log = log
        self._accounts = accounts

    @property
    def refusal(self) -> ServingError | None:
        return self._log.refusal

    def next_sequence(self) -> int:
        self._accounts.events += 1
        return self._log.next_sequence()


class Recorder:
    """Encodes and appends. `epoch` is that of the routing table in force."""

    def __init__(
        self,
        log: PredictionLog,
        *,
        accounts: Accounts | None = None,
        policies: Policies | None = None,
        limits: PayloadLimits = NO_LIMITS,
    ) -> None:
        """accounts: None counts in memory only. policies: None has neither keys nor a spill."""
        self.epoch = 0
        self.next_sequence = log.next_sequence
        self.accounts = accounts = accounts or Accounts()
        self.events = EventLog(log, accounts)
        self._log = log
        self._append = log.append
        self._policies = policies or Policies(self.events, accounts, clock=SystemClock())
        self._limits = limits
        self._definitions: dict[tuple[VersionQueue, ShapeKey, ShapeKey | None], int] = {}
        self._guards: dict[VersionQueue, Guard] = {}

    def check(self, queue: VersionQueue) -> None:
        """Raises LogUnavailable or LogStorageFull while requests of this version cannot be recorded
        as it demands."""
        refusal = self._log.refusal
        if refusal is not None:
            self._policies.tolerate(queue, refusal)

    def prediction_id(self, sequence: int) -> str:
        return f"{self._log.log_id}-{sequence:x}"

    def record_answers(self, calls: Sequence[Call], records: Sequence[bytes], done: Done) -> None:
        """The answers leave when it is done, or do not. calls: of one version."""
        if calls[0].queue.plain:
            self._append(records, done)
        else:
            self._policies.append(calls, records, done, answers=True)

    def record_failure(self, call: Call, records: Sequence[bytes], done: Done) -> None:
        if call.queue.plain:
            self._append(records, done)
        else:
            self._policies.append([call], records, done, answers=False)

    def answered(self, calls: Sequence[Call]) -> None:
        """The answers to calls of one version leave now."""
        queue = calls[0].queue
        recorded = queue.plain or self._policies.waits(queue)
        self.accounts.answer(len(calls), recorded=recorded)

    def refused(self, calls: Sequence[Call]) -> None:
        """Answers that cannot be recorded do not leave."""
        self.accounts.refused += len(calls)
        self.accounts.publish()

    def failed(self, log_error: ServingError | None) -> None:
        """A call ended without an answer, and that is recorded, or cannot be."""
        if log_error is None:
            self.accounts.failed += 1
        else:
            self.accounts.refused += 1
        self.accounts.publish()

    def encode(
        self,
        calls: Sequence[Call],
        fate: Fate,
        *,
        reason: str = "",
        output_shapes: ShapeKey | None = None,
    ) -> list[bytes]:
        """One record per call, in order; all of one version and one shape, all parts or none.

        output_shapes: of each output without rows, None when there are no outputs.
        """
        first = calls[0]
        if first.batch_id != calls[-1].batch_id or (first.queue.kinds and _differ(calls)):
            batches = groupby(calls, key=attrgetter("batch_id", "kind"))
            parts = [list(batch) for _, batch in batches]
            nested = [
                self.encode(part, fate, reason=reason, output_shapes=output_shapes)
                for part in parts
            ]
            return list(chain.from_iterable(nested))
        facts = BatchFacts(
            definition=self._definition(first, output_shapes),
            fate=fate,
            reason=reason.encode(),
            policy_epoch=self.epoch,
            run_us=first.run_us,
            batch_id=first.batch_id,
            batch_size=first.batch_size,
            limits=self._limits,
            kind=first.kind,
        )
        if not first.queue.guarded or not _are_guarded(calls):
            return encode_predictions(facts, calls)
        return self._encode_guarded(facts, calls, output_shapes)

    def _encode_guarded(
        self, facts: BatchFacts, calls: Sequence[Call], output_shapes: ShapeKey | None
    ) -> list[bytes]:
        first = calls[0]
        guard = self._guard(first.queue)
        definition = _define(first, output_shapes)
        frames = []
        for call in calls:
            payload = guard.payload(
                call,
                subject=call.request.subject,
                definition=definition,
                number=facts.definition,
            )
            frames.append(encode_record(facts, call, payload))
        return frames

    def _guard(self, queue: VersionQueue) -> Guard:
        guard = self._guards.get(queue)
        if guard is None:
            if len(self._guards) >= MAX_KNOWN_DEFINITIONS:
                self._guards.clear()
            keys = self._policies.keys
            if keys is None:
                raise LogUnavailable("this gateway has no keys for what it may not record openly")
            guard = self._guards[queue] = Guard(queue.version, keys, self._limits)
        return guard

    def _definition(self, call: Call, output_shapes: ShapeKey | None) -> int:
        key = (call.queue, call.shapes, output_shapes)
        known = self._definitions.get(key)
        if known is None:
            if len(self._definitions) >= MAX_KNOWN_DEFINITIONS:
                self._definitions.clear()
            known = self._definitions[key] = self._log.define(_define(call, output_shapes))
        return known


def _are_guarded(calls: Sequence[Call]) -> bool:
    """Whether something is done to payloads of theirs. Their queue was marked by the first request that
    named a data subject, for good: others are still to come; but most frames have none."""
    if calls[0].queue.version.recording.fields:
        return True
    return any(call.request.subject for call in calls)


def _differ(calls: Sequence[Call]) -> bool:
    return len({call.kind for call in calls}) > 1


def _define(call: Call, output_shapes: ShapeKey | None) -> Definition:
    version = call.queue.version
    outputs: tuple[TensorShape, ...] = ()
    if output_shapes is not None:
        outputs = _shapes(version.outputs, output_shapes, version.recording)
    return Definition(
        model=version.model,
        version=version.version,
        digest=version.digest,
        inputs=_shapes(version.inputs, call.shapes, version.recording),
        outputs=outputs,
    )


def _shapes(
    tensors: Sequence[TensorSpecification], shapes: ShapeKey, recording: Recording
) -> tuple[TensorShape, ...]:
    treatments = dict(recording.fields)
    return tuple(
        TensorShape(
            tensor.name,
            tensor.datatype,
            shape,
            tensor.features,
            treatments.get(tensor.name, "keep"),
        )
        for tensor, shape in zip(tensors, shapes, strict=True)
    )
