"""Level 2 of batching: pending frames become batches, answers become frames again.

Forming is separate from running and needs no clock and no socket. Rules: rows keep their order;
only rows of the same shape share a batch, after padding where the version declares it; a batch never
exceeds the size asked for, so a frame may be cut into several batches. Running fails closed: an answer
that does not have exactly the rows, types and shapes that were promised is nobody's answer. A failing
batch is bisected, so that only the guilty rows fail; a single guilty row among n costs 2 log2(n) extra
runs. One that found no memory is tried once more in two halves; where a half finds none either, its
rows fail with that reason, which is nobody's guilt.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from serving.core.batches import BatchAnswer, BatchPart, RowBatch, RowFailure, TensorBlock
from serving.core.models import ModelVersion
from serving.core.tensors import Array, zeros
from serving.errors import ModelFailed, OutOfMemory, OutputInvalid
from serving.inference.padding import Fit, Padder, RowShapes

Run = Callable[[Sequence[Array]], list[Array]]


@dataclass(slots=True, eq=False)
class PendingFrame:
    """A frame between its arrival and its answer. Times are monotonic nanoseconds.

    fit: where its rows belong, for a version that declares padding. outputs: of each run that held
    rows of it, cut to its length, None where every one of those rows failed.
    """

    batch: RowBatch
    arrays: tuple[Array, ...]
    arrived_ns: int
    deadline_ns: int
    reply: Callable[[BatchAnswer], object]
    fit: Fit | None = None
    taken_rows: int = 0
    outputs: list[list[Array] | None] = field(default_factory=list)
    parts: list[BatchPart] = field(default_factory=list)
    failures: dict[int, RowFailure] = field(default_factory=dict)
    answered_rows: int = 0

    @property
    def shape_key(self) -> RowShapes:
        if self.fit is not None:
            return self.fit.row_shapes
        return tuple(tensor.row_shape for tensor in self.batch.tensors)

    def answer(self) -> BatchAnswer:
        """The whole answer, once every row has run. Without outputs when no row has one.

        Pieces that ran apart and came back in different shapes are nobody's answer.
        """
        rows, parts = self.batch.rows, tuple(self.parts)
        good = [pieces for pieces in self.outputs if pieces is not None]
        if not good:
            return BatchAnswer(rows, (), parts, self.failures)
        if not _alike(good):
            return self.fail(RowFailure.INVALID_OUTPUT)
        whole = [
            [_zeros_like(output, part.rows) for output in good[0]] if pieces is None else pieces
            for pieces, part in zip(self.outputs, parts, strict=True)
        ]
        outputs = tuple(map(_block, zip(*whole, strict=True)))
        return BatchAnswer(rows, outputs, parts, self.failures)

    def fail(self, reason: RowFailure) -> BatchAnswer:
        """The answer to a frame of which no row counts, whether all of them have run or not."""
        rows, parts = self.batch.rows, tuple(self.parts)
        if self.answered_rows < rows:
            parts = (*parts, BatchPart(rows - self.answered_rows, 0, 0, 0, 0, 0))
        return BatchAnswer(rows, (), parts, dict.fromkeys(range(rows), reason))


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows `start` to `stop` of a frame, part of one batch."""

    frame: PendingFrame
    start: int
    stop: int


def form_batch(pending: deque[PendingFrame], *, max_rows: int) -> list[Slice]:
    """Takes up to `max_rows` rows of one shape from the front of `pending`, in order.

    Frames whose last row was taken leave `pending`; frames of another shape keep their place.
    """
    slices: list[Slice] = []
    room = max_rows
    key = pending[0].shape_key
    for frame in [frame for frame in pending if frame.shape_key == key]:
        stop = min(frame.batch.rows, frame.taken_rows + room)
        slices.append(Slice(frame, frame.taken_rows, stop))
        room -= stop - frame.taken_rows
        frame.taken_rows = stop
        if stop == frame.batch.rows:
            pending.remove(frame)
        if room == 0:
            break
    return slices


def merge_inputs(slices: Sequence[Slice], padder: Padder | None = None) -> list[Array]:
    """The inputs of the batch, one array per tensor; a view when one slice is all there is.

    padder: of a version that declares padding; its frames all have a fit.
    """
    pieces = [[array[s.start : s.stop] for array in s.frame.arrays] for s in slices]
    if padder is not None:
        return padder.merge(pieces, [s.frame.fit for s in slices if s.frame.fit is not None])
    if len(pieces) == 1:
        return pieces[0]
    return [np.concatenate(column) for column in zip(*pieces, strict=True)]


def check_outputs(outputs: Sequence[Array], *, version: ModelVersion, rows: int) -> None:
    """Raises OutputInvalid unless there is exactly one well-formed row for each row sent."""
    if len(outputs) != len(version.outputs):
        raise OutputInvalid("the model returned another number of outputs than it declares")
    for output, declared in zip(outputs, version.outputs, strict=True):
        if output.ndim == 0 or output.shape[0] != rows:
            raise OutputInvalid(f"output {declared.name} has another number of rows than was sent")
        if output.dtype != declared.dtype or not declared.admits(output.shape):
            raise OutputInvalid(f"output {declared.name} differs from its declaration")


def run_isolating(
    run: Run, inputs: Sequence[Array], *, version: ModelVersion, is_half: bool = False
) -> tuple[list[Array], dict[int, RowFailure]]:
    """Runs `inputs`; rows that fail alone are named and answered with zeros.

    is_half: of a batch that found no memory, so that it is not cut again for that. Raises OutputInvalid when the model's answer has the wrong form: then no row can be trusted.
    """
    rows = len(inputs[0])
    try:
        outputs = run(inputs)
    except OutOfMemory:
        if is_half or rows == 1:
            return _zeros(version, rows), dict.fromkeys(range(rows), RowFailure.NO_MEMORY)
        return _bisect(run, inputs, version=version, are_halves=True)
    except ModelFailed:
        if rows == 1:
            return _zeros(version, rows), {0: RowFailure.MODEL_ERROR}
        return _bisect(run, inputs, version=version, are_halves=is_half)
    check_outputs(outputs, version=version, rows=rows)
    return outputs, {}


def _bisect(
    run: Run, inputs: Sequence[Array], *, version: ModelVersion, are_halves: bool
) -> tuple[list[Array], dict[int, RowFailure]]:
    middle = len(inputs[0]) // 2
    isolating = partial(run_isolating, run, version=version, is_half=are_halves)
    left, failures = isolating([a[:middle] for a in inputs])
    right, more = isolating([a[middle:] for a in inputs])
    if len(failures) == middle:
        left = [_zeros_like(output, middle) for output in right]
    elif len(more) == len(right[0]):
        right = [_zeros_like(output, len(more)) for output in left]
    elif not _alike((left, right)):
        raise OutputInvalid("the model answered halves of a batch in different shapes")
    failures |= {row + middle: failure for row, failure in more.items()}
    return [np.concatenate(pair) for pair in zip(left, right, strict=True)], failures


def _zeros_like(output: Array, rows: int) -> Array:
    """Zeros for failed rows, in the shape that their neighbours' answers have."""
    return zeros((rows, *output.shape[1:]), output.dtype)


def _zeros(version: ModelVersion, rows: int) -> list[Array]:
    return [
        zeros((rows, *(abs(size) for size in output.row_shape)), output.dtype)
        for output in version.outputs
    ]


def _alike(runs: Sequence[Sequence[Array]]) -> bool:
    """Whether the outputs of several runs have rows of the same shapes."""
    return all(
        len({output.shape[1:] for output in column}) == 1 for column in zip(*runs, strict=True)
    )


def split_outputs(
    slices: Sequence[Slice],
    outputs: Sequence[Array],
    failures: dict[int, RowFailure],
    part: BatchPart,
    *,
    padder: Padder | None = None,
) -> list[PendingFrame]:
    """Hands every slice its rows; returns the frames that are now complete.

    outputs: not looked at for a slice whose rows all failed. part: what is the same for the whole
    batch, and the wait of its oldest frame; rows, position and the frame's own wait are filled in
    per slice. padder: cuts what belongs to padding.
    """
    oldest_ns = min(s.frame.arrived_ns for s in slices)
    complete = []
    position = 0
    for s in slices:
        count = s.stop - s.start
        frame = s.frame
        own = {row - position: f for row, f in failures.items() if 0 <= row - position < count}
        failed = len(own) == count
        own_rows = None if failed else [output[position : position + count] for output in outputs]
        if own_rows is not None and padder is not None and frame.fit is not None:
            own_rows = padder.cut(own_rows, frame.fit)
        frame.outputs.append(own_rows)
        queue_us = max(part.queue_us - (frame.arrived_ns - oldest_ns) // 1000, 0)
        frame.parts.append(
            BatchPart(count, part.batch_id, part.batch_rows, position, queue_us, part.run_us)
        )
        frame.failures |= {row + s.start: failure for row, failure in own.items()}
        frame.answered_rows += count
        position += count
        if frame.answered_rows == frame.batch.rows:
            complete.append(frame)
    return complete


def _block(pieces: Sequence[Array]) -> TensorBlock:
    return TensorBlock.of(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))
