"""Recorded predictions, run once more by another version or file, and compared row by row.

Only answered predictions of callers are replayed, not the copies that candidates got. What cannot be
is counted by reason and not guessed: an input or output that was hashed, dropped, cut off, encrypted
for want of its key, or erased; inputs that the other version does not take.

The result (`results`) is also the checkpoint: a run that is resumed goes on with what is not in it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from serving.core.clock import Clock
from serving.core.models import ModelVersion
from serving.core.predictions import Fate, NamedTensor, PredictionRecord
from serving.core.tensors import Array
from serving.errors import ModelFailed
from serving.ledger.differences import Tolerance, compare
from serving.ledger.results import ReplayCounts, ReplayedRow, ResultFile
from serving.predictionlog.reading.rendering import tensor_json

MOST_SHOWN_ELEMENTS: Final = 16
"""Of a row of an output: longer ones are compared, and their values left out of the result."""


class Runner(Protocol):
    """What runs recorded inputs once more."""

    version: ModelVersion

    def run(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """Raises ModelFailed."""


class Unreplayable(Exception):
    """Why a record cannot be run again."""


@dataclass(frozen=True, slots=True)
class Pace:
    """At most so many records a second; None: as fast as it goes."""

    clock: Clock
    records_per_s: float | None = None

    def keep(self, records: Iterable[PredictionRecord]) -> Iterator[PredictionRecord]:
        began_ns = self.clock.monotonic_ns()
        for index, record in enumerate(records):
            if self.records_per_s is not None:
                due_ns = began_ns + round(index / self.records_per_s * 1e9)
                early_ns = due_ns - self.clock.monotonic_ns()
                if early_ns > 0:
                    self.clock.sleep(early_ns / 1e9)
            yield record


class Replay:
    """One run over records. `counts` are those of the result, with what an earlier run put there."""

    def __init__(self, runner: Runner, result: ResultFile, *, tolerance: Tolerance) -> None:
        self.counts: ReplayCounts = result.counts
        self._runner = runner
        self._result = result
        self._tolerance = tolerance
        self._inputs = runner.version.inputs
        self._outputs = [tensor.name for tensor in runner.version.outputs]

    def run(
        self,
        records: Iterable[PredictionRecord],
        *,
        limit: int | None,
        advanced: Callable[[int], None],
    ) -> None:
        """Returns when everything is replayed and on disk. limit: of records, earlier runs included.

        advanced: told how many records are done.
        """
        for record in records:
            if limit is not None and self.counts.records >= limit:
                break
            if self._result.holds(record.prediction_id):
                continue
            self._take(record)
            advanced(self.counts.records)
        self._result.sync()

    def _take(self, record: PredictionRecord) -> None:
        if not record.asked:
            return
        try:
            inputs, recorded = self._replayable(record)
        except Unreplayable as reason:
            self.counts.skip(str(reason))
            return
        try:
            replayed = self._runner.run(inputs)
        except ModelFailed:
            self._result.failed(record)
            return
        self._result.add(self._rows(record, recorded, replayed))

    def _replayable(self, record: PredictionRecord) -> tuple[list[Array], list[NamedTensor]]:
        if record.fate is not Fate.OK:
            raise Unreplayable("not_answered")
        for tensor in (*record.inputs, *record.outputs):
            if tensor.keeping != "kept":
                raise Unreplayable(tensor.keeping)
        inputs = {tensor.name: tensor for tensor in record.inputs}
        outputs = {tensor.name: tensor for tensor in record.outputs}
        arrays = []
        for wanted in self._inputs:
            given = inputs.get(wanted.name)
            if given is None or given.datatype != wanted.datatype:
                raise Unreplayable("other_inputs")
            if not wanted.admits(given.array.shape):
                raise Unreplayable("other_inputs")
            arrays.append(np.ascontiguousarray(given.array))
        if not all(name in outputs for name in self._outputs):
            raise Unreplayable("other_outputs")
        return arrays, [outputs[name] for name in self._outputs]

    def _rows(
        self, record: PredictionRecord, recorded: Sequence[NamedTensor], replayed: Sequence[Array]
    ) -> list[ReplayedRow]:
        again = [
            NamedTensor(tensor.name, tensor.datatype, array)
            for tensor, array in zip(recorded, replayed, strict=True)
        ]
        found = [
            compare(before.array, after.array, self._tolerance)
            for before, after in zip(recorded, again, strict=True)
        ]
        return [
            ReplayedRow(
                prediction_id=record.prediction_id,
                row=row,
                rows=record.rows,
                time_ns=record.time_ns,
                version=record.version,
                exact=all(bool(each.exact[row]) for each in found),
                within=all(bool(each.within[row]) for each in found),
                flipped=any(bool(each.flipped[row]) for each in found),
                distance=max(float(each.distance[row]) for each in found),
                recorded={each.name: _shown(each, row) for each in recorded},
                replayed={each.name: _shown(each, row) for each in again},
            )
            for row in range(record.rows)
        ]


def _shown(tensor: NamedTensor, row: int) -> Any:
    """A row's value as JSON has it; None for a long one, or one that is not there."""
    value = tensor.array[row : row + 1]
    if not 0 < value.size <= MOST_SHOWN_ELEMENTS:
        return None
    return tensor_json(NamedTensor(tensor.name, tensor.datatype, value), full=True)["data"][0]
