"""Recorded answers against replayed ones, row by row.

exact    every element is the same number (or both are NaN), the same bytes
within   every element differs by at most the tolerance, absolute plus relative to the recorded one
flipped  the row decides otherwise: a whole number, boolean or text differs, or of a vector of
         floating-point numbers another element is the largest
distance the largest absolute difference of an element; infinite where one is no number or the
         shapes differ
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.core.tensors import Array, numbers

Flags = NDArray[np.bool_]
Distances = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What two runs of one model may differ by: another batch size sums in another order."""

    absolute: float = 1e-5
    relative: float = 1e-5


@dataclass(frozen=True, slots=True)
class Difference:
    """Of one output; each array has one element for each row."""

    exact: Flags
    within: Flags
    flipped: Flags
    distance: Distances


def compare(recorded: Array, replayed: Array, tolerance: Tolerance) -> Difference:
    """recorded: shape (rows, …). replayed: nothing is like it unless it has the same shape."""
    rows = len(recorded)
    recorded, replayed = numbers(recorded), numbers(replayed)
    if recorded.shape != replayed.shape or recorded.dtype.kind != replayed.dtype.kind:
        nothing = np.zeros(rows, bool)
        return Difference(nothing, nothing, ~nothing, np.full(rows, np.inf))
    before, after = recorded.reshape(rows, -1), replayed.reshape(rows, -1)
    if before.dtype.kind == "f":
        return _floats(before.astype(np.float64), after.astype(np.float64), tolerance)
    same = (before == after).all(axis=1)
    distance = np.where(same, 0.0, np.inf)
    if before.dtype.kind in "iub" and before.shape[1]:
        apart = np.abs(before.astype(np.float64) - after.astype(np.float64))
        distance = apart.max(axis=1)
    return Difference(same, same, ~same, distance)


def _floats(before: Distances, after: Distances, tolerance: Tolerance) -> Difference:
    same = (before == after) | (np.isnan(before) & np.isnan(after))
    with np.errstate(invalid="ignore"):
        apart = np.abs(before - after)
    apart = np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart))
    allowed = tolerance.absolute + tolerance.relative * np.abs(before)
    near = same | (apart <= np.where(np.isfinite(allowed), allowed, 0.0))
    flipped = np.zeros(len(before), bool)
    if before.shape[1] > 1:
        flipped = before.argmax(axis=1) != after.argmax(axis=1)
    distance = apart.max(axis=1) if before.shape[1] else np.zeros(len(before))
    return Difference(same.all(axis=1), near.all(axis=1), flipped, distance)
