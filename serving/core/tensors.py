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
}
"""OIP name to little-endian numpy dtype. BYTES and BF16 have no fixed numpy form and are absent."""

NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}
"""The inverse of `DTYPES`."""

MAX_RANK: Final = 8
MAX_ELEMENTS: Final = 2**26


@dataclass(frozen=True, slots=True)
class TensorSpecification:
    """One input or output as the model declares it.

    shape: -1 marks a dimension that may vary; dimension 0 counts rows.
    meaning: for people; empty when nobody wrote it down.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    meaning: str = ""

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return DTYPES[self.datatype]

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.shape[1:]

    @property
    def row_elements(self) -> int | None:
        """Elements in one row, or None when a dimension other than rows may vary."""
        return None if -1 in self.row_shape else math.prod(self.row_shape)

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Whether a concrete `shape`, rows included, fits this declaration."""
        return len(shape) == len(self.shape) and all(
            declared in (-1, actual) for declared, actual in zip(self.shape, shape, strict=True)
        )
