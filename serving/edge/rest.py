"""OIP REST on the inference port: one exchange per request, everything about its head done once.

`RestApplication` is what the HTTP server calls. An inference request becomes a `RestExchange`, the
wire's half of a call, and goes down `Pipeline.infer`; everything else goes to a small `Router`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final, Protocol
from urllib.parse import unquote

import orjson
import structlog

from serving.access.authorization import authorize_inference
from serving.access.tokens import Authenticator
from serving.core.models import ModelVersion
from serving.core.principals import Principal
from serving.core.tensors import TensorSpecification
from serving.edge.codec import Signature
from serving.edge.connection import Responder
from serving.edge.heads import Head
from serving.edge.problems import problem
from serving.edge.routes import Reply, Request, Route, Router
from serving.errors import (
    DeadlineExceeded,
    InternalError,
    MediaTypeUnsupported,
    ModelNotFound,
    NotReady,
    ParameterInvalid,
    ServingError,
)
from serving.gateway.calls import Call, InferenceRequest
from serving.gateway.pipeline import Pipeline

logger = structlog.get_logger()

EXTENSIONS: Final = ("binary_tensor_data",)
OPEN_ROUTES: Final = ("/v2/health/live", "/v2/health/ready")
"""What anybody may ask; everything else needs a token."""

_MOST_TIMEOUT_DIGITS: Final = 9
"""Of milliseconds: days, which admission shortens to its longest."""

_JSON_TYPES: Final = frozenset({b"application/json", b"application/octet-stream", b""})
_JSON_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"%bserving-prediction-id: %b\r\nserving-batch-id: %x\r\n\r\n%b"
)
_BINARY_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n"
    b"Inference-Header-Content-Length: %d\r\n"
    b"%bserving-prediction-id: %b\r\nserving-batch-id: %x\r\n\r\n%b"
)


@dataclass(frozen=True, slots=True)
class InferencePlan:
    """What the head of an inference request says; the same for every request with that head.

    refusal: why no request with this head can be served, whatever its body.
    """

    model: str
    version: str | None
    authorization: bytes | None
    traceparent: bytes | None
    json_bytes: int | None
    timeout_s: float | None
    refusal: ServingError | None = None


class WireVersion:
    """What the wire needs of one model version: its signature and its constant headers."""

    __slots__ = ("headers", "signature", "version")

    def __init__(self, version: ModelVersion) -> None:
        self.version = version
        self.signature = Signature(version)
        self.headers = (
            f"serving-model-version: {version.version}\r\nserving-model-digest: {version.digest}\r\n"
        ).encode()


class WireVersions:
    """Wire versions by digest, made on first use."""

    def __init__(self) -> None:
        self._known: dict[str, WireVersion] = {}

    def of(self, version: ModelVersion) -> WireVersion:
        known = self._known.get(version.key)
        if known is None or known.version is not version:
            known = self._known[version.key] = WireVersion(version)
        return known


class RestExchange:
    """The wire's half of one inference request; see `serving.gateway.calls.Exchange`."""

    __slots__ = (
        "_application",
        "_body",
        "_plan",
        "_responder",
        "authorization",
        "model",
        "traceparent",
        "version",
    )

    def __init__(
        self,
        application: "RestApplication",
        plan: InferencePlan,
        body: memoryview,
        responder: Responder,
    ) -> None:
        self.authorization = plan.authorization
        self.model = plan.model
        self.version = plan.version
        self.traceparent = plan.traceparent
        self._application = application
        self._plan = plan
        self._body = body
        self._responder = responder

    def decode(self, version: ModelVersion) -> InferenceRequest:
        plan = self._plan
        if plan.refusal is not None:
            # Kept for every request with this head: it must not gather their tracebacks.
            raise plan.refusal.with_traceback(None)
        wire = self._application.versions.of(version)
        request = wire.signature.decode(self._body, plan.json_bytes)
        if plan.timeout_s is not None:
            request.timeout_s = min(plan.timeout_s, request.timeout_s or plan.timeout_s)
        return request

    def encode(self, call: Call) -> bytes:
        wire = self._application.versions.of(call.queue.version)
        text, buffers = wire.signature.encode(call)
        prediction_id = call.pipeline.prediction_id(call).encode()
        if not buffers:
            return _JSON_HEAD % (len(text), wire.headers, prediction_id, call.batch_id, text)
        length = len(text) + sum(map(len, buffers))
        head = _BINARY_HEAD % (
            length, len(text), wire.headers, prediction_id, call.batch_id, text,
        )  # fmt: skip
        return b"".join((head, *buffers))

    def send(self, payload: bytes) -> None:
        self._responder.send(payload)

    def refuse(self, error: ServingError, *, prediction_id: str | None = None) -> None:
        self._responder.send(problem(error, request_id=prediction_id))

    def watch(self, call: Call) -> None:
        self._responder.watch(call.abandon)


class Readiness(Protocol):
    """What the health routes ask."""

    def not_ready(self) -> str | None:
        """Why predictions cannot be served right now, or None."""


class RestApplication:
    """The inference port's application."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        authenticator: Authenticator,
        readiness: Readiness,
        now_s: Callable[[], float],
        refused: Callable[[ServingError], None],
    ) -> None:
        self.versions = WireVersions()
        self._pipeline = pipeline
        self._authenticator = authenticator
        self._readiness = readiness
        self._now_s = now_s
        self._refused = refused
        self.router = Router(self._routes())

    def __call__(self, head: Head, body: bytes | memoryview, responder: Responder) -> None:
        plan = head.plan
        if plan is None:
            plan = head.plan = _plan(head)
        if plan is False:
            self.router(head, body, responder)
            return
        exchange = RestExchange(self, plan, memoryview(body), responder)
        try:
            self._pipeline.infer(exchange)
        except ServingError as error:
            self._refused(error)
            exchange.refuse(error)
        except Exception:
            # Outermost: the worker must survive a request, and the caller learns no detail.
            logger.exception("request failed")
            exchange.refuse(InternalError("something went wrong here; quote the request id"))

    # -- the routes that are not inference ---------------------------------------------------------

    def _routes(self) -> list[Route]:
        models = "/v2/models/{model}"
        return [
            Route("GET", "/v2/health/live", self._live),
            Route("GET", "/v2/health/ready", self._ready),
            Route("GET", "/v2", self._server),
            Route("GET", models, self._model),
            Route("GET", f"{models}/versions/{{version}}", self._model),
            Route("GET", f"{models}/ready", self._model_ready),
            Route("GET", f"{models}/versions/{{version}}/ready", self._model_ready),
            Route("POST", f"{models}/infer", _unreachable),
            Route("POST", f"{models}/versions/{{version}}/infer", _unreachable),
        ]

    def _live(self, _request: Request) -> Reply:
        return Reply(200, b'{"live":true}')

    def _ready(self, _request: Request) -> Reply:
        reason = self._readiness.not_ready()
        if reason is not None:
            raise NotReady(reason)
        return Reply(200, b'{"live":true,"ready":true}')

    def _server(self, request: Request) -> Reply:
        self._authenticate(request)
        facts = {"name": "serving", "version": version("serving"), "extensions": EXTENSIONS}
        return Reply(200, orjson.dumps(facts))

    def _model(self, request: Request) -> Reply:
        found, versions = self._find(request)
        facts = {
            "name": found.model,
            "versions": versions,
            "platform": "onnxruntime_onnx",
            "inputs": [_describe(tensor) for tensor in found.inputs],
            "outputs": [_describe(tensor) for tensor in found.outputs],
            "parameters": {"digest": found.digest, "version": found.version},
        }
        return Reply(200, orjson.dumps(facts))

    def _model_ready(self, request: Request) -> Reply:
        found, _ = self._find(request)
        if not self._pipeline.table.queues[found.key].ready:
            raise NotReady("no replica of this model is up")
        return Reply(200, orjson.dumps({"name": found.model, "ready": True}))

    def _find(self, request: Request) -> tuple[ModelVersion, list[str]]:
        """The version asked about (the stable one unless named) and all that serve."""
        principal = self._authenticate(request)
        model = request.arguments["model"]
        authorize_inference(principal, model)
        table = self._pipeline.table
        route = table.choose(model)
        stable = route.stable.version
        name = request.arguments.get("version", stable.version)
        if name != stable.version and not principal.may_operate():
            raise ModelNotFound("there is no such version of this model here")
        versions = [stable.version]
        if principal.may_operate():
            versions += [queue.version.version for queue in route.shadows]
        return table.pinned(model, name).version, [str(version) for version in versions]

    def _authenticate(self, request: Request) -> Principal:
        return self._authenticator.authenticate(
            request.headers.get(b"authorization"), self._now_s()
        )


def _unreachable(_request: Request) -> Reply:
    raise InternalError("inference is served before the routes. This is a bug")


def _describe(tensor: TensorSpecification) -> dict[str, object]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}


def _plan(head: Head) -> InferencePlan | bool:
    """The plan of an inference request's head; False when it is for the routes."""
    segments = [unquote(segment) for segment in head.path.split("/")[1:]]
    match segments:
        case ["v2", "models", model, "infer"]:
            pinned = None
        case ["v2", "models", model, "versions", pinned, "infer"]:
            pass
        case _:
            return False
    if head.method != "POST":
        return False
    headers = head.headers
    refusal: ServingError | None = None
    json_bytes = timeout_s = None
    try:
        json_bytes = _json_bytes(headers)
        timeout_s = _timeout_s(headers)
        _check_media(headers)
    except ServingError as error:
        refusal = error
    return InferencePlan(
        model=model,
        version=pinned,
        authorization=headers.get(b"authorization"),
        traceparent=headers.get(b"traceparent"),
        json_bytes=json_bytes,
        timeout_s=timeout_s,
        refusal=refusal,
    )


def _check_media(headers: dict[bytes, bytes]) -> None:
    media, _, options = headers.get(b"content-type", b"").partition(b";")
    charset = options.strip().lower().replace(b'"', b"")
    if media.strip().lower() not in _JSON_TYPES or charset not in (b"", b"charset=utf-8"):
        raise MediaTypeUnsupported("send application/json in UTF-8, or application/octet-stream")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise MediaTypeUnsupported("send the body without a content encoding")


def _json_bytes(headers: dict[bytes, bytes]) -> int | None:
    value = headers.get(b"inference-header-content-length")
    if value is None:
        return None
    if not value.isdigit() or len(value) > 10:  # noqa: PLR2004 - digits of a length
        raise ParameterInvalid("Inference-Header-Content-Length must be a number of bytes")
    length = int(value)
    total = headers.get(b"content-length")
    if total is not None and length > int(total):
        raise ParameterInvalid("Inference-Header-Content-Length is larger than the body")
    return length


def _timeout_s(headers: dict[bytes, bytes]) -> float | None:
    value = headers.get(b"serving-timeout-ms")
    if value is None:
        return None
    if not value.isdigit():
        raise ParameterInvalid("serving-timeout-ms must be a whole number of milliseconds")
    digits = value.lstrip(b"0")
    if not digits:
        raise DeadlineExceeded("the request allows no time")
    return int(digits[:_MOST_TIMEOUT_DIGITS]) / 1000
