"""Datatypes of the Open Inference Protocol and the declared shape of a model's tensors."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]

DTYPES: Final[dict[str, np.dtype[np.generic]]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BF16": np.dtype([("bits", "<u2")]),
    "BYTES": np.dtype(object),
}
"""OIP name to numpy dtype, little-endian. numpy knows neither of the last two: a BF16 is its bits, an
element of BYTES is a `bytes` of any length (`serving.core.elements`)."""

NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}
"""The inverse of `DTYPES`."""

MAX_RANK: Final = 8
MAX_ELEMENTS: Final = 2**26


@dataclass(frozen=True, slots=True)
class TensorSpecification:
    """One input or output as the model declares it.

    shape: -1 marks a dimension that may vary; dimension 0 counts rows if the model is batched.
    meaning: for people; empty when nobody wrote it down. batched: False when no dimension counts
    rows. A request for such a model is one row, whose shape is the whole shape. features: what each
    element of a row is called, in order; empty when they have no names.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    meaning: str = ""
    batched: bool = True
    features: tuple[str, ...] = ()

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return DTYPES[self.datatype]

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.shape[1:] if self.batched else self.shape

    @property
    def row_elements(self) -> int | None:
        """Elements in one row, or None when a dimension other than rows may vary."""
        return None if -1 in self.row_shape else math.prod(self.row_shape)

    def admits_row(self, shape: tuple[int, ...]) -> bool:
        """Whether a row of this concrete shape fits the declaration."""
        row = self.row_shape
        return len(shape) == len(row) and all(
            declared in (-1, actual) for declared, actual in zip(row, shape, strict=True)
        )

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Whether rows of this shape fit; dimension 0 counts them, batched or not."""
        return bool(shape) and self.admits_row(shape[1:])


def zeros(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    """What stands where there is no value: zeros, or BYTES without a byte."""
    return np.full(shape, b"", dtype) if dtype.hasobject else np.zeros(shape, dtype)


def numbers(array: Array) -> Array:
    """`array` in a type that numpy calculates with: BF16 becomes FP32, which holds it exactly."""
    if array.dtype != DTYPES["BF16"]:
        return array
    return (array.view("<u2").astype("<u4") << 16).view("<f4")
