"""Pairs of a small classifier and a candidate, made for tests of comparisons."""

from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving.core.tensors import TensorSpecification
from serving.monitoring.comparison import Comparison, NoiseFloor, PairBatch
from serving.monitoring.specification import parse_specification

LABEL: Final = TensorSpecification("label", "INT64", (-1,))
SCORE: Final = TensorSpecification("score", "FP32", (-1, 1), "Probability of 1")


def a_comparison(floor: NoiseFloor | None = None, **specification: Any) -> Comparison:
    """Of one output, `label`, unless the specification says otherwise."""
    specification.setdefault("outputs", [{"output": "label"}])
    return Comparison(parse_specification(specification), (LABEL, SCORE), floor=floor)


def pairs(
    before: NDArray[np.int64],
    after: NDArray[np.int64],
    *,
    ok: NDArray[np.bool_] | None = None,
    slower: float = 1.0,
    request: NDArray[np.int64] | None = None,
    **features: NDArray[np.generic],
) -> PairBatch:
    """One row of each request unless `request` says otherwise. ok: of the candidate."""
    rows = len(before)
    return PairBatch(
        primary={"label": before},
        candidate={"label": after},
        request=np.arange(rows) if request is None else request,
        primary_ok=np.ones(rows, bool),
        candidate_ok=np.ones(rows, bool) if ok is None else ok,
        primary_us=np.full(rows, 1000.0),
        candidate_us=np.full(rows, 1000.0 * slower) + np.arange(rows) % 7,
        features=features,
    )


def flipped(rows: int, every: int, **features: NDArray[np.generic]) -> PairBatch:
    """Labels 0 and 1 in turn; the candidate flips one of `every` rows, 0 for none."""
    before = np.arange(rows) % 2
    flip = (np.arange(rows) % every == every - 1) if every else np.zeros(rows, bool)
    batch = pairs(before, np.where(flip, 1 - before, before))
    return replace(batch, features=features)
