"""The description of the control port in OpenAPI 3.1, made from its table of routes.

Every route outside `/internal` has a row in `OPERATIONS`; `describe` fails for one that has none, and
with it a test. Rows name the types of bodies and answers; whoever composes the port says which types
these are, and their schemas are derived from the types that decode and encode them.
"""

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final, NamedTuple

import msgspec

from serving.access.permissions import CONTROL, Door
from serving.edge.problems import RETRYABLE_STATUSES
from serving.edge.routes import Reply, Request, Route
from serving.edge.schemas import SCHEMAS

Document = dict[str, Any]
Types = Mapping[str, Any]

_ALWAYS: Final = (400, 401, 403, 404, 405, 408, 413, 431, 500, 503)
_CONFLICT: Final = 409
_PARAMETER: Final = re.compile(r"{(\w+)}")
_INTERNAL: Final = "/internal/"


class Operation(NamedTuple):
    """What one row does. answer, order: names of types; empty for an object of no declared form.

    query: parameters behind the path. media: of the answer, where it is no plain JSON.
    """

    name: str
    summary: str
    answer: str = ""
    order: str = ""
    query: tuple[str, ...] = ()
    media: tuple[str, ...] = ("application/json",)


_MODEL: Final = "/v1/models/{model}"
_VERSION: Final = f"{_MODEL}/versions/{{version}}"
_REQUEST: Final = "/v1/approvals/{request}"
_SEARCH: Final = ("text", "owner", "team", "risk_tier", "tags", "state", "after", "limit")

_REGISTRY: Final = {
    "GET /v1/models": Operation(
        "searchModels", "Models that the caller may see.", "ModelPage", query=_SEARCH
    ),
    "POST /v1/models": Operation(
        "registerModel", "Register a model.", "RegisteredModel", "ModelOrder"
    ),
    f"GET {_MODEL}": Operation("showModel", "One model.", "RegisteredModel"),
    f"PUT {_MODEL}": Operation(
        "changeModel", "All facts of a model anew.", "RegisteredModel", "ModelFacts"
    ),
    f"GET {_MODEL}/history": Operation(
        "history", "Everything that became of it.", "History", query=("after", "limit")
    ),
    f"GET {_MODEL}/versions": Operation("listVersions", "Versions of a model.", "VersionList"),
    f"POST {_MODEL}/versions": Operation(
        "registerVersion", "Register a version.", "RegisteredVersion", "VersionOrder"
    ),
    f"GET {_VERSION}": Operation(
        "showVersion", "A version, by its name or an alias.", "RegisteredVersion"
    ),
    f"POST {_VERSION}/state": Operation(
        "changeState", "One step of a version's life.", "RegisteredVersion", "StateOrder"
    ),
    f"GET {_VERSION}/card": Operation(
        "card",
        "The model card.",
        "ModelCard",
        query=("format",),
        media=("application/json", "text/markdown"),
    ),
    f"GET {_VERSION}/bom": Operation(
        "billOfMaterials", "CycloneDX 1.6.", media=("application/vnd.cyclonedx+json",)
    ),
    f"GET {_MODEL}/aliases": Operation("listAliases", "Aliases of a model.", "AliasList"),
    f"PUT {_MODEL}/aliases/{{alias}}": Operation(
        "setAlias", "What an alias means from now on.", "Alias", "AliasOrder"
    ),
    f"DELETE {_MODEL}/aliases/{{alias}}": Operation("removeAlias", "Remove an alias.", "Done"),
}

_UPLOAD: Final = "/v1/artifacts/uploads/{upload}"

_UPLOADS: Final = {
    "POST /v1/artifacts/uploads": Operation(
        "openUpload", "Declare an artifact, or go on with it.", "UploadView", "UploadOrder"
    ),
    f"GET {_UPLOAD}": Operation("showUpload", "What is there of it.", "UploadView"),
    f"PUT {_UPLOAD}/{{file}}": Operation(
        "sendPiece", "One piece of a file, as it is.", "UploadView", query=("offset",)
    ),
    f"POST {_UPLOAD}/finish": Operation(
        "finishUpload", "Verify it and have it inspected.", "UploadView"
    ),
    f"DELETE {_UPLOAD}": Operation("dropUpload", "Give it up.", "Done"),
}

_TRAFFIC: Final = {
    "GET /v1/traffic": Operation("listTraffic", "Who answers, of every model."),
    "GET /v1/traffic/{model}": Operation("showTraffic", "Who answers.", "Traffic"),
    "GET /v1/traffic/{model}/history": Operation(
        "showTrafficHistory",
        "The policies that gateways were told, by epoch.",
        "PolicyEntries",
        query=("epoch",),
    ),
    "PUT /v1/traffic/{model}": Operation(
        "setTraffic", "Who answers from now on.", "Traffic", "TrafficOrder"
    ),
    "POST /v1/apply": Operation(
        "apply", "Plan deployments, or make them so.", "Applied", "ApplyOrder"
    ),
}

_ROLLOUT: Final = "/v1/rollouts/{model}"

_ROLLOUTS: Final = {
    "GET /v1/rollouts": Operation(
        "listRollouts", "Rollouts of all models, newest first.", "RolloutList", query=("limit",)
    ),
    f"GET {_ROLLOUT}": Operation(
        "showRollout", "The newest one, with what its gates say now.", "RolloutView"
    ),
    f"POST {_ROLLOUT}": Operation(
        "startRollout", "Let a candidate take over step by step.", "RolloutView", "RolloutOrder"
    ),
    f"GET {_ROLLOUT}/history": Operation(
        "rolloutHistory", "All rollouts of a model.", "RolloutList"
    ),
    f"POST {_ROLLOUT}/pause": Operation("pauseRollout", "Stay here.", "RolloutView", "TurnOrder"),
    f"POST {_ROLLOUT}/resume": Operation("resumeRollout", "Go on.", "RolloutView", "TurnOrder"),
    f"POST {_ROLLOUT}/promote": Operation(
        "promoteCandidate", "The candidate answers everything now.", "RolloutView", "TurnOrder"
    ),
    f"POST {_ROLLOUT}/rollback": Operation(
        "rollBack", "Back to the version before, at once.", "RolloutView", "TurnOrder"
    ),
}

_GOVERNANCE: Final = {
    "GET /v1/approvals": Operation(
        "listApprovals", "Requests for approval.", "RequestList", query=("state", "model")
    ),
    "POST /v1/approvals": Operation(
        "requestApproval", "Ask for approval or retirement.", "ApprovalRequest", "RequestOrder"
    ),
    f"GET {_REQUEST}": Operation("showApproval", "A request with its decisions.", "RequestView"),
    f"POST {_REQUEST}/decisions": Operation(
        "decide", "Approve or reject.", "ApprovalRequest", "DecisionOrder"
    ),
    f"POST {_REQUEST}/comments": Operation("comment", "Say something.", "Comment", "CommentOrder"),
    f"POST {_REQUEST}/withdrawal": Operation(
        "withdrawRequest", "Withdraw one's request.", "ApprovalRequest", "ReasonOrder"
    ),
    f"POST {_REQUEST}/retraction": Operation(
        "takeBack", "Take one's approval back.", "ApprovalRequest", "ReasonOrder"
    ),
    "POST /v1/overrides": Operation(
        "override", "Let a version serve in an emergency.", "ApprovalRequest", "OverrideOrder"
    ),
    "POST /v1/evidence": Operation(
        "recordEvidence", "Record evidence.", "Evidence", "EvidenceOrder"
    ),
    f"GET {_VERSION}/standing": Operation("standing", "What a version still lacks.", "Standing"),
    f"GET {_VERSION}/evidence": Operation("listEvidence", "Evidence for it.", "EvidenceList"),
    f"GET {_MODEL}/comparisons": Operation(
        "listComparisons", "How its candidates compare, live.", "ComparisonList"
    ),
    f"GET {_MODEL}/verdicts": Operation(
        "listVerdicts", "Verdicts, newest first.", "VerdictList", query=("version",)
    ),
    f"POST {_MODEL}/verdicts": Operation(
        "issueVerdict", "Draw a verdict from a comparison.", "IssuedVerdict", "VerdictOrder"
    ),
    f"GET {_MODEL}/verdicts/{{verdict}}": Operation(
        "showVerdict", "A verdict with its signature.", "IssuedVerdict"
    ),
    "GET /v1/webhooks": Operation("listWebhooks", "Whom notifications go to.", "WebhookList"),
    "POST /v1/webhooks": Operation("addWebhook", "Add one.", "MadeWebhook", "WebhookOrder"),
    "DELETE /v1/webhooks/{webhook}": Operation("removeWebhook", "Remove one."),
    "POST /v1/webhooks/{webhook}/test": Operation("testWebhook", "Send it a test.", "Queued"),
    "GET /v1/audit/events": Operation(
        "events",
        "The audit trail, newest first.",
        "EventList",
        query=("name", "actor", "object", "since_ns", "until_ns", "before", "limit"),
    ),
}

_ACCESS: Final = {
    "GET /v1/access/explain": Operation(
        "explain",
        "Whether somebody may do something, and why.",
        "Explanation",
        query=("action", "subject", "model", "roles", "tenant", "key"),
    ),
    "GET /v1/access/keys": Operation("listKeys", "API keys."),
    "POST /v1/access/keys": Operation("makeKey", "Make an API key.", "MadeKey", "KeyOrder"),
    "POST /v1/access/keys/{key}/rotate": Operation(
        "rotateKey", "Replace a key.", "MadeKey", "RotationOrder"
    ),
    "DELETE /v1/access/keys/{key}": Operation("revokeKey", "End a key."),
    "GET /v1/access/rules": Operation("listRules", "Grants and denials."),
    "POST /v1/access/rules": Operation("addRule", "Grant or deny something.", "Rule", "RuleOrder"),
    "DELETE /v1/access/rules/{rule}": Operation("removeRule", "Take a rule back."),
    "GET /v1/access/revocations": Operation("listRevocations", "Who is turned away."),
    "POST /v1/access/revocations": Operation(
        "revoke", "Turn somebody away.", "Revocation", "RevocationOrder"
    ),
    "DELETE /v1/access/revocations/{kind}/{value}": Operation("unrevoke", "Let somebody in again."),
}

_PRIVACY: Final = {
    "POST /v1/privacy/erasures": Operation("erase", "Erase a data subject.", "", "ErasureOrder"),
    "GET /v1/privacy/holds": Operation("listHolds", "What must be kept."),
    "POST /v1/privacy/holds": Operation("placeHold", "Keep records.", "", "HoldOrder"),
    "POST /v1/privacy/holds/release": Operation(
        "releaseHold", "Keep them no longer.", "", "HoldOrder"
    ),
}

OPERATIONS: Final[Mapping[str, Operation]] = {
    "GET /v1/status": Operation("status", "What runs, and what does not."),
    "GET /openapi.json": Operation("description", "This document."),
    **_REGISTRY,
    **_UPLOADS,
    **_TRAFFIC,
    **_ROLLOUTS,
    **_GOVERNANCE,
    **_ACCESS,
    **_PRIVACY,
}
"""By method and path."""


def description_route(routes: Sequence[Route], types: Types) -> Route:
    """The route that answers with the description of `routes` and of itself."""
    made: list[bytes] = []

    def show(_request: Request) -> Reply:
        if not made:
            made.append(msgspec.json.encode(describe([*routes, itself], types)))
        return Reply(200, made[0])

    itself = Route("GET", "/openapi.json", show)
    return itself


def describe(routes: Sequence[Route], types: Types) -> Document:
    """The document of these routes. types: by the names in `OPERATIONS`.

    Raises LookupError for a route that has no row, or a row whose type is not there.
    """
    shown = [route for route in routes if not route.path.startswith(_INTERNAL)]
    used = [OPERATIONS[f"{route.method} {route.path}"] for route in shown]
    names = sorted({name for each in used for name in (each.answer, each.order) if name})
    references, schemas = msgspec.json.schema_components(
        [types[name] for name in names], ref_template="#/components/schemas/{name}"
    )
    known = dict(zip(names, references, strict=True))
    paths: dict[str, Document] = {}
    for route, operation in zip(shown, used, strict=True):
        paths.setdefault(route.path, {})[route.method.lower()] = _described(route, operation, known)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "serving control",
            "version": version("serving"),
            "description": "Registry, governance, traffic, access and privacy.",
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {**schemas, "Problem": SCHEMAS["Problem"]},
        },
    }


def _described(route: Route, operation: Operation, known: Types) -> Document:
    changes = route.method != "GET"
    statuses = [*_ALWAYS, *([_CONFLICT] if changes else [])]
    answer = known.get(operation.answer, {"type": "object"})
    described: Document = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": _permission(route),
        "parameters": [
            *(_parameter(name, "path") for name in _PARAMETER.findall(route.path)),
            *(_parameter(name, "query") for name in operation.query),
            *(_HEADERS if changes else []),
        ],
        "responses": {
            "200": {
                "description": operation.summary,
                "content": {
                    media: {"schema": answer if media.endswith("json") else {"type": "string"}}
                    for media in operation.media
                },
            },
            **{str(status): _problem(status) for status in sorted(statuses)},
        },
    }
    if operation.order:
        content = {"application/json": {"schema": known[operation.order]}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _permission(route: Route) -> str:
    needs = CONTROL[route.method, route.path]
    if needs is Door.KNOWN:
        return "Takes a credential; what it may see or do is decided model by model."
    return f"Takes the permission `{needs}`."


_HEADERS: Final[list[Document]] = [
    {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Makes the order safe to repeat: carried out once, answered the same.",
        "schema": {"type": "string", "maxLength": 255},
    },
    {
        "name": "If-Match",
        "in": "header",
        "description": "The revision that was seen; another one there now is 409.",
        "schema": {"type": "string"},
    },
]


def _parameter(name: str, where: str) -> Document:
    return {
        "name": name,
        "in": where,
        "required": where == "path",
        "schema": {"type": "string"},
    }


def _problem(status: int) -> Document:
    described: Document = {
        "description": "A failure; its `code` says which.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if status in RETRYABLE_STATUSES:
        described["headers"] = {
            "Retry-After": {"required": True, "schema": {"type": "integer", "minimum": 1}}
        }
    return described
