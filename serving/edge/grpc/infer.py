"""ModelInfer: from a complete message to the pipeline in one callback, and back in another.

A call that the client gives up is abandoned at once; one that it gives up because the deadline has
passed is recorded as that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from serving.access.certificates import Credential
from serving.core.batches import Buffer
from serving.core.models import ModelVersion
from serving.edge.choices import one_version, only_said
from serving.edge.grpc.calls import UnaryCall
from serving.edge.grpc.facts import SERVICE
from serving.edge.grpc.gate import Method, unary
from serving.edge.grpc.heads import CallHead
from serving.edge.grpc.inference_pb2 import ModelInferRequest
from serving.edge.grpc.messages import MessageVersion, MessageVersions, parse
from serving.edge.grpc.problems import Failure, failure
from serving.edge.http2.fields import field_prefix
from serving.edge.subjects import same_subject
from serving.errors import DeadlineExceeded, ServingError
from serving.gateway.calls import Call, InferenceRequest
from serving.gateway.pipeline import Pipeline

_LATE_SHARE: Final = 0.01
_LATE_NS: Final = 20_000_000
"""How much earlier than ours a client's deadline may pass: it travels rounded up by up to 1 %, and
the message took its time."""

_PREDICTION_ID: Final = "serving-prediction-id"
_BATCH_ID: Final = "serving-batch-id"
_STANDING: Final = "ratelimit"
_PREFIXES: Final = {
    name: field_prefix(name.encode()) for name in (_PREDICTION_ID, _BATCH_ID, _STANDING)
}

Trailers = tuple[tuple[str, str], ...]
Finish = Callable[["GrpcExchange", bytes | Failure], None]


class Incoming(Protocol):
    """The call that a message came on."""

    head: CallHead
    credential: Credential

    def time_remaining_s(self) -> float | None: ...


class GrpcExchange:
    """The wire's half of one inference; see `serving.gateway.calls.Exchange`."""

    __slots__ = (
        "_call",
        "_finish",
        "_head",
        "_layout",
        "_message",
        "_own",
        "_parsed",
        "_version",
        "_versions",
        "authorization",
        "model",
        "timeout_s",
        "traceparent",
        "version",
    )

    _version: MessageVersion

    def __init__(
        self, message: Buffer, incoming: Incoming, *, versions: MessageVersions, finish: Finish
    ) -> None:
        """finish: takes the end of the call. Raises MessageInvalid, ParameterInvalid."""
        head = self._head = incoming.head
        self.authorization = incoming.credential
        self.traceparent = head.traceparent
        # What is left of the client's deadline.
        self.timeout_s = incoming.time_remaining_s()
        self._message = message
        self._versions = versions
        self._finish = finish
        self._own: Trailers = ()
        self._call: Call | None = None
        self._parsed: ModelInferRequest | None = None
        layout = self._layout = versions.layouts.find(message)
        if layout is not None:
            self.model = layout.model
            self.version = one_version(layout.version, head.version)
            return
        parsed = self._parsed = parse(message, ModelInferRequest)
        self._layout = versions.layouts.learn(message, parsed)
        self.model = parsed.model_name
        self.version = one_version(parsed.model_version or None, head.version)

    def header(self, name: str) -> bytes:
        value = only_said(self._head.metadata, name) or b""
        return value.encode() if isinstance(value, str) else value

    def decode(self, version: ModelVersion) -> InferenceRequest:
        request = self._read(self._versions.of(version))
        request.name_subject(same_subject(self._head.subject, request.subject))
        timeout_s = self.timeout_s
        if timeout_s is not None:
            if timeout_s <= 0:
                raise DeadlineExceeded("the deadline passed before the request was read")
            request.timeout_s = min(timeout_s, request.timeout_s or timeout_s)
        return request

    def encode(self, call: Call) -> bytes:
        version = self._version = self._versions.of(call.queue.version)
        self._own = (
            (_PREDICTION_ID, call.pipeline.prediction_id(call)),
            (_BATCH_ID, f"{call.batch_id:x}"),
        )
        if call.account is not None:
            standing = call.account.policy_left(call.pipeline.now_ns())
            self._own += ((_STANDING, standing),) if standing else ()
        parsed = self._parsed
        return version.write(call, raw=parsed is None or bool(parsed.raw_input_contents))

    @property
    def trailers(self) -> Trailers:
        """What is said with the answer, once it is encoded."""
        return *self._version.trailers, *self._own

    @property
    def trailer_block(self) -> bytes:
        """The same as the trailers of a call that went well."""
        block = self._version.trailer_block
        for name, value in self._own:
            # Each is shorter than what a length of one byte can tell.
            block += b"%b%c%b" % (_PREFIXES[name], len(value), value.encode())
        return block

    @property
    def request_id(self) -> str:
        return "" if self._parsed is None else self._parsed.id

    def send(self, payload: bytes) -> None:
        self._call = None  # Each knew the other: the request path leaves no cycles behind.
        self._finish(self, payload)

    def refuse(self, error: ServingError, *, prediction_id: str | None = None) -> None:
        self._call = None
        self._finish(self, failure(error, request_id=prediction_id))

    def watch(self, call: Call) -> None:
        self._call = call

    def _read(self, version: MessageVersion) -> InferenceRequest:
        layout = self._layout
        request = None if layout is None else version.cut(self._message, layout)
        if request is not None:
            return request
        request = version.read(self._parsed or parse(self._message, ModelInferRequest))
        if layout is not None:
            version.remember(layout, request)
        return request

    def abandon(self) -> None:
        """The client waits no longer. Harmless when the call has ended."""
        call, self._call = self._call, None
        if call is None or call.done:
            return
        allowed_ns = call.deadline_ns - call.arrived_ns
        early_ns = int(allowed_ns * _LATE_SHARE) + _LATE_NS
        waits_until_ns = call.deadline_ns - min(early_ns, allowed_ns // 2)
        if self.timeout_s is not None and call.pipeline.now_ns() >= waits_until_ns:
            call.pipeline.expired(call)
        else:
            call.abandon()


@dataclass(frozen=True, slots=True)
class Reception:
    """What the calls of inference share. refused: told of every refusal, to count."""

    pipeline: Pipeline
    versions: MessageVersions
    refused: Callable[[ServingError], None]

    def exchange(self, message: Buffer, incoming: Incoming, finish: Finish) -> GrpcExchange:
        """Raises what GrpcExchange raises."""
        return GrpcExchange(message, incoming, versions=self.versions, finish=finish)


class InferCalls:
    """The inference call of the service."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception

    def methods(self) -> dict[str, Method]:
        return {f"/{SERVICE}/ModelInfer": unary(self._infer)}

    def _infer(self, call: UnaryCall, message: Buffer) -> None:
        exchange = self._reception.exchange(message, call, partial(_finish, call))
        call.watch(exchange.abandon)
        self._reception.pipeline.infer(exchange)


def _finish(call: UnaryCall, exchange: GrpcExchange, end: bytes | Failure) -> None:
    if isinstance(end, Failure):
        call.fail(end)
    else:
        call.answer(end, exchange.trailer_block)
