"""Rows of different lengths in one batch: padded to a bucket before the run, cut after it.

Guarantees:

- A caller gets what a run of exactly its rows would have given, in the length that it sent: whether
  the model really ignores what is padded is tried when it is loaded (`dependence`), not believed.
- The model sees few shapes, each warmed up: those of the buckets. A row longer than the last bucket
  runs in its own length, with others of the same length.
- The mask that a model wants and callers do not send is made here, for every batch.

Nothing outside the replica knows of any of this: frames, answers and the log hold the rows as sent.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from serving.core.models import ModelVersion
from serving.core.tensors import Array, TensorSpecification
from serving.errors import OutputInvalid

RowShapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Fit:
    """Where rows of one length belong. row_shapes: of the inputs after padding; equal ones merge."""

    length: int
    bucket: int
    row_shapes: RowShapes


@dataclass(frozen=True, slots=True)
class _Padded:
    """An input or output by its place, the dimension that varies (rows are 0), and its filling."""

    index: int
    axis: int
    filling: int | float = 0


class Padder:
    """Pads the inputs of one version and cuts its outputs, as `version.padding` says."""

    def __init__(self, version: ModelVersion) -> None:
        padding = version.padding
        if padding is None:
            raise ValueError(f"{version.key} declares no padding. This is a bug")
        fillings = dict(padding.inputs)
        self.buckets = padding.buckets
        self._mask = padding.mask
        self._inputs: Final = [
            _Padded(index, _varying(tensor), fillings[tensor.name])
            for index, tensor in enumerate(version.inputs)
            if tensor.name in fillings
        ]
        self._outputs: Final = [
            _Padded(index, _varying(tensor))
            for index, tensor in enumerate(version.outputs)
            if tensor.name in padding.outputs
        ]

    def stop(self) -> None:
        """From now on every row keeps its own length: padding would show in the answers."""
        self.buckets = ()

    def fit(self, row_shapes: RowShapes) -> Fit:
        """The smallest bucket for rows of these shapes; their own length where there is none."""
        lengths = {row_shapes[each.index][each.axis - 1] for each in self._inputs}
        length = row_shapes[self._inputs[0].index][self._inputs[0].axis - 1]
        place = bisect_left(self.buckets, length)
        if len(lengths) > 1 or length == 0 or place == len(self.buckets):
            return Fit(length, length, row_shapes)
        bucket = self.buckets[place]
        padded = list(row_shapes)
        for each in self._inputs:
            padded[each.index] = _with(padded[each.index], each.axis - 1, bucket)
        return Fit(length, bucket, tuple(padded))

    def merge(self, pieces: Sequence[Sequence[Array]], fits: Sequence[Fit]) -> list[Array]:
        """The inputs of a batch made of `pieces`, whose fits have the same row shapes."""
        bucket = fits[0].bucket
        fillings = {each.index: each for each in self._inputs}
        merged = [
            np.concatenate(column)
            if index not in fillings
            else _padded(column, fillings[index], bucket)
            for index, column in enumerate(zip(*pieces, strict=True))
        ]
        if self._mask is not None:
            counts = [len(piece[0]) for piece in pieces]
            lengths = np.repeat([fit.length for fit in fits], counts)
            merged.append((np.arange(bucket) < lengths[:, np.newaxis]).astype(self._mask.dtype))
        return merged

    def check(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """Raises OutputInvalid unless what will be cut has the length that was padded to."""
        first = self._inputs[0]
        expected = inputs[first.index].shape[first.axis]
        for each in self._outputs:
            found = outputs[each.index].shape[each.axis :] if each.index < len(outputs) else ()
            if found[:1] != (expected,):
                raise OutputInvalid(
                    "an output declared as padded has another length than its input"
                )

    def cut(self, outputs: Sequence[Array], fit: Fit) -> list[Array]:
        """The outputs without what belongs to padding; views."""
        cut = list(outputs)
        if fit.length < fit.bucket:
            for each in self._outputs:
                whole = (slice(None),) * each.axis
                cut[each.index] = cut[each.index][(*whole, slice(fit.length))]
        return cut


def _varying(tensor: TensorSpecification) -> int:
    """The one dimension besides rows that varies."""
    return 1 + tensor.row_shape.index(-1)


def _with(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _padded(column: Sequence[Array], padded: _Padded, bucket: int) -> Array:
    """All rows of one input, in the length of the bucket."""
    first = column[0]
    shape = _with(first.shape, padded.axis, bucket)
    whole = np.full((sum(map(len, column)), *shape[1:]), padded.filling, first.dtype)
    row = 0
    for piece in column:
        place = (slice(row, row + len(piece)), *map(slice, piece.shape[1:]))
        whole[place] = piece
        row += len(piece)
    return whole
