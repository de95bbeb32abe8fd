"""One request on its way: what a wire adapter hands in, and what becomes of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from serving.core.batches import Buffer
from serving.core.models import ModelVersion
from serving.core.principals import Principal
from serving.errors import ServingError
from serving.telemetry.traces import TraceContext

if TYPE_CHECKING:
    from serving.gateway.admission import Share
    from serving.gateway.batching import Frame, VersionQueue
    from serving.gateway.pipeline import Pipeline

NO_TRACE: Final = bytes(16)

ShapeKey = tuple[tuple[int, ...], ...]


@dataclass(slots=True)
class InferenceRequest:
    """A decoded request, its tensors in the order of the version's inputs.

    inputs: raw little-endian rows, one buffer per tensor. shapes: the shape of each without rows;
    equal for requests that may share a frame. vetted: no NaN or infinity can be inside (JSON has no
    such literals). timeout_s: what the caller asked for, or None.
    """

    request_id: bytes
    rows: int
    inputs: tuple[Buffer, ...]
    shapes: ShapeKey
    size_bytes: int
    vetted: bool
    timeout_s: float | None
    wanted: Sequence[tuple[int, bool]] | None
    """Outputs asked for, as (index, binary); None means all of them as JSON."""


class Exchange(Protocol):
    """The wire adapter's half of one request. Exactly one of `send` and `refuse` ends it."""

    authorization: bytes | None
    model: str
    version: str | None
    traceparent: bytes | None

    def decode(self, version: ModelVersion) -> InferenceRequest:
        """Reads the body against the version's inputs. Raises RequestInvalid."""

    def encode(self, call: "Call") -> bytes:
        """The whole answer to a call whose outputs are known."""

    def send(self, payload: bytes) -> None: ...
    def refuse(self, error: ServingError, *, prediction_id: str | None = None) -> None: ...
    def watch(self, call: "Call") -> None:
        """Calls `call.abandon()` if the client goes away first."""


class Call:
    """An admitted request, or the shadow copy of one (`exchange` is None), until its record.

    Fits `predictionlog.Loggable`: the names of the recorded facts are fixed there.
    """

    __slots__ = (
        "answer_rows",
        "arrived_ns",
        "attempts",
        "batch_id",
        "batch_position",
        "batch_size",
        "deadline_ns",
        "done",
        "exchange",
        "first_row",
        "frame",
        "inputs",
        "outputs",
        "pipeline",
        "principal",
        "queue",
        "queue_us",
        "request",
        "request_id",
        "rows",
        "run_us",
        "sequence",
        "shadow_of",
        "shapes",
        "share",
        "time_ns",
        "total_us",
        "trace",
        "trace_id",
    )

    def __init__(
        self,
        pipeline: "Pipeline",
        queue: "VersionQueue",
        request: InferenceRequest,
        principal: bytes,
    ) -> None:
        self.pipeline = pipeline
        self.queue = queue
        self.request = request
        self.principal = principal
        self.request_id = request.request_id
        self.rows = request.rows
        self.inputs = request.inputs
        self.shapes = request.shapes
        self.outputs: tuple[memoryview, ...] = ()
        self.exchange: Exchange | None = None
        self.share: Share | None = None
        self.trace: TraceContext | None = None
        self.trace_id = NO_TRACE
        self.shadow_of = 0
        self.attempts = 0
        self.frame: Frame | None = None
        self.done = False
        self.first_row = self.queue_us = self.run_us = self.total_us = 0
        self.batch_id = self.batch_size = self.batch_position = 0
        self.sequence = self.time_ns = self.arrived_ns = self.deadline_ns = 0

    def abandon(self) -> None:
        """The client went away: the place is freed now, the record says `client_gone`."""
        if not self.done:
            self.pipeline.abandoned(self)


def caller_name(principal: Principal) -> bytes:
    return principal.subject.encode()
