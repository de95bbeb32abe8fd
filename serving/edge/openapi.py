"""The description of the inference port in OpenAPI 3.1, made from its table of routes.

Every route must have a row in `OPERATIONS`, under its method and its path without the part that
names a version, so that a route without a description stops the start of nobody but this document:
`describe` fails, and with it a test. The schemas are those of `serving.edge.schemas`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

from serving.edge.problems import RETRYABLE_STATUSES
from serving.edge.routes import Route
from serving.edge.schemas import SCHEMAS

Document = dict[str, Any]

_ALWAYS: Final = (400, 401, 405, 408, 413, 431, 500, 503)
"""Statuses that any request may get: from framing, limits, credentials, or a surprise."""

_NAMED: Final = (403, 404)
"""Those of a path that names a model."""

_VERSION_PART: Final = "/versions/{version}"
_PARAMETER: Final = re.compile(r"{(\w+)}")
_PARAMETERS: Final = {
    "model": "Name of a model.",
    "version": "A version that is not the answering one needs an operator's token.",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """What one row of the table does. answer: name of the schema of a 200, None for no 200 at all.

    message: schema of the body, if it takes one. statuses: beyond those that any request may get.
    """

    name: str
    summary: str
    answer: str | None
    message: str | None = None
    statuses: tuple[int, ...] = ()


OPERATIONS: Final = {
    "GET /v2/health/live": Operation("live", "Whether the process runs.", "Live"),
    "GET /v2/health/ready": Operation(
        "ready", "Whether every model that should serve can answer.", "Ready"
    ),
    "GET /v2": Operation("server", "What the server is and speaks.", "ServerMetadata"),
    "GET /v2/models": Operation("models", "Models that the token may call.", "ModelList"),
    "GET /v2/models/stats": Operation(
        "allStatistics", "Statistics of all models that the token may call.", "ModelStatistics"
    ),
    "GET /v2/models/{model}": Operation(
        "model", "Inputs, outputs and versions of a model.", "ModelMetadata", statuses=_NAMED
    ),
    "GET /v2/models/{model}/ready": Operation(
        "modelReady", "Whether a model can answer.", "ModelReady", statuses=_NAMED
    ),
    "GET /v2/models/{model}/config": Operation(
        "configuration", "Configuration in Triton's form.", "ModelConfiguration", statuses=_NAMED
    ),
    "GET /v2/models/{model}/stats": Operation(
        "statistics", "Statistics of a model in Triton's form.", "ModelStatistics", statuses=_NAMED
    ),
    "POST /v2/models/{model}/infer": Operation(
        "infer",
        "One inference; answered once it is recorded.",
        "InferenceAnswer",
        message="InferenceRequest",
        statuses=(*_NAMED, 415, 429, 504),
    ),
    "POST /v2/models/{model}/outcomes": Operation(
        "reportOutcomes",
        "What turned out to be true of predicted rows; answered once it is recorded.",
        "OutcomesRecorded",
        message="Outcomes",
        statuses=(*_NAMED, 415),
    ),
    "POST /v2/repository/index": Operation(
        "index",
        "Versions that the token may see, and whether they can answer.",
        "RepositoryIndex",
        message="RepositoryIndexRequest",
        statuses=(415,),
    ),
    "POST /v2/repository/models/{model}/load": Operation(
        "load", "Refused: models change by approval.", None, statuses=(403, 501)
    ),
    "POST /v2/repository/models/{model}/unload": Operation(
        "unload", "Refused: models change by approval.", None, statuses=(403, 501)
    ),
    "GET /openapi.json": Operation("description", "This document.", "Description"),
}


def describe(routes: Sequence[Route]) -> Document:
    """The document of these routes. Raises LookupError for one that has no operation."""
    paths: dict[str, Document] = {}
    for route in routes:
        operation = OPERATIONS[f"{route.method} {route.path.replace(_VERSION_PART, '')}"]
        paths.setdefault(route.path, {})[route.method.lower()] = _described(route, operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "serving",
            "version": version("serving"),
            "description": "Open Inference Protocol with the binary tensor extension.",
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": SCHEMAS,
        },
    }


def _described(route: Route, operation: Operation) -> Document:
    suffix = "OfVersion" if _VERSION_PART in route.path else ""
    statuses = sorted({*_ALWAYS, *operation.statuses})
    if route.is_open:
        statuses.remove(401)
    described: Document = {
        "operationId": operation.name + suffix,
        "summary": operation.summary,
        "parameters": [_parameter(name) for name in _PARAMETER.findall(route.path)],
        "responses": {str(status): _problem(status) for status in statuses},
    }
    if operation.answer is not None:
        described["responses"]["200"] = _answer(operation)
    if operation.message is not None:
        described["requestBody"] = _body(operation)
    if operation.name == "infer":
        described["parameters"] += _INFERENCE_HEADERS
    if route.is_open:
        described["security"] = []
    return described


_INFERENCE_HEADERS: Final[list[Document]] = [
    {
        "name": "serving-timeout-ms",
        "in": "header",
        "description": "Time that the answer may take; 0 is answered 504.",
        "schema": {"type": "integer", "minimum": 0},
    },
    {
        "name": "Serving-Version",
        "in": "header",
        "description": "The version to ask; for operators, and for the testers of a model.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 63},
    },
    {
        "name": "Serving-Sticky-Key",
        "in": "header",
        "description": "Equal keys meet the same version, where a model's traffic is sticky by it.",
        "schema": {"type": "string"},
    },
    {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "description": "Length of the JSON part where binary tensors follow it.",
        "schema": {"type": "integer", "minimum": 0, "maximum": 9_999_999_999},
    },
]


def _parameter(name: str) -> Document:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": _PARAMETERS[name],
        "schema": {"type": "string", "minLength": 1},
    }


def _body(operation: Operation) -> Document:
    content: Document = {"application/json": {"schema": _reference(operation.message)}}
    if operation.name == "infer":
        # JSON of the same form, and the tensors that it announces behind it.
        content["application/octet-stream"] = {"schema": {}}
    required = operation.name in ("infer", "reportOutcomes")
    return {"required": required, "content": content}


def _answer(operation: Operation) -> Document:
    content: Document = {"application/json": {"schema": _reference(operation.answer)}}
    described: Document = {"description": operation.summary, "content": content}
    if operation.name == "infer":
        content["application/octet-stream"] = {"schema": {}}
        described["headers"] = {
            name: {"required": True, "schema": {"type": "string"}}
            for name in (
                "serving-model-version",
                "serving-model-digest",
                "serving-prediction-id",
                "serving-batch-id",
            )
        }
    return described


def _problem(status: int) -> Document:
    described: Document = {
        "description": "A failure; its `code` says which.",
        "content": {"application/json": {"schema": _reference("Problem")}},
    }
    if status in RETRYABLE_STATUSES:
        described["headers"] = {
            "Retry-After": {"required": True, "schema": {"type": "integer", "minimum": 1}}
        }
    return described


def _reference(schema: str | None) -> Document:
    return {"$ref": f"#/components/schemas/{schema}"}
