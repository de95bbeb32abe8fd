"""One request on its way: what a wire adapter hands in, and what becomes of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple, Protocol

from serving.access.certificates import Credential
from serving.core.batches import Buffer
from serving.core.models import ModelVersion
from serving.core.principals import Principal
from serving.core.traffic import Segment
from serving.errors import ServingError
from serving.telemetry.traces import TraceContext

if TYPE_CHECKING:
    from serving.gateway.admission import Share
    from serving.gateway.batching import VersionQueue
    from serving.gateway.forming import Frame
    from serving.gateway.pipeline import Pipeline
    from serving.gateway.quotas import Account

NO_TRACE: Final = bytes(16)
NO_SEGMENTS: Final[frozenset[Segment]] = frozenset()
USUAL: Final = 2
"""The priority that 0 stands for."""

ShapeKey = tuple[tuple[int, ...], ...]


class WantedOutput(NamedTuple):
    """An output that a caller asked for.

    output: which one of the version. classes: so many of the best of each row; 0 for the tensor.
    """

    output: int
    binary: bool
    classes: int = 0


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
    wanted: Sequence[WantedOutput] | None
    """Outputs asked for, in the caller's order; None means all of them as JSON."""
    priority: int = 0
    """As Triton counts: 1 is the highest, 0 leaves it to us (the same as 2), more than 2 is low."""
    subject: bytes = b""
    """The data subject that it names; then it has a priority, too, so that one look finds both."""

    def name_subject(self, subject: bytes) -> None:
        """The rows are about this data subject; none when empty."""
        if subject:
            self.subject = subject
            self.priority = self.priority or USUAL


class Exchange(Protocol):
    """The wire adapter's half of one request. Exactly one of `send` and `refuse` ends it."""

    authorization: Credential
    model: str
    version: str | None
    traceparent: bytes | None

    @property
    def timeout_s(self) -> float | None:
        """The deadline that is known before the body is read; the body may name a shorter one."""

    def header(self, name: str) -> bytes:
        """What the request says beside its body under a name in lower case; empty for nothing."""

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

    Fits `predictionlog.Loggable`: the names of the recorded facts are fixed there. kind: some of
    `predictionlog.format.KINDS`; who sets it sets `kinds` of its queue, too, for good: from then on each
    frame is looked at, which costs 0.12 us a call in frames of 16; to know when the last of a kind has
    ended would cost every call at its end. segments: those of its route that it belongs to.
    """

    is_part: ClassVar[bool] = False
    """Whether it is a stage of an ensemble's call (`ensembles`), which `shadow_of` then names."""

    __slots__ = (
        "account",
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
        "kind",
        "level",
        "outputs",
        "pipeline",
        "principal",
        "queue",
        "queue_us",
        "request",
        "request_id",
        "rows",
        "run_us",
        "segments",
        "sequence",
        "shadow_of",
        "shapes",
        "share",
        "since_ns",
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
        self.account: Account | None = None
        self.trace: TraceContext | None = None
        self.trace_id = NO_TRACE
        self.shadow_of = 0
        self.attempts = 0
        self.frame: Frame | None = None
        self.done = False
        self.level = self.kind = 0
        self.segments = NO_SEGMENTS
        self.first_row = self.queue_us = self.run_us = self.total_us = 0
        self.batch_id = self.batch_size = self.batch_position = 0
        self.sequence = self.time_ns = self.deadline_ns = 0
        self.arrived_ns = self.since_ns = 0

    @property
    def model_us(self) -> float:
        """Its part of the batch that it ran in, by rows; 0 when it did not run."""
        return self.run_us * self.rows / self.batch_size if self.batch_size else 0.0

    def abandon(self) -> None:
        """The client went away: the place is freed now, the record says `client_gone`."""
        if not self.done:
            self.pipeline.abandoned(self)


class PartCall(Call):
    """A call that an ensemble makes to the version of one of its stages.

    It is admitted and charged with the ensemble's: its share says whose turn it takes, no more.
    """

    __slots__ = ()

    is_part = True


def caller_name(principal: Principal) -> bytes:
    return principal.subject.encode()
