"""The request path without wires: clients, replicas and a log in memory, driven by hand.

Everything here stands where the product has a `Protocol`; the pipeline, its queues, the admission and
the telemetry are the real ones. Nothing happens by itself: `Turns.run` is one turn of the event loop,
a `MemoryLink` answers when it is told, a `MemoryLog` that is `held` commits when it is told.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from serving.access.certificates import Credential
from serving.access.issuer import LocalIssuer
from serving.access.tokens import ApiKeyCheck, Authenticator
from serving.core.batches import BatchAnswer, BatchPart, RowBatch, RowFailure, TensorBlock
from serving.core.clock import ManualClock
from serving.core.models import ModelName, ModelVersion, VersionName
from serving.core.predictions import PredictionRecord
from serving.core.principals import Role
from serving.core.tensors import NAMES, Array, TensorSpecification
from serving.core.traffic import Shadow, Snapshot, TrafficPolicy
from serving.errors import ServingError
from serving.gateway.batching import VersionQueue
from serving.gateway.calls import Call, InferenceRequest, ShapeKey
from serving.gateway.ensembles import EnsembleQueue
from serving.gateway.forming import Frame, Outcomes
from serving.gateway.pipeline import Pipeline
from serving.gateway.recording import Recorder
from serving.gateway.telemetry import CallTelemetry
from serving.predictionlog.format import Definition
from serving.predictionlog.records import decode_fixed, decode_prediction
from serving.settings import AccessSettings, Settings
from serving.telemetry.families import GatewayMetrics
from serving.telemetry.traces import RequestTracing
from tests.plans import a_version

DOUBLER = a_version()
CANDIDATE = a_version(version="2")
VARIABLE = replace(
    DOUBLER,
    inputs=(TensorSpecification("x", "FP32", (-1, -1)),),
    outputs=(TensorSpecification("y", "FP32", (-1, -1)),),
)
STATUS_OF_FAILURES = 500


def doubled(array: Array) -> Array:
    return np.multiply(array, np.float32(2))


def rows_of(value: float, *, rows: int = 1, columns: int = 2) -> bytes:
    """Rows of one number."""
    return np.full((rows, columns), value, np.float32).tobytes()


class Turns:
    """An event loop's `call_soon`, run by hand."""

    def __init__(self) -> None:
        self.due: deque[Callable[[], None]] = deque()

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.due.append(callback)

    def run(self) -> None:
        """Runs what is due, and what that makes due."""
        while self.due:
            self.due.popleft()()


class MemoryLog:
    """A prediction log that keeps its records; fits `gateway.recording.PredictionLog`.

    refusal: why nothing can be admitted. failure: what every append is told. held: appends wait for
    `commit`.
    """

    log_id = "0123456789abcdef"

    def __init__(self) -> None:
        self.refusal: ServingError | None = None
        self.failure: ServingError | None = None
        self.held = False
        self.sequence = 0
        self.definitions: list[Definition] = []
        self._frames: list[bytes] = []
        self._waiting: deque[Callable[[ServingError | None], None]] = deque()

    def next_sequence(self) -> int:
        self.sequence += 1
        return self.sequence

    def define(self, definition: Definition) -> int:
        self.definitions.append(definition)
        return len(self.definitions) - 1

    def append(self, records: Sequence[bytes], done: Callable[[ServingError | None], None]) -> None:
        if self.failure is None:
            self._frames += records
        if self.held:
            self._waiting.append(done)
        else:
            done(self.failure)

    def commit(self) -> None:
        """Tells everyone who waits."""
        while self._waiting:
            self._waiting.popleft()(self.failure)

    @property
    def records(self) -> list[PredictionRecord]:
        return [
            decode_prediction(
                frame,
                0,
                definition=self.definitions[decode_fixed(frame, 0).definition],
                log_id=self.log_id,
            )
            for frame in self._frames
        ]


class MemoryLink:
    """A link to a replica that runs `function` when told; fits `gateway.forming.ReplicaLink`."""

    def __init__(
        self, function: Callable[[Array], Array] = doubled, *, allowed_frames: int = 2
    ) -> None:
        self.ready = True
        self.closed = False
        self.outstanding_rows = 0
        self.checks: list[int] = []
        self.frames: list[Frame] = []
        self.sent: list[RowBatch] = []
        self._function = function
        self.credits = allowed_frames

    @property
    def has_credit(self) -> bool:
        return self.ready and len(self.frames) < self.credits

    def send(self, sink: Frame) -> None:
        self.frames.append(sink)
        self.sent.append(sink.batch)
        self.outstanding_rows += sink.batch.rows

    def check(self, now_ns: int) -> None:
        self.checks.append(now_ns)

    def abort(self) -> None:
        """The connection is gone, and everything on it."""
        self.ready, self.closed = False, True
        while self.frames:
            self._take().lost()

    def answer(self, failures: dict[int, RowFailure] | None = None) -> None:
        """Answers the oldest frame, except for the rows in `failures`."""
        frame = self._take()
        frame.answered(answer_to(frame.batch, self._function, failures or {}))

    def hand_back(self) -> None:
        """Refuses the oldest frame, as a replica that shuts down does."""
        self.ready = False
        self._take().returned()

    def _take(self) -> Frame:
        frame = self.frames.pop(0)
        self.outstanding_rows -= frame.batch.rows
        return frame


class BrokenLink(MemoryLink):
    """A link whose first frame cannot be written."""

    broken = True

    def send(self, sink: Frame) -> None:
        if self.broken:
            self.broken = False
            raise RuntimeError("cannot be written")
        super().send(sink)


def answer_to(
    batch: RowBatch, function: Callable[[Array], Array], failures: dict[int, RowFailure]
) -> BatchAnswer:
    """One run of all rows; batch id 5, at position 0, 100 us of waiting and 200 us of running."""
    part = BatchPart(batch.rows, 5, batch.rows, 0, 100, 200)
    if len(failures) == batch.rows:
        return BatchAnswer(batch.rows, (), (part,), failures)
    output = np.ascontiguousarray(function(batch.tensors[0].array(batch.rows)))
    block = TensorBlock(NAMES[output.dtype], output.shape[1:], [output.tobytes()])
    return BatchAnswer(batch.rows, (block,), (part,), failures)


class Client:
    """A caller and its wire; fits `gateway.calls.Exchange`. It hears `answers` and `refusals`."""

    def __init__(
        self,
        value: float,
        *,
        token: str,
        rows: int = 1,
        columns: int = 2,
        version: str | None = None,
        timeout_s: float | None = None,
        vetted: bool = True,
        priority: int = 0,
    ) -> None:
        self.headers: dict[str, bytes] = {}
        self.authorization: Credential = f"Bearer {token}".encode()
        self.model: str = DOUBLER.model
        self.version = version
        self.traceparent: bytes | None = None
        self.timeout_s: float | None = None
        self.undecodable: Exception | None = None
        self.unencodable: Exception | None = None
        self.answers: list[list[float]] = []
        self.refusals: list[ServingError] = []
        self.prediction_ids: list[str | None] = []
        self.call: Call | None = None
        self._request = InferenceRequest(
            request_id=b"",
            rows=rows,
            inputs=(rows_of(value, rows=rows, columns=columns),),
            shapes=((columns,),),
            size_bytes=rows * columns * 4,
            vetted=vetted,
            timeout_s=timeout_s,
            wanted=None,
            priority=priority,
        )

    def as_a_whole(self) -> "Client":
        """Its rows as one tensor, for a version that counts none."""
        request = self._request
        request.shapes = tuple((request.rows, *shape) for shape in request.shapes)
        request.rows = 1
        return self

    def header(self, name: str) -> bytes:
        return self.headers.get(name, b"")

    def decode(self, version: ModelVersion) -> InferenceRequest:
        if self.undecodable is not None:
            raise self.undecodable
        return self._request

    def encode(self, call: Call) -> bytes:
        if self.unencodable is not None:
            raise self.unencodable
        return b"".join(call.outputs)

    def send(self, payload: bytes) -> None:
        self.answers.append(np.frombuffer(payload, np.float32).tolist())

    def refuse(self, error: ServingError, *, prediction_id: str | None = None) -> None:
        self.refusals.append(error)
        self.prediction_ids.append(prediction_id)

    def watch(self, call: Call) -> None:
        self.call = call

    def go_away(self) -> None:
        """Hangs up, as the wire notices it: after the request was taken in."""
        assert self.call is not None
        self.call.abandon()

    @property
    def heard(self) -> int:
        """How many replies of any kind came; one request has one."""
        return len(self.answers) + len(self.refusals)

    @property
    def codes(self) -> list[str]:
        return [error.code for error in self.refusals]


class Telling:
    """Outcomes that are kept instead of recorded; for queues without a pipeline."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Call]] = []
        self.answers: list[tuple[Frame, BatchAnswer]] = []

    def answered(self, frame: Frame, answer: BatchAnswer) -> None:
        self.answers.append((frame, answer))
        for call in frame.calls:
            if not call.done:
                call.done = True
                self.told.append(("answered", call))

    def expired(self, call: Call) -> None:
        self._end("expired", call)

    def hopeless(self, call: Call) -> None:
        self._end("hopeless", call)

    def shed(self, call: Call) -> None:
        self._end("shed", call)

    def exhausted(self, call: Call) -> None:
        self._end("exhausted", call)

    def retried(self, call: Call) -> None:
        self.told.append(("retried", call))

    def not_finite(self, call: Call) -> None:
        self._end("not finite", call)

    def broken(self, call: Call) -> None:
        self._end("broken", call)

    def leave(self, call: Call) -> None:
        """The client went away."""
        self._end("gone", call)

    def _end(self, fate: str, call: Call) -> None:
        call.done = True
        call.queue.discard(call)
        self.told.append((fate, call))


@dataclass(frozen=True, slots=True)
class Stand:
    """One worker's request path with nothing around it."""

    pipeline: Pipeline
    log: MemoryLog
    clock: ManualClock
    turns: Turns
    metrics: GatewayMetrics
    issuer: LocalIssuer

    def client(
        self, value: float = 1, *, subject: str = "ada", role: Role = Role.CALLER, **request: object
    ) -> Client:
        """A client with a token. request: what `Client` takes."""
        token = self.issuer.issue(subject=subject, roles=[role])
        return Client(value, token=token, **request)  # type: ignore[arg-type]  # passed on as given

    def send(self, *clients: Client) -> None:
        """All of them in one turn of the loop."""
        for client in clients:
            self.pipeline.infer(client)
        self.turns.run()

    def queue(self, version: ModelVersion = DOUBLER) -> VersionQueue:
        return self.pipeline.table.queues[version.key]

    def connect(self, link: MemoryLink, version: ModelVersion = DOUBLER) -> MemoryLink:
        """Gives the version's queue one more replica."""
        self.queue(version).links.append(link)
        self.queue(version).wake()
        self.turns.run()
        return link

    def pass_time(self, seconds: float) -> None:
        """Time passes, and the sweep that looks at it."""
        self.clock.advance(seconds)
        self.pipeline.sweep()
        self.turns.run()


def a_stand(folder: Path, *, api_keys: ApiKeyCheck | None = None, **groups: Any) -> Stand:
    """A pipeline over `DOUBLER`, shadowed by `CANDIDATE`. groups: settings, such as `shadow=…`."""
    settings = Settings.model_validate(groups)
    clock = ManualClock()
    issuer = LocalIssuer.open(folder / "keys", AccessSettings(), clock)
    turns = Turns()
    metrics = GatewayMetrics()
    log = MemoryLog()

    def make_queue(version: ModelVersion, pipeline: Pipeline) -> VersionQueue:
        if version.stages:
            return EnsembleQueue(
                version,
                settings=settings.channel,
                admission=settings.admission,
                clock=clock,
                outcomes=pipeline,
                find=pipeline.queue,
                call_soon=turns.call_soon,
            )
        return VersionQueue(
            version,
            settings=settings.channel,
            admission=settings.admission,
            clock=clock,
            outcomes=pipeline,
            call_soon=turns.call_soon,
        )

    pipeline = Pipeline(
        settings,
        authenticator=Authenticator([issuer.trusted], settings.access, api_keys=api_keys),
        recorder=Recorder(log),
        telemetry=CallTelemetry(
            metrics,
            RequestTracing(settings.telemetry, clock, service_name="test"),
            status_of=lambda _error: STATUS_OF_FAILURES,
            now_s=lambda: clock.wall_ns() / 1e9,
        ),
        clock=clock,
        make_queue=make_queue,
    )
    pipeline.apply(a_snapshot())
    return Stand(pipeline, log, clock, turns, metrics, issuer)


def counted(stand: Stand, name: str, *labels: str) -> float:
    """The value of a series; labels as `name="value"`."""
    text = stand.metrics.families.render()[0].decode()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith(name) and all(label in line for label in labels)
    )


def a_snapshot(
    *versions: ModelVersion, epoch: int = 1, shadows: Sequence[str] = (CANDIDATE.version,)
) -> Snapshot:
    """A policy for the first version; by default `DOUBLER` with `CANDIDATE` as its shadow."""
    versions = versions or (DOUBLER, CANDIDATE)
    stable = versions[0]
    policy = TrafficPolicy(
        ModelName(stable.model),
        stable.version,
        tuple(Shadow(VersionName(name)) for name in shadows),
    )
    return Snapshot(epoch=epoch, versions=versions, policies=(policy,))


def a_queue(
    version: ModelVersion = DOUBLER,
    *,
    outcomes: Outcomes,
    clock: ManualClock,
    turns: Turns,
    **channel: int,
) -> VersionQueue:
    """A queue alone. channel: settings, such as `max_frame_rows=4`."""
    settings = Settings.model_validate({"channel": channel})
    return VersionQueue(
        version,
        settings=settings.channel,
        admission=settings.admission,
        clock=clock,
        outcomes=outcomes,
        call_soon=turns.call_soon,
    )


def a_request(
    value: float = 1, *, rows: int = 1, columns: int = 2, vetted: bool = True
) -> InferenceRequest:
    shapes: ShapeKey = ((columns,),)
    inputs = (rows_of(value, rows=rows, columns=columns),)
    return InferenceRequest(b"", rows, inputs, shapes, rows * columns * 4, vetted, None, None)
