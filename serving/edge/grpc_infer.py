"""ModelInfer: one future per call between the library's coroutine and the pipeline.

A call that the client gives up is abandoned when the library cancels its coroutine, at once; one that
it gives up because the deadline has passed is recorded as that.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from serving.core.models import ModelVersion
from serving.edge import inference_pb2
from serving.edge.choices import VERSION, one_version, only_said
from serving.edge.grpc_facts import SERVICE
from serving.edge.grpc_gate import (
    Context,
    Method,
    Refused,
    Show,
    give_up,
    only,
    unary,
    unexpected,
)
from serving.edge.grpc_messages import MessageVersions, parse
from serving.edge.grpc_problems import Failure, failure
from serving.edge.subjects import same_subject, subject_of_metadata
from serving.errors import DeadlineExceeded, ServingError
from serving.gateway.calls import Call, InferenceRequest
from serving.gateway.pipeline import Pipeline

_TRACEPARENT: Final = "traceparent"
_LATE_SHARE: Final = 0.01
_LATE_NS: Final = 20_000_000
"""How much earlier than ours a client's deadline may pass: it travels rounded up by up to 1 %, and
the message took its time."""

Trailers = tuple[tuple[str, str], ...]
Finish = Callable[[bytes | Failure], None]


class GrpcExchange:
    """The wire's half of one inference; see `serving.gateway.calls.Exchange`."""

    __slots__ = (
        "_call",
        "_finish",
        "_message",
        "_metadata",
        "_raw",
        "_subject",
        "_versions",
        "authorization",
        "model",
        "timeout_s",
        "traceparent",
        "trailers",
        "version",
    )

    def __init__(
        self,
        message: bytes,
        context: Context,
        *,
        versions: MessageVersions,
        show: Show,
        finish: Finish,
    ) -> None:
        """finish: takes the end of the call. Raises MessageInvalid, AmbiguousCredentials,
        ParameterInvalid."""
        self._message = parse(message, inference_pb2.ModelInferRequest)
        self.authorization = show(context)
        metadata = self._metadata = context.invocation_metadata()
        self.traceparent = only(metadata, _TRACEPARENT)
        self._subject = subject_of_metadata(metadata)
        # What is left of the client's deadline.
        self.timeout_s = context.time_remaining()
        self.model = self._message.model_name
        said = only_said(metadata, VERSION)
        self.version = one_version(self._message.model_version or None, said)
        self.trailers: Trailers = ()
        self._versions = versions
        self._finish = finish
        self._raw = bool(self._message.raw_input_contents)
        self._call: Call | None = None

    def header(self, name: str) -> bytes:
        value = only_said(self._metadata, name) or b""
        return value.encode() if isinstance(value, str) else value

    def decode(self, version: ModelVersion) -> InferenceRequest:
        request = self._versions.of(version).read(self._message)
        request.name_subject(same_subject(self._subject, request.subject))
        timeout_s = self.timeout_s
        if timeout_s is not None:
            if timeout_s <= 0:
                raise DeadlineExceeded("the deadline passed before the request was read")
            request.timeout_s = min(timeout_s, request.timeout_s or timeout_s)
        return request

    def encode(self, call: Call) -> bytes:
        version = self._versions.of(call.queue.version)
        self.trailers = (
            *version.trailers,
            ("serving-prediction-id", call.pipeline.prediction_id(call)),
            ("serving-batch-id", f"{call.batch_id:x}"),
        )
        if call.account is not None:
            standing = call.account.policy_left(call.pipeline.now_ns())
            self.trailers += (("ratelimit", standing),) if standing else ()
        return version.write(call, raw=self._raw)

    @property
    def request_id(self) -> str:
        return self._message.id

    def send(self, payload: bytes) -> None:
        self._call = None  # Each knew the other: the request path leaves no cycles behind.
        self._finish(payload)

    def refuse(self, error: ServingError, *, prediction_id: str | None = None) -> None:
        self._call = None
        self._finish(failure(error, request_id=prediction_id))

    def watch(self, call: Call) -> None:
        self._call = call

    def abandon(self) -> None:
        """The client waits no longer. Harmless when the call has ended."""
        call = self._call
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
    """What the calls of inference share. show: what a caller shows of itself. refused: told of every
    refusal, to count."""

    pipeline: Pipeline
    versions: MessageVersions
    show: Show
    refused: Refused

    def exchange(self, message: bytes, context: Context, finish: Finish) -> GrpcExchange:
        """Raises what GrpcExchange raises."""
        return GrpcExchange(message, context, versions=self.versions, show=self.show, finish=finish)


class InferCalls:
    """The inference call of the service."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception

    def methods(self) -> dict[str, Method]:
        return {f"/{SERVICE}/ModelInfer": Method(unary(self._infer))}

    async def _infer(self, message: bytes, context: Context) -> bytes:
        answered: asyncio.Future[bytes | Failure] = asyncio.get_running_loop().create_future()

        def finish(end: bytes | Failure) -> None:
            # Cancelled when the client went away after its rows had run.
            if not answered.done():
                answered.set_result(end)

        reception = self._reception
        exchange: GrpcExchange | None = None
        end: bytes | Failure
        try:
            exchange = reception.exchange(message, context, finish)
            reception.pipeline.infer(exchange)
            end = await answered
        except ServingError as error:
            reception.refused(error)
            end = failure(error)
        except asyncio.CancelledError:
            if exchange is not None:
                exchange.abandon()
            raise
        except Exception as error:  # noqa: BLE001 - outermost: the worker must survive a call
            surprise = unexpected(error)
            reception.refused(surprise)
            end = failure(surprise)
        if isinstance(end, Failure):
            return await give_up(context, end)
        if exchange is not None:
            context.set_trailing_metadata(exchange.trailers)
        return end
