"""What a frame's answer means for each of its calls: where it ran, whether it failed, what it gets."""

from collections.abc import Mapping, Sequence
from typing import Final

from serving.core.batches import BatchAnswer, BatchPart, RowFailure
from serving.core.predictions import Fate
from serving.errors import (
    DeadlineExceeded,
    ModelFailed,
    OutOfMemory,
    OutputInvalid,
    ServingError,
)
from serving.gateway.calls import Call

FATES: Final[Mapping[RowFailure, Fate]] = {
    RowFailure.MODEL_ERROR: Fate.MODEL_ERROR,
    RowFailure.EXPIRED: Fate.TIMEOUT,
    RowFailure.INVALID_OUTPUT: Fate.INVALID_OUTPUT,
    RowFailure.NO_MEMORY: Fate.MODEL_ERROR,
}


def place(calls: Sequence[Call], parts: Sequence[BatchPart], now_ns: int) -> None:
    """Writes into every call the batch in which its first row ran."""
    ends = []
    end = 0
    for part in parts:
        end += part.rows
        ends.append(end)
    index = 0
    for call in calls:
        while call.first_row >= ends[index]:
            index += 1
        part = parts[index]
        call.batch_id = part.batch_id
        call.batch_size = part.batch_rows
        call.batch_position = part.position + call.first_row - (ends[index] - part.rows)
        call.queue_us += part.queue_us
        call.run_us = part.run_us
        call.total_us = (now_ns - call.arrived_ns) // 1000


def failed(calls: Sequence[Call], answer: BatchAnswer) -> dict[Call, RowFailure]:
    """The calls of which at least one row failed, with the first reason."""
    if not answer.failures:
        return {}
    failed = {}
    for call in calls:
        rows = range(call.first_row, call.first_row + call.rows)
        reason = next((answer.failures[row] for row in rows if row in answer.failures), None)
        if reason is not None:
            failed[call] = reason
    return failed


def kinds(calls: Sequence[Call]) -> tuple[list[Call], list[Call]]:
    """Parts of ensembles, and the others."""
    return [call for call in calls if call.is_part], [call for call in calls if not call.is_part]


def hand_out(calls: Sequence[Call], answer: BatchAnswer) -> None:
    """Gives every call exactly its own rows of every output, as views."""
    outputs = answer.outputs
    if "BYTES" in [output.datatype for output in outputs]:
        _hand_out_varying(calls, answer)
        return
    views = [(memoryview(output.buffers[0]), output.row_bytes) for output in outputs]
    for call in calls:
        start, stop = call.first_row, call.first_row + call.rows
        call.outputs = tuple([view[start * size : stop * size] for view, size in views])


def _hand_out_varying(calls: Sequence[Call], answer: BatchAnswer) -> None:
    """The same where the rows of an output differ in length."""
    cuts = [(memoryview(it.buffers[0]), it.row_edges(answer.rows)) for it in answer.outputs]
    for call in calls:
        start, stop = call.first_row, call.first_row + call.rows
        call.outputs = tuple([view[edges[start] : edges[stop]] for view, edges in cuts])


def explain(failure: RowFailure) -> ServingError:
    """What the caller of a row without an answer is told."""
    if failure is RowFailure.EXPIRED:
        return DeadlineExceeded("the deadline passed before there was an answer")
    if failure is RowFailure.MODEL_ERROR:
        return ModelFailed("the model failed on this input")
    if failure is RowFailure.NO_MEMORY:
        return OutOfMemory(
            "the model's device has no memory for this now; send less or retry later"
        )
    return OutputInvalid("the model's answer was not usable")
