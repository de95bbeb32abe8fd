"""Every door of the product and what it takes to go through: all ports, all routes, all methods.

The routers look here before they call a route, and refuse to be built over a route that is missing;
a test walks the tables of all live servers both ways. What is not listed is not served.

An action about a model is asked with the model that the path, or the message, names.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from serving.access.authorization import authorize
from serving.core.principals import Action, Principal


class Door(StrEnum):
    """What it takes besides a permission."""

    OPEN = "open"
    """Nothing: probes and scrapers have no credential, and learn nothing that is anybody's."""
    KNOWN = "known"
    """A verified credential, whatever it permits; the answer holds what its holder may see."""
    SOCKET = "socket"
    """To be the user who runs the product: only that user can open the socket."""


Permission = Door | Action
RouteName = tuple[str, str]
"""Method and path, as in the route table."""


def _of_model(suffix: str, method: str, permission: Permission) -> dict[RouteName, Permission]:
    return {
        (method, f"/v2/models/{{model}}{suffix}"): permission,
        (method, f"/v2/models/{{model}}/versions/{{version}}{suffix}"): permission,
    }


INFERENCE: Final[Mapping[RouteName, Permission]] = {
    ("GET", "/v2/health/live"): Door.OPEN,
    ("GET", "/v2/health/ready"): Door.OPEN,
    ("GET", "/v2"): Door.KNOWN,
    ("GET", "/v2/models"): Door.KNOWN,
    ("GET", "/v2/models/stats"): Door.KNOWN,
    ("POST", "/v2/repository/index"): Door.KNOWN,
    ("GET", "/openapi.json"): Door.KNOWN,
    **_of_model("", "GET", Action.DESCRIBE),
    **_of_model("/ready", "GET", Action.DESCRIBE),
    **_of_model("/config", "GET", Action.DESCRIBE),
    **_of_model("/stats", "GET", Action.DESCRIBE),
    **_of_model("/infer", "POST", Action.INFER),
    ("POST", "/v2/models/{model}/outcomes"): Action.REPORT_OUTCOME,
    # Answered 501 to whoever may see the model: nothing is loaded or unloaded through this port.
    ("POST", "/v2/repository/models/{model}/load"): Action.DESCRIBE,
    ("POST", "/v2/repository/models/{model}/unload"): Action.DESCRIBE,
}
"""The inference port over HTTP."""

_OIP: Final = "/inference.GRPCInferenceService"

GRPC: Final[Mapping[str, Permission]] = {
    f"{_OIP}/ServerLive": Door.OPEN,
    f"{_OIP}/ServerReady": Door.OPEN,
    "/grpc.health.v1.Health/Check": Door.OPEN,
    "/grpc.health.v1.Health/Watch": Door.OPEN,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Door.KNOWN,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Door.KNOWN,
    f"{_OIP}/ServerMetadata": Door.KNOWN,
    f"{_OIP}/RepositoryIndex": Door.KNOWN,
    # Of all models that the caller may see when it names none.
    f"{_OIP}/ModelStatistics": Action.DESCRIBE,
    f"{_OIP}/ModelReady": Action.DESCRIBE,
    f"{_OIP}/ModelMetadata": Action.DESCRIBE,
    f"{_OIP}/ModelConfig": Action.DESCRIBE,
    f"{_OIP}/ModelInfer": Action.INFER,
    f"{_OIP}/ModelStreamInfer": Action.INFER,
    f"{_OIP}/RepositoryModelLoad": Door.KNOWN,
    f"{_OIP}/RepositoryModelUnload": Door.KNOWN,
}
"""The inference port over gRPC, by full method name."""

CONTROL: Final[Mapping[RouteName, Permission]] = {
    ("GET", "/internal/snapshot"): Action.TAKE_PART,
    ("GET", "/internal/access"): Action.TAKE_PART,
    ("POST", "/internal/access/uses"): Action.TAKE_PART,
    ("PUT", "/internal/endpoints/{replica}"): Action.TAKE_PART,
    ("DELETE", "/internal/endpoints/{replica}"): Action.TAKE_PART,
    ("PUT", "/internal/phases/{replica}"): Action.TAKE_PART,
    ("POST", "/internal/reports"): Action.TAKE_PART,
    ("PUT", "/internal/comparisons"): Action.TAKE_PART,
    ("GET", "/v1/status"): Action.READ_STATUS,
    ("GET", "/openapi.json"): Door.KNOWN,
    # Answered with what the caller may see; a new model belongs to the caller's tenant, which has to
    # permit it.
    ("GET", "/v1/models"): Door.KNOWN,
    ("POST", "/v1/models"): Door.KNOWN,
    ("GET", "/v1/models/{model}"): Action.DESCRIBE_CANDIDATES,
    ("PUT", "/v1/models/{model}"): Action.REGISTER,
    ("GET", "/v1/models/{model}/history"): Action.DESCRIBE_CANDIDATES,
    ("GET", "/v1/models/{model}/versions"): Action.DESCRIBE_CANDIDATES,
    ("POST", "/v1/models/{model}/versions"): Action.REGISTER,
    ("GET", "/v1/models/{model}/versions/{version}"): Action.DESCRIBE_CANDIDATES,
    # Which right a step takes depends on the step.
    ("POST", "/v1/models/{model}/versions/{version}/state"): Action.DESCRIBE_CANDIDATES,
    ("GET", "/v1/models/{model}/versions/{version}/card"): Action.DESCRIBE_CANDIDATES,
    ("GET", "/v1/models/{model}/versions/{version}/bom"): Action.DESCRIBE_CANDIDATES,
    ("GET", "/v1/models/{model}/aliases"): Action.DESCRIBE_CANDIDATES,
    ("PUT", "/v1/models/{model}/aliases/{alias}"): Action.OPERATE,
    ("DELETE", "/v1/models/{model}/aliases/{alias}"): Action.OPERATE,
    # The model is named in the order, and an upload is its sender's own.
    ("POST", "/v1/artifacts/uploads"): Door.KNOWN,
    ("GET", "/v1/artifacts/uploads/{upload}"): Door.KNOWN,
    ("PUT", "/v1/artifacts/uploads/{upload}/{file}"): Door.KNOWN,
    ("POST", "/v1/artifacts/uploads/{upload}/finish"): Door.KNOWN,
    ("DELETE", "/v1/artifacts/uploads/{upload}"): Door.KNOWN,
    ("GET", "/v1/traffic"): Action.READ_STATUS,
    ("GET", "/v1/traffic/{model}"): Action.DESCRIBE_CANDIDATES,
    ("GET", "/v1/traffic/{model}/history"): Action.DESCRIBE_CANDIDATES,
    ("PUT", "/v1/traffic/{model}"): Action.OPERATE,
    ("GET", "/v1/rollouts"): Action.READ_STATUS,
    ("GET", "/v1/rollouts/{model}"): Action.DESCRIBE_CANDIDATES,
    ("POST", "/v1/rollouts/{model}"): Action.OPERATE,
    ("GET", "/v1/rollouts/{model}/history"): Action.DESCRIBE_CANDIDATES,
    ("POST", "/v1/rollouts/{model}/pause"): Action.OPERATE,
    ("POST", "/v1/rollouts/{model}/resume"): Action.OPERATE,
    ("POST", "/v1/rollouts/{model}/promote"): Action.OPERATE,
    ("POST", "/v1/rollouts/{model}/rollback"): Action.OPERATE,
    # Each model that the file names is asked about by itself.
    ("POST", "/v1/apply"): Action.READ_STATUS,
    # Who may ask, decide or override is judged over the version, its author and its requester.
    ("GET", "/v1/approvals"): Door.KNOWN,
    ("POST", "/v1/approvals"): Door.KNOWN,
    ("GET", "/v1/approvals/{request}"): Door.KNOWN,
    ("POST", "/v1/approvals/{request}/decisions"): Door.KNOWN,
    ("POST", "/v1/approvals/{request}/comments"): Door.KNOWN,
    ("POST", "/v1/approvals/{request}/withdrawal"): Door.KNOWN,
    ("POST", "/v1/approvals/{request}/retraction"): Door.KNOWN,
    ("POST", "/v1/overrides"): Door.KNOWN,
    ("POST", "/v1/evidence"): Door.KNOWN,
    ("GET", "/v1/models/{model}/versions/{version}/standing"): Action.DESCRIBE_CANDIDATES,
    ("GET", "/v1/models/{model}/versions/{version}/evidence"): Action.DESCRIBE_CANDIDATES,
    ("GET", "/v1/models/{model}/comparisons"): Action.DESCRIBE_CANDIDATES,
    ("GET", "/v1/models/{model}/verdicts"): Action.DESCRIBE_CANDIDATES,
    ("POST", "/v1/models/{model}/verdicts"): Action.DESCRIBE_CANDIDATES,
    ("GET", "/v1/models/{model}/verdicts/{verdict}"): Action.DESCRIBE_CANDIDATES,
    ("GET", "/v1/webhooks"): Action.READ_ACCESS,
    ("POST", "/v1/webhooks"): Action.MANAGE_ACCESS,
    ("DELETE", "/v1/webhooks/{webhook}"): Action.MANAGE_ACCESS,
    ("POST", "/v1/webhooks/{webhook}/test"): Action.MANAGE_ACCESS,
    ("GET", "/v1/audit/events"): Action.READ_ACCESS,
    ("POST", "/internal/access/denials"): Action.TAKE_PART,
    ("GET", "/v1/access/keys"): Action.READ_ACCESS,
    ("POST", "/v1/access/keys"): Action.MANAGE_ACCESS,
    ("POST", "/v1/access/keys/{key}/rotate"): Action.MANAGE_ACCESS,
    ("DELETE", "/v1/access/keys/{key}"): Action.MANAGE_ACCESS,
    ("GET", "/v1/access/rules"): Action.READ_ACCESS,
    ("POST", "/v1/access/rules"): Action.MANAGE_ACCESS,
    ("DELETE", "/v1/access/rules/{rule}"): Action.MANAGE_ACCESS,
    ("GET", "/v1/access/revocations"): Action.READ_ACCESS,
    ("POST", "/v1/access/revocations"): Action.MANAGE_ACCESS,
    ("DELETE", "/v1/access/revocations/{kind}/{value}"): Action.MANAGE_ACCESS,
    ("GET", "/v1/access/explain"): Action.READ_ACCESS,
    ("POST", "/v1/privacy/erasures"): Action.PROTECT_SUBJECTS,
    ("GET", "/v1/privacy/holds"): Action.PROTECT_SUBJECTS,
    ("POST", "/v1/privacy/holds"): Action.PROTECT_SUBJECTS,
    ("POST", "/v1/privacy/holds/release"): Action.PROTECT_SUBJECTS,
}
"""The control port."""

METRICS: Final[Mapping[RouteName, Permission]] = {("GET", "/metrics"): Door.OPEN}
"""The metrics port: figures by model and error code, never by caller."""

INTROSPECTION: Final[Mapping[RouteName, Permission]] = {
    ("GET", "/metrics"): Door.SOCKET,
    ("GET", "/status"): Door.SOCKET,
}
"""The Unix socket of each process."""


def check(permission: Permission, principal: Principal, model: str | None = None) -> None:
    """Passes when a principal that was identified may go through. Raises as `authorize`."""
    if isinstance(permission, Action):
        authorize(principal, permission, model)
