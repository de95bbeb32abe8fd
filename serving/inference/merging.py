"""Level 2 of batching: pending frames become batches, answers become frames again.

Forming is separate from running and needs no clock and no socket. Rules: rows keep their order;
only rows of the same shape share a batch; a batch never exceeds the size asked for, so a frame may
be cut into several batches. Running fails closed: an answer that does not have exactly the rows,
types and shapes that were promised is nobody's answer. A failing batch is bisected, so that only
the guilty rows fail; a single guilty row among n costs 2 log2(n) extra runs.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from serving.core.batches import (
    BatchAnswer,
    BatchPart,
    Buffer,
    RowBatch,
    RowFailure,
    TensorBlock,
)
from serving.core.models import ModelVersion
from serving.core.tensors import NAMES, Array
from serving.errors import ModelFailed, OutputInvalid

Run = Callable[[Sequence[Array]], list[Array]]


@dataclass(slots=True)
class PendingFrame:
    """A frame between its arrival and its answer. Times are monotonic nanoseconds."""

    batch: RowBatch
    arrays: tuple[Array, ...]
    arrived_ns: int
    deadline_ns: int
    reply: Callable[[BatchAnswer], object]
    taken_rows: int = 0
    outputs: list[list[Array]] = field(default_factory=list)
    parts: list[BatchPart] = field(default_factory=list)
    failures: dict[int, RowFailure] = field(default_factory=dict)
    answered_rows: int = 0

    @property
    def shape_key(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tensor.row_shape for tensor in self.batch.tensors)

    def answer(self) -> BatchAnswer:
        """The whole answer, once every row has run. Without outputs when no row has one.

        Pieces that ran apart and came back in different shapes are nobody's answer.
        """
        rows = self.batch.rows
        parts = tuple(self.parts)
        columns = list(zip(*self.outputs, strict=True))
        if any(len({piece.shape[1:] for piece in pieces}) > 1 for pieces in columns):
            invalid = dict.fromkeys(range(rows), RowFailure.INVALID_OUTPUT)
            return BatchAnswer(rows, (), parts, invalid)
        if len(self.failures) == rows:
            return BatchAnswer(rows, (), parts, self.failures)
        return BatchAnswer(rows, tuple(map(_block, columns)), parts, self.failures)


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


def merge_inputs(slices: Sequence[Slice]) -> list[Array]:
    """The inputs of the batch, one array per tensor; a view when one slice is all there is."""
    pieces = [[array[s.start : s.stop] for array in s.frame.arrays] for s in slices]
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
    run: Run, inputs: Sequence[Array], *, version: ModelVersion
) -> tuple[list[Array], dict[int, RowFailure]]:
    """Runs `inputs`; rows that fail alone are named and answered with zeros.

    Raises OutputInvalid when the model's answer has the wrong form: then no row can be trusted.
    """
    rows = len(inputs[0])
    try:
        outputs = run(inputs)
    except ModelFailed:
        if rows == 1:
            return _zeros(version), {0: RowFailure.MODEL_ERROR}
        return _bisect(run, inputs, version=version)
    check_outputs(outputs, version=version, rows=rows)
    return outputs, {}


def _bisect(
    run: Run, inputs: Sequence[Array], *, version: ModelVersion
) -> tuple[list[Array], dict[int, RowFailure]]:
    middle = len(inputs[0]) // 2
    left, failures = run_isolating(run, [a[:middle] for a in inputs], version=version)
    right, more = run_isolating(run, [a[middle:] for a in inputs], version=version)
    if len(failures) == middle:
        left = [_zeros_like(output, middle) for output in right]
    elif len(more) == len(right[0]):
        right = [_zeros_like(output, len(more)) for output in left]
    failures |= {row + middle: failure for row, failure in more.items()}
    return [np.concatenate(pair) for pair in zip(left, right, strict=True)], failures


def _zeros_like(output: Array, rows: int) -> Array:
    """Zeros for failed rows, in the shape that their neighbours' answers have."""
    return np.zeros((rows, *output.shape[1:]), output.dtype)


def _zeros(version: ModelVersion) -> list[Array]:
    return [
        np.zeros((1, *(max(size, 1) for size in output.row_shape)), output.dtype)
        for output in version.outputs
    ]


def failed_outputs(version: ModelVersion, rows: int) -> list[Array]:
    """Zeros for rows that have no answer, in the declared form."""
    return [np.repeat(zeros, rows, axis=0) for zeros in _zeros(version)]


def split_outputs(
    slices: Sequence[Slice],
    outputs: Sequence[Array],
    failures: dict[int, RowFailure],
    part: BatchPart,
) -> list[PendingFrame]:
    """Hands every slice its rows; returns the frames that are now complete.

    part: what is the same for the whole batch; rows and position are filled in per slice.
    """
    complete = []
    position = 0
    for s in slices:
        count = s.stop - s.start
        frame = s.frame
        frame.outputs.append([output[position : position + count] for output in outputs])
        frame.parts.append(
            BatchPart(count, part.batch_id, part.batch_rows, position, part.queue_us, part.run_us)
        )
        own = {row - position: f for row, f in failures.items() if 0 <= row - position < count}
        frame.failures |= {row + s.start: failure for row, failure in own.items()}
        frame.answered_rows += count
        position += count
        if frame.answered_rows == frame.batch.rows:
            complete.append(frame)
    return complete


def _block(pieces: Sequence[Array]) -> TensorBlock:
    whole = np.ascontiguousarray(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))
    raw: Buffer = whole.data.cast("B") if whole.size else b""
    return TensorBlock(NAMES[whole.dtype], whole.shape[1:], (raw,))
