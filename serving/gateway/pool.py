"""Tensors on their way from stage to stage of an ensemble: pure functions, no calls and no queues.

A tensor has its whole shape here. What a stage that counts rows is asked are rows of it, in parts of at
most its largest batch; a stage that does not gets the whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from serving.core.batches import Buffer, TensorBlock
from serving.core.models import ModelVersion, Stage
from serving.core.tensors import TensorSpecification
from serving.errors import OutputInvalid
from serving.gateway.calls import Call, InferenceRequest

MAX_STAGE_ROWS: Final = 4096
"""Of one stage of one request."""


@dataclass(frozen=True, slots=True)
class PoolTensor:
    """A tensor of a run, by the name that it has in the ensemble. shape: the whole one."""

    datatype: str
    shape: tuple[int, ...]
    content: Buffer

    @property
    def is_empty(self) -> bool:
        return not self.shape or not self.shape[0]


def requests_of(
    call: Call, version: ModelVersion, tensors: Sequence[PoolTensor]
) -> list[InferenceRequest]:
    """What a stage is asked, in parts of at most its largest batch. Raises OutputInvalid."""
    if not version.batched:
        shapes = tuple(tensor.shape for tensor in tensors)
        _check(version.inputs, shapes)
        return [_request(call, 1, [tensor.content for tensor in tensors], shapes)]
    counts = {tensor.shape[0] for tensor in tensors}
    if len(counts) > 1:
        raise OutputInvalid(f"its inputs have {' and '.join(map(str, sorted(counts)))} rows")
    rows = counts.pop()
    if rows > MAX_STAGE_ROWS:
        raise OutputInvalid(f"it would get {rows} rows; a stage takes at most {MAX_STAGE_ROWS}")
    shapes = tuple(tensor.shape[1:] for tensor in tensors)
    _check(version.inputs, shapes)
    edges = [
        TensorBlock(tensor.datatype, shape, (tensor.content,)).row_edges(rows)
        for tensor, shape in zip(tensors, shapes, strict=True)
    ]
    size = version.batching.max_batch_size
    return [
        _request(
            call,
            min(size, rows - first),
            [
                memoryview(tensor.content)[cuts[first] : cuts[min(first + size, rows)]]
                for tensor, cuts in zip(tensors, edges, strict=True)
            ],
            shapes,
        )
        for first in range(0, rows, size)
    ]


def _request(
    call: Call, rows: int, contents: Sequence[Buffer], shapes: tuple[tuple[int, ...], ...]
) -> InferenceRequest:
    return InferenceRequest(
        request_id=call.request_id,
        rows=rows,
        inputs=tuple(contents),
        shapes=shapes,
        size_bytes=sum(map(len, contents)),
        vetted=False,
        timeout_s=None,
        wanted=None,
        priority=call.request.priority,
        subject=call.request.subject,
    )


def _check(declared: Sequence[TensorSpecification], shapes: Sequence[tuple[int, ...]]) -> None:
    """Raises OutputInvalid."""
    for tensor, shape in zip(declared, shapes, strict=True):
        if not tensor.admits_row(shape):
            raise OutputInvalid(
                f"{tensor.name!r} would get rows of shape {list(shape)}; it takes "
                f"{list(tensor.row_shape)}"
            )


def nothing_of(stage: Stage, version: ModelVersion) -> dict[str, PoolTensor]:
    """What a stage without rows gives; a dimension that varies has no size then."""
    own = {tensor.name: tensor for tensor in version.outputs}
    return {
        tensor: PoolTensor(
            own[name].datatype, (0, *(max(size, 0) for size in own[name].row_shape)), b""
        )
        for name, tensor in stage.outputs
    }


def joined(pieces: Sequence[PoolTensor]) -> PoolTensor:
    """Rows of several parts, in order. Raises OutputInvalid."""
    first = pieces[0]
    if len(pieces) == 1:
        return first
    if any(piece.shape[1:] != first.shape[1:] for piece in pieces):
        raise OutputInvalid("its answers to parts of one request differ in shape")
    rows = sum(piece.shape[0] for piece in pieces)
    content = b"".join(piece.content for piece in pieces)
    return PoolTensor(first.datatype, (rows, *first.shape[1:]), content)


def outputs_of(
    call: Call, version: ModelVersion, pool: Mapping[str, PoolTensor]
) -> tuple[TensorBlock, ...]:
    """The answer. Raises OutputInvalid for what the ensemble does not declare."""
    blocks = []
    for declared in version.outputs:
        tensor = pool[declared.name]
        row_shape = tensor.shape[1:] if version.batched else tensor.shape
        rows = tensor.shape[0] if version.batched else 1
        if rows != call.rows or not declared.admits_row(row_shape):
            raise OutputInvalid(
                f"{declared.name!r} has the shape {list(tensor.shape)} after the last stage; it "
                f"is declared as {list(declared.shape)}, and {call.rows} rows were asked"
            )
        blocks.append(TensorBlock(declared.datatype, row_shape, (tensor.content,)))
    return tuple(blocks)
