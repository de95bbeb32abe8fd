import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from serving.core.batches import BatchAnswer, BatchPart, RowBatch, RowFailure, TensorBlock
from serving.core.models import ModelVersion
from serving.core.tensors import Array, TensorSpecification
from serving.errors import ModelFailed, OutputInvalid
from serving.inference.merging import (
    PendingFrame,
    check_outputs,
    form_batch,
    merge_inputs,
    run_isolating,
    split_outputs,
)
from tests.plans import a_version

VERSION = a_version()
VARIABLE = replace(
    VERSION,
    inputs=(TensorSpecification("x", "FP32", (-1, -1)),),
    outputs=(TensorSpecification("y", "FP32", (-1, -1)),),
)
PART = BatchPart(0, 7, 0, 0, 11, 13)
POISON = 666.0


def pending(rows: int, *, first: float = 0, columns: int = 2) -> PendingFrame:
    """A frame of `rows` rows; row i holds `first + i` in every column."""
    values = np.arange(first, first + rows, dtype=np.float32)
    array = np.repeat(values[:, np.newaxis], columns, axis=1)
    block = TensorBlock("FP32", (columns,), [array.tobytes()])
    batch = RowBatch(VERSION.digest, rows, (block,))
    return PendingFrame(batch, (array,), 0, 0, lambda _answer: None)


def values(answer: BatchAnswer) -> list[float]:
    """The first column of the answer."""
    return [float(row[0]) for row in answer.outputs[0].array(answer.rows)]


class Model:
    """A model that doubles, fails on `POISON`, and counts what it was given."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def __call__(self, inputs: Sequence[Array]) -> list[Array]:
        self.runs.append(len(inputs[0]))
        if np.any(inputs[0] == POISON):
            raise ModelFailed("poison")
        return [np.multiply(inputs[0], np.float32(2))]


# -- forming ---------------------------------------------------------------------------------------


def test_batch_takes_rows_in_order_of_arrival() -> None:
    """What came first runs first, in one batch with what came after."""
    frames = deque([pending(2, first=1), pending(1, first=10), pending(3, first=20)])

    merged = merge_inputs(form_batch(frames, max_rows=8))

    assert merged[0][:, 0].tolist() == [1, 2, 10, 20, 21, 22]
    assert not frames


def test_batch_never_exceeds_its_size_and_cuts_frames() -> None:
    """A frame that does not fit is cut; its rest is the first thing in the next batch."""
    frames = deque([pending(3, first=1), pending(3, first=11)])

    batches = []
    while frames:
        batches.append(merge_inputs(form_batch(frames, max_rows=4))[0][:, 0].tolist())

    assert batches == [[1, 2, 3, 11], [12, 13]]


def test_only_rows_of_one_shape_share_a_batch() -> None:
    """The oldest frame's shape decides; frames of others keep their place."""
    frames = deque([pending(1, first=1), pending(1, first=5, columns=3), pending(1, first=9)])

    first = merge_inputs(form_batch(frames, max_rows=8))
    second = merge_inputs(form_batch(frames, max_rows=8))

    assert (first[0][:, 0].tolist(), second[0].shape) == ([1, 9], (1, 3))


def test_single_slice_is_not_copied() -> None:
    """One frame that is the whole batch runs where it lies."""
    frame = pending(3)

    assert np.shares_memory(
        merge_inputs(form_batch(deque([frame]), max_rows=8))[0], frame.arrays[0]
    )


def test_frames_of_equal_content_are_told_apart() -> None:
    """Two callers that send the same rows are two frames, whatever else is pending."""
    frames = deque([pending(4), pending(4), pending(4)])
    frames[0].taken_rows = 1
    second = frames[1]

    frames.remove(second)

    assert all(frame is not second for frame in frames)


# -- running ---------------------------------------------------------------------------------------


def test_batch_without_a_guilty_row_runs_once() -> None:
    """A good batch costs one run."""
    model = Model()
    outputs, failures = run_isolating(model, pending(16).arrays, version=VERSION)

    assert (model.runs, failures, outputs[0][:, 0].tolist()) == ([16], {}, list(range(0, 32, 2)))


@pytest.mark.parametrize("guilty", range(16))
def test_one_guilty_row_fails_alone(guilty: int) -> None:
    """Of sixteen rows the fifteen others are answered, with at most 2 log2(16) runs more (FT-07)."""
    model = Model()
    frame = pending(16)
    frame.arrays[0][guilty] = POISON

    outputs, failures = run_isolating(model, frame.arrays, version=VERSION)

    assert failures == {guilty: RowFailure.MODEL_ERROR}
    assert len(model.runs) - 1 <= 2 * math.log2(16)
    assert np.delete(outputs[0][:, 0], guilty).tolist() == [2 * i for i in range(16) if i != guilty]


def test_all_guilty_rows_are_named() -> None:
    """When every row fails, every row is named, and nothing is answered."""
    frame = pending(4)
    frame.arrays[0][:] = POISON

    _, failures = run_isolating(Model(), frame.arrays, version=VERSION)

    assert failures == dict.fromkeys(range(4), RowFailure.MODEL_ERROR)


def test_failed_rows_take_the_shape_of_their_neighbours() -> None:
    """Where the output's shape varies, the zeros beside good rows have the shape of those."""
    frame = pending(5, columns=3)
    frame.arrays[0][1] = POISON

    outputs, failures = run_isolating(Model(), frame.arrays, version=VARIABLE)

    assert (outputs[0].shape, list(failures)) == ((5, 3), [1])
    assert outputs[0][1].tolist() == [0, 0, 0]


def test_halves_in_different_shapes_are_nobodys_answer() -> None:
    """A model whose output's shape depends on its neighbours cannot be put together again."""

    def model(inputs: Sequence[Array]) -> list[Array]:
        if len(inputs[0]) == 4:
            raise ModelFailed("too many")
        return [np.zeros((2, 1 + int(np.max(inputs[0].astype(int)))), np.float32)]

    with pytest.raises(OutputInvalid, match="different shapes"):
        run_isolating(model, pending(4).arrays, version=VARIABLE)


@pytest.mark.parametrize(
    "outputs",
    [
        [np.zeros((3, 2), np.float32)],
        [np.zeros((5, 2), np.float32)],
        [np.zeros((4, 2), np.float64)],
        [np.zeros((4, 3), np.float32)],
        [np.zeros((4, 2, 1), np.float32)],
        [np.zeros((), np.float32)],
        [],
        [np.zeros((4, 2), np.float32)] * 2,
    ],
    ids=[
        "too few rows",
        "too many rows",
        "other datatype",
        "other columns",
        "other rank",
        "no rows",
        "no output",
        "two outputs",
    ],
)
def test_output_of_another_form_is_nobodys_answer(outputs: list[Array]) -> None:
    """Anything but exactly one declared row for each row sent fails the whole batch (FT-13)."""
    with pytest.raises(OutputInvalid):
        check_outputs(outputs, version=VERSION, rows=4)


def test_output_of_another_form_is_not_run_again() -> None:
    """No row of such a batch can be trusted, so none is looked for."""
    runs = []

    def model(inputs: Sequence[Array]) -> list[Array]:
        runs.append(len(inputs[0]))
        return [inputs[0][:-1]]

    with pytest.raises(OutputInvalid):
        run_isolating(model, pending(4).arrays, version=VERSION)
    assert runs == [4]


# -- answering -------------------------------------------------------------------------------------


def serve(
    frames: Sequence[PendingFrame],
    *,
    max_rows: int,
    version: ModelVersion = VERSION,
    model: Callable[[Sequence[Array]], list[Array]] | None = None,
) -> list[BatchAnswer]:
    """Runs frames in batches of `max_rows` until all are complete; answers in order of frames."""
    model = model or Model()
    waiting = deque(frames)
    number = 0
    while waiting:
        slices = form_batch(waiting, max_rows=max_rows)
        inputs = merge_inputs(slices)
        rows = len(inputs[0])
        outputs, failures = run_isolating(model, inputs, version=version)
        number += 1
        split_outputs(slices, outputs, failures, BatchPart(rows, number, rows, 0, 11, 13))
    return [frame.answer() for frame in frames]


def test_every_frame_gets_its_own_rows() -> None:
    """Rows that ran together come back apart."""
    answers = serve([pending(2, first=1), pending(3, first=10)], max_rows=8)

    assert [values(answer) for answer in answers] == [[2, 4], [20, 22, 24]]


def test_answer_says_in_which_batch_its_rows_ran() -> None:
    """A frame cut in two has two parts: batch, size and position of each."""
    answers = serve([pending(3), pending(3)], max_rows=4)

    assert answers[1].parts == (BatchPart(1, 1, 4, 3, 11, 13), BatchPart(2, 2, 2, 0, 11, 13))


def test_failures_are_counted_from_the_frames_first_row() -> None:
    """A guilty row is named by its place in its own frame, in whichever batch it ran."""
    guilty = pending(3, first=10)
    guilty.arrays[0][2] = POISON

    answers = serve([pending(3), guilty], max_rows=4)

    assert (answers[0].failures, answers[1].failures) == ({}, {2: RowFailure.MODEL_ERROR})
    assert values(answers[1])[:2] == [20, 22]


def test_frame_without_a_good_row_has_no_outputs() -> None:
    """There is nothing to send when every row failed."""
    frame = pending(2)
    frame.arrays[0][:] = POISON

    [answer] = serve([frame], max_rows=8)

    assert (answer.outputs, len(answer.failures)) == ((), 2)


def test_piece_that_failed_does_not_spoil_the_others() -> None:
    """Good rows keep their answers, whatever the shape of outputs, when another batch failed."""
    frame = pending(4, columns=3)
    frame.arrays[0][:2] = POISON

    [answer] = serve([frame], max_rows=2, version=VARIABLE)

    assert (values(answer), list(answer.failures)) == ([0, 0, 4, 6], [0, 1])


def test_pieces_in_different_shapes_are_nobodys_answer() -> None:
    """Rows of one frame that came back in different shapes cannot be one tensor."""

    def model(inputs: Sequence[Array]) -> list[Array]:
        return [np.zeros((2, 1 + int(inputs[0][0, 0])), np.float32)]

    [answer] = serve([pending(4)], max_rows=2, version=VARIABLE, model=model)

    assert answer.failures == dict.fromkeys(range(4), RowFailure.INVALID_OUTPUT)


def test_expired_frame_is_answered_whole() -> None:
    """Rows that ran before the time passed count as little as those that never did."""
    frame = pending(3)
    slices = form_batch(deque([frame]), max_rows=2)
    split_outputs(slices, *run_isolating(Model(), merge_inputs(slices), version=VERSION), PART)

    answer = frame.fail(RowFailure.EXPIRED)

    assert (answer.rows, answer.outputs) == (3, ())
    assert answer.failures == dict.fromkeys(range(3), RowFailure.EXPIRED)
    assert sum(part.rows for part in answer.parts) == 3
