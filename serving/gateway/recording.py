"""From calls to log records: the gateway's use of the prediction log."""

from collections.abc import Callable, Sequence
from itertools import chain, groupby
from operator import attrgetter
from typing import Final, Protocol

from serving.core.predictions import Fate
from serving.errors import ServingError
from serving.gateway.batching import VersionQueue
from serving.gateway.calls import Call, ShapeKey
from serving.predictionlog.format import Definition, TensorShape
from serving.predictionlog.records import BatchFacts, encode_predictions
from serving.predictionlog.writer import MAX_DEFINITIONS

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


class Recorder:
    """Encodes and appends. `epoch` is that of the routing table in force."""

    def __init__(self, log: PredictionLog) -> None:
        self.epoch = 0
        self.next_sequence = log.next_sequence
        self.append = log.append
        self._log = log
        self._definitions: dict[tuple[VersionQueue, ShapeKey, ShapeKey | None], int] = {}

    def check(self) -> None:
        """Raises LogUnavailable or LogStorageFull while nothing can be recorded."""
        refusal = self._log.refusal
        if refusal is not None:
            raise refusal

    def prediction_id(self, sequence: int) -> str:
        return f"{self._log.log_id}-{sequence:x}"

    def encode(
        self,
        calls: Sequence[Call],
        fate: Fate,
        *,
        reason: str = "",
        output_shapes: ShapeKey | None = None,
    ) -> list[bytes]:
        """One record per call, in order; all of one version and one shape.

        output_shapes: of each output without rows, None when there are no outputs.
        """
        if calls[0].batch_id != calls[-1].batch_id:
            batches = groupby(calls, key=attrgetter("batch_id"))
            parts = [list(batch) for _, batch in batches]
            nested = [
                self.encode(part, fate, reason=reason, output_shapes=output_shapes)
                for part in parts
            ]
            return list(chain.from_iterable(nested))
        first = calls[0]
        facts = BatchFacts(
            definition=self._definition(first, output_shapes),
            fate=fate,
            reason=reason.encode(),
            policy_epoch=self.epoch,
            run_us=first.run_us,
            batch_id=first.batch_id,
            batch_size=first.batch_size,
        )
        return encode_predictions(facts, calls)

    def _definition(self, call: Call, output_shapes: ShapeKey | None) -> int:
        key = (call.queue, call.shapes, output_shapes)
        known = self._definitions.get(key)
        if known is None:
            if len(self._definitions) >= MAX_KNOWN_DEFINITIONS:
                self._definitions.clear()
            known = self._definitions[key] = self._log.define(_define(call, output_shapes))
        return known


def _define(call: Call, output_shapes: ShapeKey | None) -> Definition:
    version = call.queue.version
    outputs: tuple[TensorShape, ...] = ()
    if output_shapes is not None:
        outputs = tuple(
            TensorShape(tensor.name, tensor.datatype, shape)
            for tensor, shape in zip(version.outputs, output_shapes, strict=True)
        )
    return Definition(
        model=version.model,
        version=version.version,
        digest=version.digest,
        inputs=tuple(
            TensorShape(tensor.name, tensor.datatype, shape)
            for tensor, shape in zip(version.inputs, call.shapes, strict=True)
        ),
        outputs=outputs,
    )
