"""What gateways are told: which version serves, which ones shadow it, where the replicas listen.

A `Snapshot` is one immutable value. A gateway swaps it by one assignment, keeps the last one on
disk and goes on serving from it when everything above is gone.
"""

from dataclasses import dataclass

from serving.core.models import ModelName, ModelVersion, VersionName


@dataclass(frozen=True, slots=True)
class ReplicaEndpoint:
    """Where one live replica of a model version accepts frames.

    address: `unix:PATH` for a socket on the same node.
    """

    replica: str
    model: ModelName
    version: VersionName
    address: str
    node: str


@dataclass(frozen=True, slots=True)
class TrafficPolicy:
    """Which version answers, and which candidates receive a copy.

    shadows: versions mirrored in full; their answers are records, never replies.
    """

    model: ModelName
    stable: VersionName
    shadows: tuple[VersionName, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a gateway needs to route. `epoch` grows by one with every change.

    versions: every version that a policy names. ready: what `GET /v2/health/ready` waits for.
    """

    epoch: int
    versions: tuple[ModelVersion, ...] = ()
    policies: tuple[TrafficPolicy, ...] = ()
    endpoints: tuple[ReplicaEndpoint, ...] = ()
