"""Facts for `serving status` and for the supervisor: which version is how far, and on what.

A version is in one of these states, and says in which:

    waiting    nothing has been asked for yet
    starting   the engine starts its replicas
    loading    a replica reads the artifact
    warming    a replica runs its first batches
    ready      at least one replica holds a lease
    failed     the engine gave up; `message` says why, and it is tried again later

Replicas tell `loading` and `warming` only before their first lease.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from serving.control.desired import Desired, Role
from serving.control.endpoints import Lease
from serving.control.reconciler import Failure
from serving.inference.counters import ReplicaStatistics
from serving.inference.plans import ApplicationPlan, ApplicationReport
from serving.inference.registration import Phase

VersionState = Literal["waiting", "starting", "loading", "warming", "ready", "failed"]


class ReplicaStatus(msgspec.Struct, frozen=True):
    """One live replica. statistics: None until it has renewed after a restart of control."""

    replica: str
    node: str
    address: str
    renewed_s: float
    providers: tuple[str, ...] = ()
    statistics: ReplicaStatistics | None = None


class VersionStatus(msgspec.Struct, frozen=True):
    """One version that should run."""

    model: str
    version: str
    role: Role
    digest: str
    state: VersionState
    message: str
    min_replicas: int
    max_replicas: int
    replicas: tuple[ReplicaStatus, ...]


class LeftOut(msgspec.Struct, frozen=True):
    """An optional model that cannot run here."""

    model: str
    reason: str


class ControlStatus(msgspec.Struct, frozen=True):
    """Everything control knows. connected: whether the engine has answered since the start."""

    engine: str
    connected: bool
    epoch: int
    versions: tuple[VersionStatus, ...]
    left_out: tuple[LeftOut, ...]


def version_status(
    plan: ApplicationPlan,
    *,
    desired: Desired,
    leases: Sequence[Lease],
    report: ApplicationReport | None,
    failure: Failure | None,
    phase: Phase | None,
    now_ns: int,
) -> VersionStatus:
    """One row, from what each part of control knows. leases: those of this version."""
    version = plan.order.version
    state: VersionState = "waiting"
    if leases:
        state = "ready"
    elif failure is not None:
        state = "failed"
    elif phase is not None:
        state = phase
    elif report is not None:
        state = "starting"
    return VersionStatus(
        model=version.model,
        version=version.version,
        role=desired.role(version),
        digest=version.digest,
        state=state,
        message=failure.message if failure and not leases else "",
        min_replicas=plan.min_replicas,
        max_replicas=plan.max_replicas,
        replicas=tuple(_replica(lease, now_ns=now_ns) for lease in leases),
    )


def by_version(leases: Sequence[Lease]) -> Mapping[tuple[str, str], list[Lease]]:
    found: dict[tuple[str, str], list[Lease]] = {}
    for lease in leases:
        found.setdefault((lease.endpoint.model, lease.endpoint.version), []).append(lease)
    return found


def _replica(lease: Lease, *, now_ns: int) -> ReplicaStatus:
    renewal = lease.renewal
    return ReplicaStatus(
        replica=lease.endpoint.replica,
        node=lease.endpoint.node,
        address=lease.endpoint.address,
        renewed_s=(now_ns - lease.renewed_ns) / 1e9,
        providers=renewal.providers if renewal else (),
        statistics=renewal.statistics if renewal else None,
    )
