"""The record of one admitted request, as readers of the prediction log see it."""

from dataclasses import dataclass
from enum import IntEnum

from serving.core.tensors import Array


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
    """A tensor with its protocol name; `array` has the concrete shape, rows first."""

    name: str
    datatype: str
    array: Array


@dataclass(frozen=True, slots=True)
class PredictionRecord:
    """One terminal record: what was asked, what was answered, by which digest, and how it went.

    Times of the stages are microseconds; `time_ns` is the wall clock at arrival. `outputs` is empty
    unless `fate` is OK. `reason` is the error code of a failure, else empty. `shadow_of` is the
    prediction id of the primary whose copy this was, else empty.
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
