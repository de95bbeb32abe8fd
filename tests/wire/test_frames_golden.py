"""Recorded frames of format version 1: they stay readable, and what is written stays the same."""

import struct
from pathlib import Path

import pytest

from serving.core.batches import (
    BatchAnswer,
    BatchPart,
    RowBatch,
    RowFailure,
    SpanLink,
    TensorBlock,
)
from serving.core.elements import join_elements
from serving.core.models import Digest
from serving.core.tensors import DTYPES
from serving.inference.frames import (
    Kind,
    MessageReader,
    Refusal,
    decode_answer,
    decode_batch,
    decode_hello,
    decode_refusal,
    encode_answer,
    encode_batch,
    encode_hello,
    encode_refusal,
)
from tests.inference.messages import plain_answer, plain_batch

RECORDINGS = Path(__file__).parent / "frames"
DIGEST = Digest(bytes(range(32)).hex())
FRAME_ID = 258
BATCH = RowBatch(
    digest=DIGEST,
    rows=3,
    tensors=(
        TensorBlock("FP32", (2,), [struct.pack("<2f", 0, 1.5), struct.pack("<4f", -2, 3, 4, 5)]),
        TensorBlock("BOOL", (), [b"\1\0\1"]),
    ),
    budget_us=50_000,
    links=(SpanLink(1, bytes(range(16)), bytes(range(100, 108))),),
    sent_us=123_456_789,
)
ANSWER = BatchAnswer(
    rows=3,
    outputs=(TensorBlock("INT64", (1,), [struct.pack("<3q", -1, 2**40, 0)]),),
    parts=(
        BatchPart(2, (7 << 32) + 1, 16, 14, 120, 900),
        BatchPart(1, (7 << 32) + 2, 1, 0, 1100, 800),
    ),
    failures={2: RowFailure.MODEL_ERROR},
)
STRINGS = RowBatch(
    digest=DIGEST,
    rows=2,
    tensors=(
        TensorBlock("BYTES", (2,), [join_elements([b"a", b""]), join_elements([b"\xff\0", b"bc"])]),
        TensorBlock("BF16", (1,), [struct.pack("<2H", 0x3F80, 0xC020)]),
    ),
    budget_us=1,
)
LABELS = BatchAnswer(
    rows=2,
    outputs=(TensorBlock("BYTES", (), [join_elements([b"yes", b"no"])]),),
    parts=(BatchPart(2, 1, 2, 0, 3, 4),),
)


def recorded(name: str) -> bytes:
    return bytes.fromhex((RECORDINGS / f"{name}.hex").read_text())


def read(name: str) -> tuple[Kind, memoryview]:
    """The one message in a recording."""
    [message] = MessageReader(max_bytes=1024).feed(recorded(name))
    return message


def test_recorded_greeting_is_read() -> None:
    """HELLO names the artifact's SHA-256."""
    kind, body = read("hello")

    assert (kind, decode_hello(body)) == (Kind.HELLO, DIGEST)


def test_recorded_rows_are_read() -> None:
    """INFER with two tensors, one without dimensions, and a link."""
    kind, body = read("infer")
    frame_id, batch = decode_batch(body)

    assert (Kind.INFER, FRAME_ID, plain_batch(BATCH)) == (kind, frame_id, plain_batch(batch))


def test_recorded_answer_is_read() -> None:
    """ANSWER in two parts, one row of which failed."""
    kind, body = read("answer")
    frame_id, answer = decode_answer(body)

    assert (Kind.ANSWER, FRAME_ID, plain_answer(ANSWER)) == (kind, frame_id, plain_answer(answer))


def test_recorded_strings_are_read() -> None:
    """BYTES of any length, empty ones and such that are no text among them, and BF16."""
    _, rows = read("infer-strings")
    _, answer = read("answer-strings")

    assert (FRAME_ID, plain_batch(STRINGS)) == decoded_plainly(rows)
    assert decode_answer(answer)[1].outputs[0].array(2).tolist() == [b"yes", b"no"]


def test_layout_of_strings_is_the_documented_one() -> None:
    """Head, length and elements of BYTES as the format's docstring gives them."""
    _, body = read("infer-strings")
    heads = struct.pack("<BBHIQ", 14, 1, 0, 2, 21) + struct.pack("<BBHI", 13, 1, 0, 1)
    elements = b"\1\0\0\0a" + b"\0\0\0\0" + b"\2\0\0\0\xff\0" + b"\2\0\0\0bc"

    assert bytes(body[32:]) == heads + bytes(8) + elements + bytes(11) + b"\x80?\x20\xc0" + bytes(
        12
    )


def decoded_plainly(body: memoryview) -> tuple[int, RowBatch]:
    frame_id, batch = decode_batch(body)
    return frame_id, plain_batch(batch)


def test_recorded_refusal_is_read() -> None:
    """REFUSAL by a replica that shuts down."""
    kind, body = read("refusal")

    assert (kind, decode_refusal(body)) == (Kind.REFUSAL, (FRAME_ID, Refusal.DRAINING))


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("hello", encode_hello(DIGEST)),
        ("infer", encode_batch(FRAME_ID, BATCH)),
        ("answer", encode_answer(FRAME_ID, ANSWER)),
        ("refusal", encode_refusal(FRAME_ID, Refusal.DRAINING)),
        ("infer-strings", encode_batch(FRAME_ID, STRINGS)),
        ("answer-strings", encode_answer(FRAME_ID, LABELS)),
    ],
    ids=["hello", "infer", "answer", "refusal", "infer-strings", "answer-strings"],
)
def test_what_is_written_is_what_was_recorded(name: str, written: bytes) -> None:
    """Old readers keep understanding new writers: the bytes of version 1 do not change."""
    assert recorded(name).hex() == written.hex()


def test_numbers_of_the_format_are_fixed() -> None:
    """Datatype codes, reasons and kinds never change their numbers."""
    datatypes = "BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 BF16 BYTES"
    reasons = {"MODEL_ERROR": 1, "EXPIRED": 2, "INVALID_OUTPUT": 3, "NO_MEMORY": 4}

    assert datatypes.split() == list(DTYPES)
    assert reasons == {reason.name: reason.value for reason in RowFailure}
    assert {r.name: r.value for r in Refusal} == {
        "DRAINING": 1,
        "WRONG_MODEL": 2,
        "NOT_UNDERSTOOD": 3,
    }
