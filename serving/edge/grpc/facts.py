"""The calls that are not inference: health as the protocol has it, metadata, configuration, index.

What they say is `serving.edge.facts`, as on the other wire; here it only becomes messages. Loading and
unloading is refused: what serves is decided by those who deploy, not by those who call.
"""

from collections.abc import Callable
from typing import Any, Final

from google.protobuf.json_format import ParseDict  # type: ignore[import-untyped]  # ships no types

from serving.core.batches import Buffer
from serving.core.principals import Principal
from serving.edge import facts
from serving.edge.grpc import inference_pb2
from serving.edge.grpc.gate import Method, Step, known, step
from serving.edge.grpc.health import Readiness
from serving.edge.grpc.messages import parse
from serving.errors import FeatureUnsupported
from serving.gateway.batching import VersionQueue
from serving.gateway.pipeline import Pipeline
from serving.telemetry.families import GatewayMetrics

SERVICE: Final = "inference.GRPCInferenceService"

Answer = Callable[[Any, Principal], dict[str, Any]]


class FactCalls:
    """Everything of the inference service but inference."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        readiness: Readiness,
        metrics: GatewayMetrics,
        now_s: Callable[[], float],
    ) -> None:
        """now_s: wall time."""
        self._pipeline = pipeline
        self._readiness = readiness
        self._metrics = metrics
        self._now_s = now_s

    def methods(self) -> dict[str, Method]:
        calls: dict[str, Method] = {
            "ServerLive": _open(inference_pb2.ServerLiveResponse, self._live),
            "ServerReady": _open(inference_pb2.ServerReadyResponse, self._ready),
        }
        answers: dict[str, Answer] = {
            "ServerMetadata": lambda _request, _principal: facts.server_metadata(),
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_configuration,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._repository_index,
        }
        calls |= {name: step(_read_and_write(name, answer)) for name, answer in answers.items()}
        for name in ("RepositoryModelLoad", "RepositoryModelUnload"):
            calls[name] = step(_unload)
        return {f"/{SERVICE}/{name}": method for name, method in calls.items()}

    # -- the answers -----------------------------------------------------------------------------

    def _live(self) -> dict[str, bool]:
        return {"live": True}

    def _ready(self) -> dict[str, bool]:
        return {"ready": self._readiness.not_ready() is None}

    def _model_ready(self, request: Any, principal: Principal) -> dict[str, Any]:
        return {"ready": self._find(request, principal).ready}

    def _model_metadata(self, request: Any, principal: Principal) -> dict[str, Any]:
        version = self._find(request, principal).version
        versions = facts.versions_of(self._pipeline.table, principal, version.model)
        return facts.model_metadata(version, versions)

    def _model_configuration(self, request: Any, principal: Principal) -> dict[str, Any]:
        configuration = facts.model_configuration(self._find(request, principal).version)
        # Its messages know versions by whole numbers only.
        configuration.pop("ensemble_scheduling", None)
        return {"config": configuration}

    def _model_statistics(self, request: Any, principal: Principal) -> dict[str, Any]:
        if request.name:
            queues = [self._find(request, principal)]
        else:
            queues = list(facts.visible(self._pipeline.table, principal))
        epoch_ns = round(self._now_s() * 1e9) - self._pipeline.now_ns()
        return {
            "model_stats": [
                facts.model_statistics(
                    queue.version, self._metrics, epoch_ns=epoch_ns, cache=queue.cache
                )
                for queue in queues
            ]
        }

    def _repository_index(self, request: Any, principal: Principal) -> dict[str, Any]:
        queues = facts.visible(self._pipeline.table, principal)
        return {"models": facts.repository_index(queues, ready_only=request.ready)}

    def _find(self, request: Any, principal: Principal) -> VersionQueue:
        table = self._pipeline.table
        return facts.find(table, principal, model=request.name, version=request.version)


def _open(answer: Any, ask: Callable[[], dict[str, bool]]) -> Method:
    def function(_message: Buffer, _principal: Principal | None) -> bytes:
        encoded: bytes = answer(**ask()).SerializeToString()
        return encoded

    return step(function, open=True)


def _read_and_write(name: str, answer: Answer) -> Step:
    """A step that knows the messages of the call `name`."""
    request_kind = getattr(inference_pb2, f"{name}Request")
    response_kind = getattr(inference_pb2, f"{name}Response")

    def function(message: Buffer, principal: Principal | None) -> bytes:
        said = answer(parse(message, request_kind), known(principal))
        # Facts without a place in the messages are for the other wire.
        response = ParseDict(said, response_kind(), ignore_unknown_fields=True)
        encoded: bytes = response.SerializeToString()
        return encoded

    return function


def _unload(_message: Buffer, _principal: Principal | None) -> bytes:
    raise FeatureUnsupported("models are loaded and unloaded by those who deploy, not by callers")
