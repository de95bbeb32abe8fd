"""The record of one admitted request, as readers of the prediction log see it."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from serving.core.tensors import Array

Keeping = Literal["kept", "hashed", "dropped", "truncated", "sealed", "erased"]
"""What a record still holds of a tensor. hashed: a keyed hash of each row; truncated: it was too
large, a hash of the whole; sealed: encrypted with a key that is not here; erased: that key was
destroyed."""


class Fate(IntEnum):
    """How an admitted request ended. Numbers are part of the log format: never renumber."""

    OK = 1
    MODEL_ERROR = 2
    TIMEOUT = 3
    CLIENT_GONE = 4
    REPLICA_LOST = 5
    INVALID_OUTPUT = 6
    INVALID_INPUT = 7


@dataclass(frozen=True, slots=True)
class NamedTensor:
    """A tensor with its protocol name; `array` has the concrete shape, rows first.

    Unless it was kept, `datatype` and `array` are of what stands for it: BYTES, one hash for each
    row or for all, or no element.
    """

    name: str
    datatype: str
    array: Array
    keeping: Keeping = "kept"


@dataclass(frozen=True, slots=True)
class PredictionRecord:
    """One terminal record: what was asked, what was answered, by which digest, and how it went.

    Times of the stages are microseconds; `time_ns` is the wall clock at arrival. `outputs` is empty
    unless `fate` is OK. `reason` is the error code of a failure, else empty. `shadow_of` is the
    prediction id of the primary whose copy this was, else empty. `subject` is the keyed hash of the
    data subject that the request named, in hexadecimal, else empty. `chosen`: the caller chose the
    version. `part_of`: prediction id of the ensemble's answer that this was a part of, else empty.
    `cached`: answered from the response cache.
    """

    prediction_id: str
    sequence: int
    time_ns: int
    fate: Fate
    reason: str
    principal: str
    request_id: str
    model: str
    version: str
    digest: str
    policy_epoch: int
    inputs: tuple[NamedTensor, ...]
    outputs: tuple[NamedTensor, ...]
    rows: int
    queue_us: int
    run_us: int
    total_us: int
    batch_id: int
    batch_size: int
    batch_position: int
    trace_id: str
    shadow_of: str
    subject: str = ""
    chosen: bool = False
    part_of: str = ""
    cached: bool = False

    @property
    def asked(self) -> bool:
        """Whether a caller asked for it: neither a copy nor a part."""
        return not self.shadow_of and not self.part_of
