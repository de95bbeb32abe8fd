"""What travels between a gateway and a replica: rows out, answers back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Self

import numpy as np

from serving.core.elements import Raw, join_elements, row_ends, split_elements
from serving.core.models import Digest
from serving.core.tensors import DTYPES, NAMES, Array

Buffer = Raw


@dataclass(frozen=True, slots=True)
class TensorBlock:
    """One tensor of many rows as raw little-endian bytes; BYTES as `serving.core.elements` says.

    row_shape: the shape without rows. buffers: consecutive rows, in order, maybe in several pieces.
    """

    datatype: str
    row_shape: tuple[int, ...]
    buffers: Sequence[Buffer]

    @classmethod
    def of(cls, array: Array) -> Self:
        """The block of an array whose first dimension counts rows; its datatype is the dtype's."""
        datatype = NAMES[array.dtype]
        if datatype == "BYTES":
            return cls(datatype, array.shape[1:], (join_elements(array.ravel().tolist()),))
        whole = np.ascontiguousarray(array.view("<u2") if datatype == "BF16" else array)
        return cls(datatype, array.shape[1:], (whole.data.cast("B") if whole.size else b"",))

    @property
    def row_bytes(self) -> int:
        """What every row takes. Rows of BYTES differ: see `row_edges`."""
        if self.datatype == "BYTES":
            raise ValueError("rows of BYTES have no common length. This is a bug")
        return math.prod(self.row_shape) * DTYPES[self.datatype].itemsize

    def array(self, rows: int) -> Array:
        """The tensor, shape (rows, *row_shape); a view where there is one buffer of fixed items.

        Raises ElementsInvalid when the bytes of BYTES are not that many elements.
        """
        whole = self.buffers[0] if len(self.buffers) == 1 else b"".join(self.buffers)
        if self.datatype == "BYTES":
            values = np.empty(rows * math.prod(self.row_shape), object)
            values[:] = split_elements(whole, len(values))
            return values.reshape(rows, *self.row_shape)
        return np.frombuffer(whole, DTYPES[self.datatype]).reshape(rows, *self.row_shape)

    def row_edges(self, rows: int) -> Sequence[int]:
        """Where each row begins, and behind them where the last one ends. For one buffer."""
        if self.datatype == "BYTES":
            return [0, *row_ends(self.buffers[0], rows, math.prod(self.row_shape))]
        size = self.row_bytes
        return [row * size for row in range(rows + 1)]


class RowFailure(IntEnum):
    """Why one row of a frame has no answer. Numbers are part of the frame format."""

    MODEL_ERROR = 1
    EXPIRED = 2
    INVALID_OUTPUT = 3
    NO_MEMORY = 4


@dataclass(frozen=True, slots=True)
class SpanLink:
    """The trace context of a sampled request; `row` is its first row in the frame."""

    row: int
    trace_id: bytes
    span_id: bytes


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Rows of one model version and one shape that travel together.

    budget_us: how long an answer is worth anything, from when it is sent; 0 means no limit.
    sent_us: when that was, by the sender's monotonic clock modulo 2**32; 0 where ends share no clock.
    """

    digest: Digest
    rows: int
    tensors: tuple[TensorBlock, ...]
    budget_us: int = 0
    links: tuple[SpanLink, ...] = ()
    sent_us: int = 0


@dataclass(frozen=True, slots=True)
class BatchPart:
    """Consecutive rows of a frame that ran in the same batch, and where they stood in it."""

    rows: int
    batch_id: int
    batch_rows: int
    position: int
    queue_us: int
    run_us: int


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """A replica's answer to a `RowBatch`.

    outputs: all rows, in order; rows named in `failures` hold zeros. parts: in row order, together
    as many rows as were sent.
    """

    rows: int
    outputs: tuple[TensorBlock, ...]
    parts: tuple[BatchPart, ...]
    failures: dict[int, RowFailure] = field(default_factory=dict)
