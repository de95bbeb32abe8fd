import struct
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from serving.core.batches import BatchAnswer, BatchPart, RowBatch, RowFailure, TensorBlock
from serving.core.elements import join_elements
from serving.core.models import Digest
from serving.errors import FrameInvalid
from serving.inference.frames import (
    PREFIX,
    Kind,
    MessageReader,
    Refusal,
    decode_answer,
    decode_batch,
    decode_hello,
    decode_prefix,
    decode_refusal,
    encode_answer,
    encode_batch,
    encode_hello,
    encode_refusal,
)
from tests.inference.messages import body_of

DIGEST = Digest("5a" * 32)
LIMIT = 4096
ROWS = RowBatch(DIGEST, 2, (TensorBlock("FP32", (2,), [struct.pack("<4f", 1, 2, 3, 4)]),))
ANSWER = BatchAnswer(2, (), (BatchPart(2, 9, 2, 0, 1, 2),), {1: RowFailure.EXPIRED})
ROWS_AT, SHAPE_AT = 20, 36
"""Offsets in the body of `ROWS`: its row count, and the one dimension of its one tensor."""


def put(body: memoryview, offset: int, number: int) -> memoryview:
    """`body` with the 32 bits at `offset` replaced."""
    changed = bytearray(body)
    struct.pack_into("<I", changed, offset, number)
    return memoryview(bytes(changed))


def test_greeting_carries_the_whole_digest() -> None:
    """HELLO tells which artifact runs, all 32 bytes of its name."""
    message = encode_hello(DIGEST)

    assert (message[:4], message[5]) == (b"SVF1", Kind.HELLO)
    assert decode_hello(body_of(message)) == DIGEST


def test_greeting_of_another_length_is_refused() -> None:
    """A digest that is not 32 bytes names nothing."""
    with pytest.raises(FrameInvalid):
        decode_hello(memoryview(bytes(31)))


@pytest.mark.parametrize("reason", list(Refusal))
def test_refusals_keep_frame_and_reason(reason: Refusal) -> None:
    """The gateway learns which frame was refused and why."""
    assert decode_refusal(body_of(encode_refusal(2**63, reason))) == (2**63, reason)


def test_refusal_without_a_known_reason_is_refused() -> None:
    """Reason 9 means nothing in this version."""
    with pytest.raises(FrameInvalid):
        decode_refusal(put(body_of(encode_refusal(1, Refusal.DRAINING)), 8, 9))


@pytest.mark.parametrize(
    "change",
    [
        lambda prefix: b"HTTP" + prefix[4:],
        lambda prefix: prefix[:4] + b"\2" + prefix[5:],
        lambda prefix: prefix[:5] + b"\0" + prefix[6:],
        lambda prefix: prefix[:5] + b"\5" + prefix[6:],
    ],
    ids=["magic", "version", "kind 0", "kind 5"],
)
def test_prefix_of_another_format_is_refused(change: Callable[[bytes], bytes]) -> None:
    """Another magic, version or kind starts no frame."""
    with pytest.raises(FrameInvalid):
        decode_prefix(change(encode_hello(DIGEST)[: PREFIX.size]), max_bytes=LIMIT)


def test_length_is_bounded_before_memory_is_taken() -> None:
    """One byte over the limit is refused from the prefix alone; the limit itself is read."""
    prefix = PREFIX.pack(b"SVF1", 1, Kind.INFER, 0, LIMIT + 1)

    with pytest.raises(FrameInvalid, match="4097"):
        MessageReader(max_bytes=LIMIT).feed(prefix)

    assert decode_prefix(prefix, max_bytes=LIMIT + 1) == (Kind.INFER, LIMIT + 1)


def test_complete_messages_need_no_copy() -> None:
    """A message that arrives whole is a view of what was received."""
    data = encode_batch(1, ROWS)
    [(_, body)] = MessageReader(max_bytes=LIMIT).feed(data)

    assert body.obj is data


def test_message_in_single_bytes_is_put_together() -> None:
    """However slowly it comes, a message is complete with its last byte and not before."""
    reader = MessageReader(max_bytes=LIMIT)
    message = encode_batch(1, ROWS)
    early = [reader.feed(message[i : i + 1]) for i in range(len(message) - 1)]
    last = reader.feed(message[-1:])

    assert not any(early)
    assert [(kind, bytes(body)) for kind, body in last] == [(Kind.INFER, bytes(body_of(message)))]


def test_array_is_a_view_of_the_frame() -> None:
    """Numbers are used where they lie; nothing is copied for one buffer."""
    body = body_of(encode_batch(1, ROWS))
    _, batch = decode_batch(body)
    array = batch.tensors[0].array(batch.rows)

    assert array.tolist() == [[1, 2], [3, 4]]
    assert np.shares_memory(array, np.frombuffer(body, np.uint8))


def test_frame_names_no_more_rows_than_it_has_bytes() -> None:
    """Rows of nothing could be four thousand million, each of which would need an answer."""
    empty = replace(ROWS, tensors=(TensorBlock("FP32", (0,), [b""]),))
    body = body_of(encode_batch(1, empty))

    assert decode_batch(body)[1].rows == 2
    with pytest.raises(FrameInvalid, match="rows"):
        decode_batch(put(body, ROWS_AT, 2**32 - 1))


def test_empty_tensor_of_endless_dimensions_is_refused() -> None:
    """A dimension of zero does not make the others harmless: arrays of such shapes cannot be."""
    empty = replace(ROWS, tensors=(TensorBlock("FP32", (1, 0), [b""]),))

    with pytest.raises(FrameInvalid, match="proportion"):
        decode_batch(put(body_of(encode_batch(1, empty)), SHAPE_AT, 2**32 - 1))


def test_rank_above_the_formats_is_refused() -> None:
    """Nine dimensions besides rows are one too many."""
    body = bytearray(body_of(encode_batch(1, ROWS)))
    body[33] = 9

    with pytest.raises(FrameInvalid, match="dimensions"):
        decode_batch(memoryview(bytes(body)))


def test_unknown_datatype_is_refused() -> None:
    """Datatype codes start at 1."""
    body = bytearray(body_of(encode_batch(1, ROWS)))
    body[32] = 0

    with pytest.raises(FrameInvalid, match="datatype"):
        decode_batch(memoryview(bytes(body)))


def test_parts_add_up_to_the_rows() -> None:
    """An answer in whose parts a row is missing is nobody's."""
    short = replace(ANSWER, parts=(BatchPart(1, 9, 2, 0, 1, 2),))

    with pytest.raises(FrameInvalid, match="add up"):
        decode_answer(body_of(encode_answer(1, short)))


def test_failure_beyond_the_rows_is_refused() -> None:
    """A failed row must be one of the frame's."""
    beyond = replace(ANSWER, failures={2: RowFailure.EXPIRED})

    with pytest.raises(FrameInvalid, match="beyond"):
        decode_answer(body_of(encode_answer(1, beyond)))


def test_failure_without_a_known_reason_is_refused() -> None:
    """Reason 7 means nothing in this version."""
    body = body_of(encode_answer(1, ANSWER))
    offset = 32 + 28 + 4

    with pytest.raises(FrameInvalid, match="reason"):
        decode_answer(put(body, offset, 7))


def test_answer_may_have_run_in_very_many_parts() -> None:
    """A large request with a batch size of one comes back in more than 65 535 parts."""
    rows = 70_000
    answer = BatchAnswer(rows, (), (BatchPart(1, 1, 1, 0, 0, 0),) * rows, {0: RowFailure.EXPIRED})

    assert len(decode_answer(body_of(encode_answer(1, answer)))[1].parts) == rows


STRINGS = RowBatch(DIGEST, 2, (TensorBlock("BYTES", (1,), [join_elements([b"abcd", b"ef"])]),))
LENGTH_AT, FIRST_AT, SECOND_AT = 40, 48, 56
"""Offsets in the body of `STRINGS`: its buffer's length, 14, and those of its two elements."""


@pytest.mark.parametrize(
    ("offset", "number"),
    [(LENGTH_AT, 13), (LENGTH_AT, 15), (LENGTH_AT, 2**32 - 1), (LENGTH_AT + 4, 1),
     (FIRST_AT, 3), (FIRST_AT, 5), (FIRST_AT, 2**32 - 1), (SECOND_AT, 1), (SECOND_AT, 3),
     (ROWS_AT, 1), (ROWS_AT, 3)],
)  # fmt: skip
def test_strings_fill_their_buffer(offset: int, number: int) -> None:
    """Lengths of elements that do not add up to that of their buffer are refused."""
    body = body_of(encode_batch(1, STRINGS))
    assert decode_batch(body)[1].tensors[0].array(2).tolist() == [[b"abcd"], [b"ef"]]

    with pytest.raises(FrameInvalid):
        decode_batch(put(body, offset, number))


def test_strings_of_no_rows_have_no_bytes() -> None:
    """BYTES without an element is an empty buffer, and one with bytes left over is refused."""
    empty = RowBatch(DIGEST, 2, (TensorBlock("BYTES", (0,), [b""]),))
    body = body_of(encode_batch(1, empty))

    assert decode_batch(body)[1].tensors[0].array(2).shape == (2, 0)
    with pytest.raises(FrameInvalid):
        decode_batch(memoryview(bytes(put(body, LENGTH_AT, 16)) + bytes(16)))
