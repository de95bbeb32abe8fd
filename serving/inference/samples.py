"""Rows to try a model with when nobody has sent any: zeros, or drawn with a fixed seed."""

import math
from typing import Final

import numpy as np

from serving.core.models import ModelVersion
from serving.core.tensors import Array, TensorSpecification
from serving.core.tensors import zeros as nothing

VARIABLE_DIMENSION: Final = 16
"""What a dimension that may vary becomes."""

_SEED: Final = 20_240_229
_MOST_ELEMENTS: Final = 2**16
_SCALABLE: Final = 64
"""Integers below less than this differ too little in scale to try."""
_INTEGERS: Final = frozenset("iu")
_FLOATS: Final = frozenset("f")


def zeros(version: ModelVersion, *, rows: int, length: int = VARIABLE_DIMENSION) -> list[Array]:
    """Rows of zeros, empty strings, False. length: of dimensions that may vary."""
    return [nothing((rows, *_row_shape(tensor, length)), tensor.dtype) for tensor in version.inputs]


def draw(
    version: ModelVersion, *, rows: int, most: int, length: int = VARIABLE_DIMENSION
) -> list[Array]:
    """Finite rows, the same ones every time. most: integers are below it, unless their type is small.

    The rows differ in scale, each about twice the one before: what is computed over all rows, such
    as a scale for quantisation, then differs from what each row alone would give.
    """
    generator = np.random.default_rng(_SEED)
    return [
        _drawn(tensor, (rows, *_row_shape(tensor, length)), generator, most)
        for tensor in version.inputs
    ]


def _drawn(
    tensor: TensorSpecification, shape: tuple[int, ...], generator: np.random.Generator, most: int
) -> Array:
    scales = (2.0 ** np.arange(shape[0]) / 2).reshape(-1, *[1] * (len(shape) - 1))
    if tensor.datatype == "BYTES":
        return np.asarray(generator.choice([b"a", b"b", b"c"], shape), dtype=object)
    if tensor.datatype == "BF16":
        exact = (generator.standard_normal(shape) * scales).astype("<f4")
        return np.asarray((exact.view("<u4") >> 16).astype("<u2").view(tensor.dtype))
    if tensor.dtype.kind in _FLOATS:
        return np.asarray(generator.standard_normal(shape) * scales, tensor.dtype)
    if tensor.dtype.kind in _INTEGERS:
        top = min(most, np.iinfo(tensor.datatype.lower()).max)
        if top < _SCALABLE:
            return np.asarray(generator.integers(0, top, shape), tensor.dtype)
        shares = generator.random(shape) * scales / scales.max()
        return np.asarray(np.ceil(shares * top) - 1, tensor.dtype)
    return np.asarray(generator.random(shape) < 0.5, tensor.dtype)  # noqa: PLR2004 - even odds


def _row_shape(tensor: TensorSpecification, length: int) -> tuple[int, ...]:
    """The declared shape with `length` for what varies, or 1 where that would be enormous."""
    shape = tuple(length if size < 0 else size for size in tensor.row_shape)
    if math.prod(shape) <= _MOST_ELEMENTS:
        return shape
    return tuple(1 if size < 0 else size for size in tensor.row_shape)
