"""Routes of the inference port that are not inference: health, and what there is to call.

The table is `CatalogueRoutes.routes`; who may see what, and in which words, is `serving.edge.facts`.
Nothing here changes anything: which versions serve is decided by approval on the control port, so
that loading and unloading are answered 501 to everybody who may know of the model.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Final, Protocol

import msgspec
import orjson

from serving.access.authorization import authorize_description
from serving.edge import facts
from serving.edge.openapi import describe
from serving.edge.outcomes import OutcomeRoutes
from serving.edge.plans import check_media, encoding_of
from serving.edge.routes import Reply, Request, Route
from serving.errors import (
    EncodingUnsupported,
    FeatureUnsupported,
    InternalError,
    NotReady,
    RequestInvalid,
)
from serving.gateway.batching import VersionQueue
from serving.gateway.pipeline import Pipeline
from serving.telemetry.families import GatewayMetrics

_MODEL: Final = "/v2/models/{model}"


class Readiness(Protocol):
    """What the health routes ask."""

    def not_ready(self) -> str | None:
        """Why predictions cannot be served right now, or None."""


class _IndexRequest(msgspec.Struct):
    ready: bool = False


class CatalogueRoutes:
    """The inference port's routes. `pipeline` and `metrics` are read, never changed."""

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

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/v2/health/live", self._live, is_open=True),
            Route("GET", "/v2/health/ready", self._ready, is_open=True),
            Route("GET", "/v2", self._server),
            Route("GET", "/v2/models", self._models),
            # Before the models: one that is called `stats` is found under its version only.
            Route("GET", "/v2/models/stats", self._all_statistics),
            *_for_versions("GET", "", self._model),
            *_for_versions("GET", "/ready", self._model_ready),
            *_for_versions("GET", "/config", self._configuration),
            *_for_versions("GET", "/stats", self._statistics),
            *_for_versions("POST", "/infer", _unreachable),
            *OutcomeRoutes(self._pipeline).routes(),
            Route("POST", "/v2/repository/index", self._index),
            Route("POST", "/v2/repository/models/{model}/load", _change),
            Route("POST", "/v2/repository/models/{model}/unload", _change),
            Route("GET", "/openapi.json", self._description),
        ]

    # -- health --------------------------------------------------------------------------------------

    def _live(self, _request: Request) -> Reply:
        return Reply(200, b'{"live":true}')

    def _ready(self, _request: Request) -> Reply:
        reason = self._readiness.not_ready()
        if reason is not None:
            raise NotReady(reason)
        return Reply(200, b'{"live":true,"ready":true}')

    # -- the server ----------------------------------------------------------------------------------

    def _server(self, _request: Request) -> Reply:
        return _json(facts.server_metadata())

    def _models(self, request: Request) -> Reply:
        queues = facts.visible(self._pipeline.table, request.principal)
        return _json({"models": list(dict.fromkeys(queue.version.model for queue in queues))})

    def _index(self, request: Request) -> Reply:
        wanted = _index_request(request)
        queues = facts.visible(self._pipeline.table, request.principal)
        return _json(facts.repository_index(queues, ready_only=wanted.ready))

    def _all_statistics(self, request: Request) -> Reply:
        queues = facts.visible(self._pipeline.table, request.principal)
        return self._statistics_of(*queues)

    def _description(self, _request: Request) -> Reply:
        return Reply(200, self._document)

    @cached_property
    def _document(self) -> bytes:
        return orjson.dumps(describe(self.routes()))

    # -- one model -----------------------------------------------------------------------------------

    def _model(self, request: Request) -> Reply:
        version = self._find(request).version
        versions = facts.versions_of(self._pipeline.table, request.principal, version.model)
        return _json(facts.model_metadata(version, versions))

    def _model_ready(self, request: Request) -> Reply:
        queue = self._find(request)
        if not queue.ready:
            raise NotReady("no replica of this model is up")
        return _json({"name": queue.version.model, "ready": True})

    def _configuration(self, request: Request) -> Reply:
        return _json(facts.model_configuration(self._find(request).version))

    def _statistics(self, request: Request) -> Reply:
        return self._statistics_of(self._find(request))

    def _statistics_of(self, *queues: VersionQueue) -> Reply:
        epoch_ns = round(self._now_s() * 1e9) - self._pipeline.now_ns()
        statistics = [
            facts.model_statistics(
                queue.version, self._metrics, epoch_ns=epoch_ns, cache=queue.cache
            )
            for queue in queues
        ]
        return _json({"model_stats": statistics})

    def _find(self, request: Request) -> VersionQueue:
        return facts.find(
            self._pipeline.table,
            request.principal,
            model=request.arguments["model"],
            version=request.arguments.get("version"),
        )


def _for_versions(method: str, suffix: str, function: Callable[[Request], Reply]) -> list[Route]:
    """The same thing of a model and of a version that is named."""
    return [
        Route(method, f"{_MODEL}{suffix}", function),
        Route(method, f"{_MODEL}/versions/{{version}}{suffix}", function),
    ]


def _change(request: Request) -> Reply:
    authorize_description(request.principal, request.arguments["model"])
    raise FeatureUnsupported("models change by approval on the control port, not by this one")


def _unreachable(_request: Request) -> Reply:
    raise InternalError("inference is served before the routes. This is a bug")


def _index_request(request: Request) -> _IndexRequest:
    if not request.body:
        return _IndexRequest()
    check_media(request.headers)
    if encoding_of(request.headers) is not None:
        raise EncodingUnsupported("only the body of an inference may be compressed")
    try:
        return msgspec.json.decode(request.body, type=_IndexRequest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestInvalid('the body may be {"ready": true}, or nothing') from error


def _json(value: object) -> Reply:
    return Reply(200, orjson.dumps(value))
