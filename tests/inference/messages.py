"""Frames as tests compare them: bytes on the wire and values without buffers of their own."""

from dataclasses import replace

from serving.core.batches import BatchAnswer, RowBatch, TensorBlock
from serving.core.models import Digest
from serving.inference.frames import PREFIX


def body_of(message: bytes) -> memoryview:
    return memoryview(message)[PREFIX.size :]


def joined(tensors: tuple[TensorBlock, ...]) -> tuple[TensorBlock, ...]:
    """The same tensors, each in one buffer of bytes."""
    return tuple(replace(tensor, buffers=(b"".join(tensor.buffers),)) for tensor in tensors)


def plain_batch(batch: RowBatch) -> RowBatch:
    """As it arrives: of the digest a frame carries the first 8 bytes."""
    return replace(batch, digest=Digest(batch.digest[:16]), tensors=joined(batch.tensors))


def plain_answer(answer: BatchAnswer) -> BatchAnswer:
    return replace(answer, outputs=joined(answer.outputs))
