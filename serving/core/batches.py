"""What travels between a gateway and a replica: rows out, answers back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from serving.core.models import Digest
from serving.core.tensors import DTYPES, Array

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class TensorBlock:
    """One tensor of many rows as raw little-endian bytes.

    row_shape: the shape without rows. buffers: consecutive rows, in order, maybe in several pieces.
    """

    datatype: str
    row_shape: tuple[int, ...]
    buffers: Sequence[Buffer]

    @property
    def row_bytes(self) -> int:
        return math.prod(self.row_shape) * DTYPES[self.datatype].itemsize

    def array(self, rows: int) -> Array:
        """The tensor, shape (rows, *row_shape); a view where there is one buffer."""
        whole = self.buffers[0] if len(self.buffers) == 1 else b"".join(self.buffers)
        return np.frombuffer(whole, DTYPES[self.datatype]).reshape(rows, *self.row_shape)


class RowFailure(IntEnum):
    """Why one row of a frame has no answer. Numbers are part of the frame format."""

    MODEL_ERROR = 1
    EXPIRED = 2
    INVALID_OUTPUT = 3


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
