"""A frame: calls that travel together, who carries them, and who is told what became of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from serving.core.batches import BatchAnswer, RowBatch, SpanLink, TensorBlock
from serving.core.models import ModelVersion
from serving.core.tensors import numbers
from serving.gateway.calls import Call

if TYPE_CHECKING:
    from serving.gateway.batching import VersionQueue

FLOATS: Final = frozenset({"BF16", "FP16", "FP32", "FP64"})
"""Datatypes that can hold what is no number."""

_U32: Final = 2**32 - 1


class ReplicaLink(Protocol):
    """A connection to one replica; `serving.inference.channel.Channel` fits by shape."""

    ready: bool
    closed: bool
    outstanding_rows: int
    credits: int
    """Frames that it takes at a time, however small."""

    @property
    def has_credit(self) -> bool: ...
    def send(self, sink: "Frame") -> None:
        """Exactly one of `sink.answered`, `sink.returned` and `sink.lost` follows."""

    def check(self, now_ns: int) -> None: ...
    def abort(self) -> None: ...


class Outcomes(Protocol):
    """Who is told what became of calls."""

    def answered(self, frame: "Frame", answer: BatchAnswer) -> None: ...
    def expired(self, call: Call) -> None: ...
    def hopeless(self, call: Call) -> None:
        """The call was taken for a frame, too late for an answer before its deadline."""

    def shed(self, call: Call) -> None:
        """The call has waited for a frame for too long."""

    def exhausted(self, call: Call) -> None:
        """The call's replicas died `MAX_ATTEMPTS` times."""

    def retried(self, call: Call) -> None:
        """The call's replica died; the call waits for another one."""

    def not_finite(self, call: Call) -> None: ...
    def broken(self, call: Call) -> None:
        """No frame could be made of the call. This is a bug."""


class Frame:
    """Calls that travel together; `seal` gives it its batch. `rendered` is the wire adapter's memory,
    encoded once a frame."""

    __slots__ = ("answer", "batch", "calls", "queue", "rendered")

    batch: RowBatch

    def __init__(self, queue: "VersionQueue", calls: list[Call]) -> None:
        self.queue = queue
        self.calls = calls
        self.answer: BatchAnswer | None = None
        self.rendered: dict[int | tuple[Any, ...], Any] = {}

    def answered(self, answer: BatchAnswer) -> None:
        self.answer = answer
        self.queue.answered(self, answer)
        # Ends the cycle of frame and calls: else the collector has to find every answered request.
        self.calls = []

    def returned(self) -> None:
        self.queue.returned(self)

    def lost(self) -> None:
        self.queue.lost(self)


def columns_of(version: ModelVersion, calls: Sequence[Call]) -> tuple[TensorBlock, ...]:
    """The inputs of all calls, one tensor per input of the version."""
    columns = zip(*(call.inputs for call in calls), strict=True)
    return tuple(
        TensorBlock(declared.datatype, shape, (b"".join(column),))
        for declared, shape, column in zip(version.inputs, calls[0].shapes, columns, strict=True)
    )


def seal(frame: Frame, tensors: tuple[TensorBlock, ...], *, rows: int, now_ns: int) -> None:
    """Gives every call its place in the frame, and the frame its batch.

    The frame is worth nothing after the first of its deadlines: a replica that comes to it later
    hands it back unrun, and those who can still wait travel again. So no row is ever run for a call
    whose time has passed.
    """
    deadline_ns = frame.calls[0].deadline_ns
    links = []
    first_row = 0
    for call in frame.calls:
        call.frame = frame
        call.first_row = first_row
        call.queue_us = (now_ns - call.arrived_ns) // 1000
        deadline_ns = min(deadline_ns, call.deadline_ns)
        trace = call.trace
        if trace is not None and trace.sampled:
            links.append(SpanLink(first_row, trace.trace_id, trace.span_id))
        first_row += call.rows
    budget_us = min(max((deadline_ns - now_ns) // 1000, 1), _U32)
    digest = frame.queue.version.digest
    frame.batch = RowBatch(digest, rows, tensors, budget_us, tuple(links), now_ns // 1000 & _U32)


def find_not_finite(calls: Sequence[Call], tensors: Sequence[TensorBlock], rows: int) -> list[Call]:
    """The calls with a NaN or an infinity in a float tensor; one check per frame when none has."""
    bad_rows = np.zeros(rows, np.bool_)
    for tensor in tensors:
        if tensor.datatype in FLOATS:
            finite = np.isfinite(numbers(tensor.array(rows)))
            if not finite.all():
                bad_rows |= ~finite.reshape(rows, -1).all(axis=1)
    if not bad_rows.any():
        return []
    guilty = []
    first_row = 0
    for call in calls:
        if bad_rows[first_row : first_row + call.rows].any():
            guilty.append(call)
        first_row += call.rows
    return guilty
