"""Golden vectors: inputs that anybody can make again, and what a version answered to them.

Recorded at admission and compared with what another runtime answers. The inputs follow from the
version's definition by rule, so a report holds answers only: zeros, drawn rows, the ends of the
datatype's range, and, where a version takes them, NaN and infinities. What a model refuses is
recorded as such: that is an answer too.
"""

import base64
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np

from serving.core.models import ModelVersion
from serving.core.tensors import Array, TensorSpecification
from serving.errors import ModelFailed, OutputInvalid
from serving.inference.dependence import same_answer
from serving.inference.merging import Run
from serving.inference.padding import Padder
from serving.inference.reports import MAX_ANSWER_BYTES, GoldenAnswer, GoldenVector
from serving.inference.samples import VARIABLE_DIMENSION, draw, zeros

_ROWS: Final = 3
_MOST: Final = 2
"""Drawn integers are below: they may be indices into something small."""
MAX_DIFFERENCES: Final = 20


def record_golden(
    run: Run, version: ModelVersion, padder: Padder | None
) -> tuple[GoldenVector, ...]:
    """What the version answers to every input that there is a rule for."""
    return tuple(
        _answered(run, version, name, inputs) for name, inputs in _all_inputs(version, padder)
    )


def compare_golden(
    recorded: Sequence[GoldenVector], found: Sequence[GoldenVector], version: ModelVersion
) -> tuple[str, ...]:
    """Where answers are not as they were recorded, in words; at most so many."""
    now = {vector.inputs: vector for vector in found}
    differences: list[str] = []
    for vector in recorded:
        other = now.get(vector.inputs)
        if other is None or bool(other.answers) != bool(vector.answers):
            was, became = ("answered", "fails") if vector.answers else ("failed", "is answered")
            differences.append(f"{vector.inputs}: {was}, and {became} now")
            continue
        declared = {tensor.name: tensor for tensor in version.outputs}
        for before, after in zip(vector.answers, other.answers, strict=False):
            text = _difference(before, after, declared[before.name])
            if text:
                differences.append(f"{vector.inputs}: output {before.name!r} {text}")
    return tuple(differences[:MAX_DIFFERENCES])


def _all_inputs(version: ModelVersion, padder: Padder | None) -> Iterator[tuple[str, list[Array]]]:
    length = padder.buckets[0] if padder is not None and padder.buckets else VARIABLE_DIMENSION
    rows = _ROWS if version.batched else 1
    made: list[tuple[str, list[Array]]] = [
        ("zeros", zeros(version, rows=1, length=length)),
        ("drawn", draw(version, rows=rows, most=_MOST, length=length)),
    ]
    for name, value in (("largest", _largest), ("smallest", _smallest)):
        made.append((name, _filled(version, value, length)))
    if not version.finite_inputs:
        made.append(("nan", _filled(version, lambda dtype: _special(dtype, np.nan), length)))
        made.append(("infinity", _filled(version, lambda dtype: _special(dtype, np.inf), length)))
    for name, inputs in made:
        if padder is not None:
            shapes = tuple(array.shape[1:] for array in inputs)
            yield name, padder.merge([inputs], [padder.fit(shapes)])
        else:
            yield name, inputs


def _filled(
    version: ModelVersion, value: Callable[[np.dtype[np.generic]], Any], length: int
) -> list[Array]:
    """One row whose numbers are all the same; everything else is zero."""
    arrays = zeros(version, rows=1, length=length)
    for array in arrays:
        if array.dtype.kind in "fiu":
            array[...] = value(array.dtype)
    return arrays


def _largest(dtype: np.dtype[np.generic]) -> Any:
    return np.finfo(dtype).max if dtype.kind == "f" else np.iinfo(dtype).max  # type: ignore[type-var]  # by its kind it is one


def _smallest(dtype: np.dtype[np.generic]) -> Any:
    return np.finfo(dtype).min if dtype.kind == "f" else np.iinfo(dtype).min  # type: ignore[type-var]  # by its kind it is one


def _special(dtype: np.dtype[np.generic], value: float) -> Any:
    return value if dtype.kind == "f" else 0


def _answered(run: Run, version: ModelVersion, name: str, inputs: list[Array]) -> GoldenVector:
    rows = len(inputs[0])
    try:
        outputs = run(inputs)
    except (ModelFailed, OutputInvalid):
        return GoldenVector(name, rows)
    pairs = zip(version.outputs, outputs, strict=True)
    return GoldenVector(name, rows, tuple(_answer(tensor, output) for tensor, output in pairs))


def _answer(tensor: TensorSpecification, output: Array) -> GoldenAnswer:
    if output.dtype.kind == "O":
        content = b"\0".join(output.ravel().tolist())
        kept = ""
    else:
        content = np.ascontiguousarray(output).tobytes()
        kept = base64.b64encode(content).decode() if len(content) <= MAX_ANSWER_BYTES else ""
    return GoldenAnswer(
        tensor.name, tensor.datatype, output.shape, hashlib.sha256(content).hexdigest(), kept
    )


def _difference(before: GoldenAnswer, after: GoldenAnswer, tensor: TensorSpecification) -> str:
    if before.sha256 == after.sha256 and before.shape == after.shape:
        return ""
    if before.shape != after.shape:
        return f"had shape {list(before.shape)}, has {list(after.shape)}"
    if not before.content or not after.content:
        return "has other bytes"
    one, other = (_array(each, tensor) for each in (before, after))
    if same_answer(one, other, tensor):
        return ""
    place = int(np.argmax(one.ravel() != other.ravel()))
    return f"was {one.ravel()[place]!s} at {place}, is {other.ravel()[place]!s}"


def _array(answer: GoldenAnswer, tensor: TensorSpecification) -> Array:
    return np.frombuffer(base64.b64decode(answer.content), tensor.dtype).reshape(answer.shape)
