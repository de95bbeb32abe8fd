"""Outcome frames: ground truth that was reported for a recorded prediction.

An OUTCOME frame begins like every event's (`format`): its sequence is one of the writer's own, its
time is when it was reported, its definition number is 0. Then, little-endian:

     32   8  log id of the prediction, 8 sequence of the prediction: its prediction id
     48   8  when it was observed, nanoseconds since 1970, UTC, signed
     56   4  row, 4 revision
     64   2  length of model, 2 of name, 2 of principal, 2 zeros
     72   .  model, name, principal (UTF-8), then the value as JSON: a number, a string, a boolean, or
             null, which takes back what an earlier revision said

`prediction_key` is the only reader of prediction ids: 16 hexadecimal digits, a hyphen, 1 to 16 more.
"""

import re
import struct
from typing import Final

import msgspec

from serving.core.outcomes import Outcome, OutcomeValue
from serving.errors import ParameterInvalid
from serving.predictionlog.format import CRC, FrameType, closed

OUTCOME: Final = FrameType.OUTCOME
"""The type of an outcome frame."""

FIXED: Final = struct.Struct("<IBBHQqQ8sQqIIHHHH")
_ID: Final = re.compile("([0-9a-f]{16})-([0-9a-f]{1,16})")
_encode_value = msgspec.json.Encoder().encode
_decode_value = msgspec.json.Decoder(OutcomeValue).decode


def prediction_key(prediction_id: str) -> tuple[bytes, int]:
    """(log id, sequence). Raises ParameterInvalid."""
    found = _ID.fullmatch(prediction_id)
    if found is None:
        raise ParameterInvalid(
            "a prediction id looks like 0123456789abcdef-1f: 16 hexadecimal digits, a hyphen, more"
        )
    return bytes.fromhex(found[1]), int(found[2], 16)


def encode_outcome(outcome: Outcome, *, sequence: int) -> bytes:
    """One frame, ready for `PredictionLogWriter.append`.

    row and revision are 32 bits, texts at most 65 535 bytes; struct.error otherwise.
    """
    log_id, predicted = prediction_key(outcome.prediction_id)
    model, name = outcome.model.encode(), outcome.name.encode()
    principal, value = outcome.principal.encode(), _encode_value(outcome.value)
    body = b"".join((model, name, principal, value))
    head = FIXED.pack(
        FIXED.size + len(body) + CRC.size, OUTCOME, 0, 0, sequence, outcome.reported_ns, 0, log_id,
        predicted, outcome.observed_ns, outcome.row, outcome.revision, len(model), len(name),
        len(principal), 0,
    )  # fmt: skip
    return closed(head + body)


def decode_outcome(frames: bytes, offset: int) -> Outcome:
    """The outcome in the verified frame at `offset`. Raises ValueError for what no writer writes."""
    fields = FIXED.unpack_from(frames, offset)
    length, reported_ns, log_id, predicted = fields[0], fields[5], fields[7], fields[8]
    at = offset + FIXED.size
    texts = []
    for size in fields[12:15]:
        texts.append(frames[at : at + size].decode("utf-8", "backslashreplace"))
        at += size
    return Outcome(
        prediction_id=f"{log_id.hex()}-{predicted:x}",
        row=fields[10],
        name=texts[1],
        value=_decode_value(frames[at : offset + length - CRC.size]),
        observed_ns=fields[9],
        revision=fields[11],
        model=texts[0],
        principal=texts[2],
        reported_ns=reported_ns,
    )
