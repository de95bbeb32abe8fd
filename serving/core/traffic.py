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
class Deprecation:
    """A version that still answers, and will not for ever. Wall times in seconds.

    sunset_s: when it stops, 0 while nobody has said. successor: who to ask instead, as
    `model@version`, empty for nobody.
    """

    model: ModelName
    version: VersionName
    since_s: int
    sunset_s: int = 0
    successor: str = ""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A version that answered once and never will again. The other fields as in `Deprecation`."""

    model: ModelName
    version: VersionName
    retired_s: int
    successor: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a gateway needs to route. `epoch` grows with every change.

    versions: those that policies name, those that are about to serve, and those that end the calls
    they have. A policy whose version is not among them has nothing to answer with for now.
    tenants: models that belong to a tenant, and to which.
    """

    epoch: int
    versions: tuple[ModelVersion, ...] = ()
    policies: tuple[TrafficPolicy, ...] = ()
    endpoints: tuple[ReplicaEndpoint, ...] = ()
    deprecations: tuple[Deprecation, ...] = ()
    tombstones: tuple[Tombstone, ...] = ()
    tenants: tuple[tuple[ModelName, str], ...] = ()
