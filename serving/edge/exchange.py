"""The wire's half of one REST inference: reads the body, writes the answer; see `gateway.calls`.

What a request's head means is an `InferencePlan`, made once per distinct head; it names the class of
exchange that such requests need, so that a plain request pays nothing for what others ask for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from serving.access.certificates import Credential
from serving.core.models import ModelVersion
from serving.core.traffic import Deprecation, Snapshot
from serving.edge.codec import Signature
from serving.edge.compression import is_worth_packing, pack, unpack
from serving.edge.deprecation import by_key, lines_of
from serving.edge.http1.connection import Responder
from serving.edge.problems import problem
from serving.edge.subjects import same_subject
from serving.errors import InternalError, ServingError, Unauthenticated
from serving.gateway.calls import Call, InferenceRequest
from serving.port_settings import HttpSettings

_JSON_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"%bserving-prediction-id: %b\r\nserving-batch-id: %x\r\n\r\n%b"
)
_BINARY_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n"
    b"Inference-Header-Content-Length: %d\r\n"
    b"%bserving-prediction-id: %b\r\nserving-batch-id: %x\r\n\r\n%b"
)
_LENGTH: Final = b"\r\nContent-Length: %d\r\n"
_PACKED_LENGTH: Final = b"\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n"


@dataclass(frozen=True, slots=True)
class InferencePlan:
    """What the head of an inference request says; the same for every request with that head.

    json_bytes: length of the JSON part of the body, unpacked, or None when that is all of it.
    encoding, answer_encoding: content codings of the two bodies. refusal: why no request with this
    head can be served, whatever its body. subject: the data subject that `Serving-Subject` names.
    """

    exchange: "type[RestExchange]"
    model: str
    version: str | None
    authorization: Credential
    traceparent: bytes | None
    limits: HttpSettings
    json_bytes: int | None = None
    timeout_s: float | None = None
    subject: bytes = b""
    encoding: str | None = None
    answer_encoding: str | None = None
    refusal: ServingError | None = None
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    """All of the head's, by name in lower case."""
    amends: bool = False
    """Whether the head says what the request itself may say, too."""

    def amend(self, request: InferenceRequest) -> None:
        """Adds to a request what the head says of it. Raises ParameterInvalid."""
        if self.timeout_s is not None:
            request.timeout_s = min(self.timeout_s, request.timeout_s or self.timeout_s)
        request.name_subject(same_subject(self.subject, request.subject))


class WireVersion:
    """What the wire needs of one model version: its signature and its constant headers."""

    __slots__ = ("headers", "signature", "version")

    def __init__(self, version: ModelVersion, deprecation: Deprecation | None = None) -> None:
        self.version = version
        self.signature = Signature(version)
        self.deprecate(deprecation)

    def deprecate(self, deprecation: Deprecation | None) -> None:
        """From now on answers say that the version will go, or that it stays."""
        lines = (
            ("serving-model-version", self.version.version),
            ("serving-model-digest", self.version.digest),
            *lines_of(deprecation),
        )
        self.headers = "".join(f"{name}: {value}\r\n" for name, value in lines).encode("latin-1")


class WireVersions:
    """Wire versions, made on first use, forgotten with the snapshot that drops them."""

    def __init__(self) -> None:
        self._known: dict[int, WireVersion] = {}
        self._deprecations: dict[str, Deprecation] = {}

    def of(self, version: ModelVersion) -> WireVersion:
        # By identity, which an entry keeps its version's own: a queue has one for its whole life.
        known = self._known.get(id(version))
        if known is None:
            known = WireVersion(version, self._deprecations.get(version.key))
            self._known[id(version)] = known
        return known

    def apply(self, snapshot: Snapshot) -> None:
        """Learns which versions there are, and which of them will go."""
        self._deprecations = by_key(snapshot.deprecations)
        live = {version.key for version in snapshot.versions}
        self._known = {at: wire for at, wire in self._known.items() if wire.version.key in live}
        for wire in self._known.values():
            wire.deprecate(self._deprecations.get(wire.version.key))


class RestExchange:
    """One inference request with nothing special about its head."""

    __slots__ = (
        "_body",
        "_plan",
        "_responder",
        "_versions",
        "authorization",
        "model",
        "traceparent",
        "version",
    )

    def __init__(
        self,
        plan: InferencePlan,
        versions: WireVersions,
        body: memoryview,
        responder: Responder,
    ) -> None:
        self.authorization = plan.authorization
        self.model = plan.model
        self.version = plan.version
        self.traceparent = plan.traceparent
        self._plan = plan
        self._versions = versions
        self._body = body
        self._responder = responder

    @property
    def timeout_s(self) -> float | None:
        return self._plan.timeout_s

    def header(self, name: str) -> bytes:
        return self._plan.headers.get(name.encode(), b"")

    def decode(self, version: ModelVersion) -> InferenceRequest:
        plan = self._plan
        wire = self._versions.of(version)
        request = wire.signature.decode(self._body, plan.json_bytes)
        if plan.amends:
            plan.amend(request)
        return request

    def encode(self, call: Call) -> bytes:
        wire = self._versions.of(call.queue.version)
        text, buffers = wire.signature.encode(call)
        prediction_id = call.pipeline.prediction_id(call).encode()
        headers = wire.headers
        if call.account is not None:
            headers += call.account.header(call.pipeline.now_ns())
        if not buffers:
            return _JSON_HEAD % (len(text), headers, prediction_id, call.batch_id, text)
        length = len(text) + sum(map(len, buffers))
        head = _BINARY_HEAD % (
            length, len(text), headers, prediction_id, call.batch_id, text,
        )  # fmt: skip
        return b"".join((head, *buffers))

    def send(self, payload: bytes) -> None:
        self._responder.send(payload)

    def refuse(self, error: ServingError, *, prediction_id: str | None = None) -> None:
        payload = problem(error, request_id=prediction_id)
        if isinstance(error, Unauthenticated):
            self._responder.send_refusal(payload)
        else:
            self._responder.send(payload)

    def watch(self, call: Call) -> None:
        self._responder.watch(call.abandon)


class PackedExchange(RestExchange):
    """One whose body, or whose answer, is in a content coding."""

    __slots__ = ()

    def decode(self, version: ModelVersion) -> InferenceRequest:
        plan = self._plan
        if plan.encoding is not None:
            self._body = memoryview(unpack(self._body, plan.encoding, plan.limits))
        return super().decode(version)

    def encode(self, call: Call) -> bytes:
        payload = super().encode(call)
        encoding = self._plan.answer_encoding
        head, blank_line, body = payload.partition(b"\r\n\r\n")
        if encoding is None or not is_worth_packing(len(body)):
            return payload
        packed = pack(body, encoding)
        lengths = _PACKED_LENGTH % (encoding.encode(), len(packed))
        return head.replace(_LENGTH % len(body), lengths, 1) + blank_line + packed


class RefusedExchange(RestExchange):
    """One that its head rules out: refused where others are decoded, so after its caller is known."""

    __slots__ = ()

    def decode(self, version: ModelVersion) -> InferenceRequest:
        del version
        refusal = self._plan.refusal
        if refusal is None:
            raise InternalError("a request was refused without a reason. This is a bug")
        # Kept for every request with this head: it must not gather their tracebacks.
        raise refusal.with_traceback(None)
