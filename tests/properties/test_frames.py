"""The frame codec gives back what it was given, and survives whatever else it is given."""

import struct
import tracemalloc
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.batches import BatchAnswer, RowBatch, TensorBlock
from serving.errors import FrameInvalid
from serving.inference.frames import (
    Kind,
    MessageReader,
    decode_answer,
    decode_batch,
    decode_hello,
    decode_refusal,
    encode_answer,
    encode_batch,
)
from tests.inference.messages import body_of, plain_answer, plain_batch
from tests.strategies import EXTREMES, U64, batch_answers, pieces, row_batches

LIMIT = 1024 * 1024
MEMORY_PER_BYTE = 64
"""A body of 28-byte parts or 5-byte tensor heads becomes Python objects of this many times it."""
DECODERS: dict[Kind, Callable[[memoryview], object]] = {
    Kind.HELLO: decode_hello,
    Kind.INFER: decode_batch,
    Kind.ANSWER: decode_answer,
    Kind.REFUSAL: decode_refusal,
}

messages = st.one_of(
    st.builds(encode_batch, U64, row_batches()), st.builds(encode_answer, U64, batch_answers())
)


def tensor_bytes(value: object) -> int:
    """How many bytes the tensors in a decoded message hold."""
    tensors: Sequence[TensorBlock] = ()
    match value:
        case (_, RowBatch() as batch):
            tensors = batch.tensors
        case (_, BatchAnswer() as answer):
            tensors = answer.outputs
        case _:
            pass
    return sum(len(buffer) for tensor in tensors for buffer in tensor.buffers)


def read(stream: bytes) -> list[object]:
    """Everything in `stream`, decoded."""
    reader = MessageReader(max_bytes=LIMIT)
    return [DECODERS[kind](body) for kind, body in reader.feed(stream)]


def survive(stream: bytes) -> None:
    """Reads hostile bytes: FrameInvalid or values no larger than the bytes, in bounded memory."""
    tracemalloc.start()
    try:
        for value in read(stream):
            assert tensor_bytes(value) <= len(stream)
    except FrameInvalid:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    # An unfinished message is given its whole buffer, which the reader's own limit bounds.
    assert peak < LIMIT + 64 * 1024 + MEMORY_PER_BYTE * len(stream)


@given(frame_id=U64, batch=row_batches())
def test_rows_arrive_as_they_were_sent(frame_id: int, batch: RowBatch) -> None:
    """Any datatype, rank, number of tensors and links: what is decoded is what was encoded."""
    decoded = decode_batch(body_of(encode_batch(frame_id, batch)))

    assert (frame_id, plain_batch(batch)) == (decoded[0], plain_batch(decoded[1]))


@given(frame_id=U64, answer=batch_answers())
def test_answers_arrive_as_they_were_sent(frame_id: int, answer: BatchAnswer) -> None:
    """Outputs, parts and failures of an answer are what was encoded."""
    decoded = decode_answer(body_of(encode_answer(frame_id, answer)))

    assert (frame_id, plain_answer(answer)) == (decoded[0], plain_answer(decoded[1]))


@given(message=messages, data=st.data())
def test_a_shortened_body_is_refused(message: bytes, data: st.DataObject) -> None:
    """A body that ends early is never read as a shorter one."""
    kind = Kind(message[5])
    body = body_of(message)
    end = data.draw(st.integers(0, len(body) - 1))

    with pytest.raises(FrameInvalid):
        DECODERS[kind](body[:end])


@given(message=messages, data=st.data())
def test_a_lengthened_body_is_refused(message: bytes, data: st.DataObject) -> None:
    """Bytes behind the content are never ignored."""
    kind = Kind(message[5])
    more = data.draw(st.binary(min_size=1, max_size=40))

    with pytest.raises(FrameInvalid):
        DECODERS[kind](memoryview(bytes(body_of(message)) + more))


@given(message=messages, data=st.data())
def test_a_changed_byte_is_survived(message: bytes, data: st.DataObject) -> None:
    """Any byte changed anywhere: FrameInvalid or a value, never a crash or much memory."""
    changed = bytearray(message)
    changed[data.draw(st.integers(0, len(message) - 1))] ^= data.draw(st.integers(1, 255))

    survive(bytes(changed))


@given(message=messages, value=EXTREMES, width=st.sampled_from("HIQ"), data=st.data())
def test_an_extreme_number_anywhere_is_survived(
    message: bytes, value: int, width: str, data: st.DataObject
) -> None:
    """Any count, length or dimension at its extremes: FrameInvalid or a value."""
    form = struct.Struct(f"<{width}")
    changed = bytearray(message)
    offset = data.draw(st.integers(0, len(message) - form.size))
    form.pack_into(changed, offset, value % 256**form.size)

    survive(bytes(changed))


@given(stream=st.binary(max_size=200))
def test_any_bytes_are_survived(stream: bytes) -> None:
    """A peer that speaks another language is refused or waited for."""
    survive(stream)


@given(sent=st.lists(messages, min_size=1, max_size=4), data=st.data())
def test_messages_are_the_same_however_they_are_cut(sent: list[bytes], data: st.DataObject) -> None:
    """The reader finds the same messages in any pieces, and tensors where arrays can begin."""
    reader = MessageReader(max_bytes=LIMIT)
    received = []
    for piece in data.draw(pieces(b"".join(sent))):
        received += reader.feed(piece)

    assert [bytes(body_of(message)) for message in sent] == [bytes(body) for _, body in received]
    for kind, body in received:
        if kind is Kind.INFER:
            _, batch = decode_batch(body)
            assert all(tensor.array(batch.rows).flags.aligned for tensor in batch.tensors)
