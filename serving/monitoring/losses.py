"""How wrong an answer was once the truth is known: one number for each row, smaller is better."""

from typing import Final

import numpy as np

from serving.core.tensors import Array, numbers
from serving.monitoring.gammas import Floats
from serving.monitoring.specification import LossName

CERTAIN: Final = 1e-15
"""Probabilities are kept this far from 0 in `log`, so that one miss is not infinite."""
EVEN: Final = 0.5
BOUNDED: Final = frozenset({"zero_one", "brier"})
"""Losses within 0..1."""


def loss_of(name: LossName, answers: Array, truth: Array) -> Floats:
    """answers: (rows,) labels or probabilities of 1, or (rows, classes); truth: (rows,).

    zero_one: 0 if the decision (a label; the largest element; a probability of at least 0.5) is the
    truth, else 1. brier: squared error of the probability, for more than two classes half the sum
    over classes. log: minus the natural logarithm of the probability given to the truth. The truth is
    a label as the model gives it, or the index of a class.
    """
    rows = numbers(answers).reshape(len(answers), -1)
    if name == "zero_one":
        wrong = _decisions(rows) != _comparable(rows, truth)
        return np.asarray(wrong, np.float64)
    shares = _shares(rows)
    chosen = np.zeros(shares.shape)
    chosen[np.arange(len(rows)), truth.astype(np.int64)] = 1.0
    if name == "brier":
        return np.asarray(((shares - chosen) ** 2).sum(axis=1) / 2.0)
    return np.asarray(-np.log(np.maximum((shares * chosen).sum(axis=1), CERTAIN)))


def _decisions(rows: Array) -> Array:
    if rows.dtype.kind != "f":
        return rows[:, 0]
    if rows.shape[1] > 1:
        return np.asarray(rows.argmax(axis=1))
    return (rows[:, 0].astype(np.float64) >= EVEN).astype(np.int64)


def _comparable(rows: Array, truth: Array) -> Array:
    """Text answers are bytes, and a truth is text."""
    if rows.dtype != object:
        return truth
    said = [value if isinstance(value, bytes) else str(value).encode() for value in truth.tolist()]
    return np.array(said, object)


def _shares(rows: Array) -> Floats:
    """A single probability is that of class 1."""
    shares = rows.astype(np.float64)
    return np.hstack([1.0 - shares, shares]) if shares.shape[1] == 1 else shares
