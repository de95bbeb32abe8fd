"""Loss frames: how many answered requests have no record, said in the log itself.

Only versions that are recorded as `best_effort` lose anything. A LOSS frame begins like every event's
(`format`): its time is when the loss was declared. Then, little-endian:

     32   8  log id of the writer that answered without a record
     40   8  how many, 8 how many that writer lost of this version until then, these included
     56   8  earliest and 8 latest arrival among them, nanoseconds since 1970, UTC, signed
     72   2  length of model, 2 of version, 2 of reason, 2 zeros
     80   .  model, version, reason (UTF-8)

reason: the code of the error why the log did not take them, or `crash`: the process that answered
ended before it knew.
"""

import struct
from dataclasses import dataclass
from typing import Final

from serving.predictionlog.format import CRC, FrameType, closed

FIXED: Final = struct.Struct("<IBBHQqQ8sQQqqHHHH")


@dataclass(frozen=True, slots=True)
class Loss:
    """A declared loss. log_id: hexadecimal, the first half of the lost predictions' ids."""

    log_id: str
    model: str
    version: str
    count: int
    total: int
    since_ns: int
    until_ns: int
    reason: str
    declared_ns: int


def encode_loss(loss: Loss, *, sequence: int) -> bytes:
    """One frame, ready for `PredictionLogWriter.append`."""
    model, version, reason = loss.model.encode(), loss.version.encode(), loss.reason.encode()
    body = model + version + reason
    head = FIXED.pack(
        FIXED.size + len(body) + CRC.size, FrameType.LOSS, 0, 0, sequence, loss.declared_ns, 0,
        bytes.fromhex(loss.log_id), loss.count, loss.total, loss.since_ns, loss.until_ns,
        len(model), len(version), len(reason), 0,
    )  # fmt: skip
    return closed(head + body)


def decode_loss(frames: bytes, offset: int) -> Loss:
    """The loss in the verified frame at `offset`. Raises ValueError when it is none of ours."""
    try:
        (length, _, _, _, _, declared_ns, _, log_id, count, total, since_ns, until_ns, *sizes) = (
            FIXED.unpack_from(frames, offset)
        )
    except struct.error as error:
        raise ValueError("a loss frame is too short") from error
    at = offset + FIXED.size
    texts = []
    for size in sizes[:3]:
        texts.append(frames[at : at + size].decode())
        at += size
    if at != offset + length - CRC.size:
        raise ValueError("a loss frame ends at the wrong place")
    model, version, reason = texts
    return Loss(log_id.hex(), model, version, count, total, since_ns, until_ns, reason, declared_ns)
