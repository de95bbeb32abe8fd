"""Whether a model's rows depend on their neighbours: found by trying, when it is loaded.

A batch holds rows of strangers. A model that computes anything over all of them (quantisation with a
scale found at run time, normalisation by the batch, a mean over the first dimension) would give a
caller another answer depending on who else was there. So a few drawn rows are run alone, together
and in another order, and must come back equal; where the version declares padding, rows are also run
in their own length and padded. The draw is seeded: replicas of one version come to one verdict.

Equal means: integers, booleans and strings exactly; floats within `TOLERANCES` of the largest number
in the row, because a larger batch takes another way through a matrix product and rounds differently
(about 1e-6 for FP32), while a shared scale moves answers by 1e-2 and more. In doubt the verdict is
"depends": that costs speed, the other mistake would cost correctness.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Final

import numpy as np

from serving.core.models import ModelVersion
from serving.core.tensors import Array, TensorSpecification, numbers
from serving.errors import ModelFailed, OutputInvalid
from serving.inference.merging import Run, check_outputs
from serving.inference.padding import Fit, Padder
from serving.inference.samples import VARIABLE_DIMENSION, draw

TOLERANCES: Final = {"FP64": 1e-4, "FP32": 1e-4, "FP16": 1e-2, "BF16": 5e-2}
"""Largest difference that is rounding, as a share of the largest number in the row."""

ROWS: Final = 4
_MOST: Final = (256, 2, 1)
"""Bounds of drawn integers, tried in turn: they may be indices into something small."""

DEPENDS: Final = "its rows depend on their neighbours"
VARIES: Final = "its answers differ from run to run"


def find_dependence(run: Run, version: ModelVersion, padder: Padder | None = None) -> str:
    """Why rows of `version` must not share a batch; empty when they may.

    Empty also when no drawn row runs, or rows run only alone: a batch that fails is cut until it
    runs, which warm-up finds expensive. Raises OutputInvalid when the outputs do not count rows.
    """
    trial = _begin(run, version, padder) if version.batching.max_batch_size > 1 else None
    if trial is None:
        return ""
    inputs, alone = trial
    if not _same(alone[0], run([array[:1] for array in inputs]), version.outputs):
        return VARIES
    orders = (np.arange(ROWS), np.random.default_rng(0).permutation(ROWS), np.arange(2))
    for places in orders:
        try:
            together = _run(run, [array[places] for array in inputs], version)
        except ModelFailed:
            continue
        for row, place in enumerate(places):
            if not _same(alone[place], [a[row : row + 1] for a in together], version.outputs):
                return DEPENDS
    return ""


def padding_shows(run: Run, version: ModelVersion, padder: Padder) -> bool:
    """Whether rows come back otherwise when they are padded to the smallest and largest bucket.

    run: refuses outputs that are not of the padded length, with OutputInvalid.
    """
    for bucket in {padder.buckets[0], padder.buckets[-1]} - {1}:
        rows = draw(version, rows=1, most=2, length=bucket - 1)
        shapes = tuple(array.shape[1:] for array in rows)
        fit = padder.fit(shapes)
        try:
            expected = run(padder.merge([rows], [Fit(fit.length, fit.length, shapes)]))
            padded = run(padder.merge([rows], [fit]))
        except (ModelFailed, OutputInvalid):
            return True
        if not _same(expected, padder.cut(padded, fit), version.outputs):
            return True
    return False


def _begin(
    run: Run, version: ModelVersion, padder: Padder | None
) -> tuple[list[Array], list[list[Array]]] | None:
    """Drawn inputs that the model can run, and what it answers to each row alone."""
    length = padder.buckets[0] if padder is not None else VARIABLE_DIMENSION
    for most in _MOST:
        inputs = draw(version, rows=ROWS, most=most, length=length)
        if padder is not None:
            inputs = padder.merge([inputs], [padder.fit(tuple(a.shape[1:] for a in inputs))])
        try:
            alone = [_run(run, [a[i : i + 1] for a in inputs], version) for i in range(ROWS)]
        except ModelFailed:
            continue
        if all(map(_tells, chain.from_iterable(alone))):
            return inputs, alone
    return None


def _run(run: Run, inputs: Sequence[Array], version: ModelVersion) -> list[Array]:
    outputs = run(inputs)
    check_outputs(outputs, version=version, rows=len(inputs[0]))
    return outputs


def _tells(output: Array) -> bool:
    """Whether comparing means anything: not when all is NaN or infinite."""
    return output.dtype.kind != "f" or not output.size or bool(np.isfinite(output).any())


def same_answer(one: Array, other: Array, tensor: TensorSpecification) -> bool:
    """Whether two answers of one shape are equal but for rounding."""
    return _close(one, other, TOLERANCES.get(tensor.datatype, 0.0))


def _same(
    ones: Sequence[Array], others: Sequence[Array], declared: Sequence[TensorSpecification]
) -> bool:
    return all(
        one.shape == other.shape and same_answer(one, other, tensor)
        for one, other, tensor in zip(ones, others, declared, strict=True)
    )


def _close(one: Array, other: Array, tolerance: float) -> bool:
    if not tolerance:
        return bool(np.array_equal(one, other))
    exact, others = (numbers(array).astype(np.float64) for array in (one, other))
    finite = np.abs(exact[np.isfinite(exact)])
    largest = float(finite.max()) if finite.size else 0.0
    return bool(np.allclose(exact, others, rtol=0, atol=tolerance * largest, equal_nan=True))
