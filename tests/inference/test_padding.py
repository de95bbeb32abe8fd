from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.batches import BatchPart, RowBatch, TensorBlock
from serving.core.models import ModelVersion, Padding
from serving.core.tensors import Array, TensorSpecification
from serving.errors import OutputInvalid
from serving.inference.merging import PendingFrame, form_batch, merge_inputs, split_outputs
from serving.inference.padding import Padder
from tests.plans import a_version

VERSION = replace(
    a_version(),
    inputs=(TensorSpecification("x", "FP32", (-1, -1)), TensorSpecification("n", "FP32", (-1, 1))),
    outputs=(TensorSpecification("y", "FP32", (-1, -1)), TensorSpecification("m", "FP32", (-1,))),
    padding=Padding((4, 8), (("x", -1.0),), ("y",), TensorSpecification("mask", "INT64", (-1, -1))),
)
PART = BatchPart(0, 7, 0, 0, 11, 13)


def frame(rows: int, length: int, padder: Padder, *, first: float = 1.0) -> PendingFrame:
    """Rows counted from `first`, each repeated over `length` columns; n is its number."""
    numbers = np.arange(first, first + rows, dtype=np.float32)[:, np.newaxis]
    arrays = (np.repeat(numbers, length, axis=1), numbers)
    blocks = tuple(TensorBlock.of(array) for array in arrays)
    batch = RowBatch(VERSION.digest, rows, blocks)
    fit = padder.fit(tuple(array.shape[1:] for array in arrays))
    return PendingFrame(batch, arrays, 0, 0, lambda _answer: None, fit)


def doubled(inputs: Sequence[Array]) -> list[Array]:
    """Twice x where the mask lets it through, and how many it let through."""
    x, _, mask = (np.asarray(array, np.float32) for array in inputs)
    return [2 * x * mask, mask.sum(axis=1, dtype=np.float32)]


def answered(frames: Sequence[PendingFrame], padder: Padder, *, max_rows: int) -> list[int]:
    """Runs all frames; returns the lengths that the model saw."""
    pending = deque(frames)
    lengths = []
    while pending:
        slices = form_batch(pending, max_rows=max_rows)
        inputs = merge_inputs(slices, padder)
        lengths.append(inputs[0].shape[1])
        outputs = doubled(inputs)
        padder.check(inputs, outputs)
        split_outputs(slices, outputs, {}, PART, padder=padder)
    return lengths


def test_rows_of_different_lengths_share_a_batch() -> None:
    """Rows that fit one bucket run together, padded to its length, with a mask over what is theirs."""
    padder = Padder(VERSION)
    pending = deque([frame(1, 3, padder), frame(2, 4, padder, first=5), frame(1, 5, padder)])

    x, n, mask = merge_inputs(form_batch(pending, max_rows=8), padder)

    assert x.tolist() == [[1, 1, 1, -1], [5, 5, 5, 5], [6, 6, 6, 6]]
    assert n.tolist() == [[1], [5], [6]]
    assert mask.dtype == np.dtype("<i8")
    assert mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert len(pending) == 1


@given(
    lengths=st.lists(st.integers(1, 11), min_size=1, max_size=8),
    rows=st.integers(1, 5),
    max_rows=st.integers(1, 6),
)
def test_bt_05_padding_is_never_seen(lengths: list[int], rows: int, max_rows: int) -> None:
    """However rows of different lengths meet, each answer has its own length and its own numbers."""
    padder = Padder(VERSION)
    frames = [frame(rows, length, padder, first=10 * i) for i, length in enumerate(lengths)]

    seen = answered(frames, padder, max_rows=max_rows)

    assert all(length in (4, 8) or length > 8 for length in seen)
    for each, length in zip(frames, lengths, strict=True):
        y, counted = each.answer().outputs
        assert y.row_shape == (length,)
        assert np.array_equal(y.array(rows), 2 * each.arrays[0])
        assert counted.array(rows).tolist() == [length] * rows


@pytest.mark.parametrize(("length", "bucket"), [(1, 4), (4, 4), (5, 8), (8, 8), (9, 9), (0, 0)])
def test_the_smallest_bucket_that_holds_a_row(length: int, bucket: int) -> None:
    """A row goes to the next bucket; one longer than all, or of nothing, keeps its length."""
    fit = Padder(VERSION).fit(((length,), (1,)))

    assert (fit.length, fit.bucket, fit.row_shapes) == (length, bucket, ((bucket,), (1,)))


def test_inputs_of_different_lengths_are_left_alone() -> None:
    """Where the inputs that are padded differ in length, nothing is: the model has the last word."""
    inputs = tuple(TensorSpecification(name, "FP32", (-1, -1)) for name in "ab")
    rule = Padding((4,), (("a", 0), ("b", 0)))
    version: ModelVersion = replace(VERSION, inputs=inputs, padding=rule)

    assert Padder(version).fit(((2,), (3,))).row_shapes == ((2,), (3,))


def test_an_output_of_another_length_is_refused() -> None:
    """What is to be cut must have the padded length, or the cut would be somewhere in it."""
    padder = Padder(VERSION)
    inputs = merge_inputs(form_batch(deque([frame(1, 3, padder)]), max_rows=1), padder)
    short = [np.zeros((1, 3), np.float32), np.zeros(1, np.float32)]

    with pytest.raises(OutputInvalid):
        padder.check(inputs, short)
