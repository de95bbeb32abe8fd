"""Facts for `serving status` and for the supervisor: which version is how far, and on what.

A version is in one of these states, and says in which:

    refused    it must not run: not signed, approved or bound as it has to be; `message` says why
    waiting    nothing has been asked for yet
    starting   the engine starts its replicas
    loading    a replica reads the artifact
    warming    a replica runs its first batches
    ready      at least one replica holds a lease
    failed     the engine gave up; `message` says why, and it is tried again later
    leaving    nobody wants it any more; it ends the calls it has, then it is deleted

Replicas tell `loading` and `warming` only before their first lease. Where what runs is not what
should, `drift` says so in a line each: see `control.drift`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from serving.control.desired import Desired, Role
from serving.control.drift import Drift, drift_of
from serving.control.endpoints import Lease
from serving.control.reconciler import Failure
from serving.core.models import ModelVersion
from serving.core.traffic import FULL, Snapshot
from serving.inference.counters import ReplicaStatistics
from serving.inference.plans import ApplicationPlan, ApplicationReport
from serving.inference.registration import PhaseReport

VersionState = Literal[
    "refused", "waiting", "starting", "loading", "warming", "ready", "failed", "leaving"
]


class ReplicaStatus(msgspec.Struct, frozen=True):
    """One live replica. statistics: None until it has renewed after a restart of control."""

    replica: str
    node: str
    address: str
    renewed_s: float
    providers: tuple[str, ...] = ()
    statistics: ReplicaStatistics | None = None


class VersionStatus(msgspec.Struct, frozen=True):
    """One version that should run, or still does. answers: it is the one that callers get without
    more ado. weight: the share of requests that gateways were told to give it. is_local: nobody but
    the local policy agreed to it."""

    model: str
    version: str
    role: Role
    digest: str
    state: VersionState
    message: str
    min_replicas: int
    max_replicas: int
    replicas: tuple[ReplicaStatus, ...]
    answers: bool = False
    is_local: bool = False
    weight: float = 0.0


class LeftOut(msgspec.Struct, frozen=True):
    """An optional model that cannot run here."""

    model: str
    reason: str


class ControlStatus(msgspec.Struct, frozen=True):
    """Everything control knows. connected: whether the engine has answered since the start.

    known: whether it knows what should run. trouble: why that may be out of date, empty when not.
    """

    engine: str
    connected: bool
    epoch: int
    versions: tuple[VersionStatus, ...]
    left_out: tuple[LeftOut, ...]
    known: bool = True
    trouble: str = ""
    drift: tuple[Drift, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """What the parts of control know. desired: None while that is not known."""

    engine: str
    connected: bool
    desired: Desired | None
    trouble: str
    snapshot: Snapshot
    reported: Mapping[str, ApplicationReport]
    failures: Mapping[str, Failure]
    leases: Sequence[Lease]
    phases: Mapping[str, PhaseReport]
    now_ns: int


def status_of(facts: Facts) -> ControlStatus:
    """All of it as one value."""
    desired = facts.desired or Desired()
    weights = _weights(facts.snapshot)
    answering = {(policy.model, policy.stable) for policy in facts.snapshot.policies}
    rows = _rows(facts, desired)
    return ControlStatus(
        engine=facts.engine,
        connected=facts.connected,
        epoch=facts.snapshot.epoch,
        versions=tuple(
            msgspec.structs.replace(
                row,
                answers=(row.model, row.version) in answering,
                is_local=f"{row.model}@{row.version}" in desired.local,
                weight=weights.get((row.model, row.version), 0.0),
            )
            for row in rows
        ),
        left_out=tuple(LeftOut(*each) for each in desired.left_out),
        known=facts.desired is not None,
        trouble=facts.trouble,
        drift=()
        if facts.desired is None
        else drift_of(
            desired,
            snapshot=facts.snapshot,
            reported=facts.reported,
            failures=facts.failures,
            now_ns=facts.now_ns,
        ),
    )


def _rows(facts: Facts, desired: Desired) -> list[VersionStatus]:
    """What should run, what must not, and what still does."""
    leases = by_version(facts.leases)
    rows = [
        version_status(
            plan,
            desired=desired,
            leases=leases.get(plan.key, ()),
            report=facts.reported.get(plan.name),
            failure=facts.failures.get(plan.name),
            phase=facts.phases.get(plan.key),
            now_ns=facts.now_ns,
        )
        for plan in desired.plans
    ]
    rows += [_ensemble(each, desired=desired, leases=leases) for each in desired.ensembles]
    rows += [_refused(key, reason, desired) for key, reason in desired.refusals.items()]
    wanted = {f"{row.model}@{row.version}" for row in rows}
    rows += [
        _leaving(version, leases.get(version.key, ()), now_ns=facts.now_ns)
        for version in facts.snapshot.versions
        if version.key not in wanted
    ]
    return rows


def _weights(snapshot: Snapshot) -> dict[tuple[str, str], float]:
    """The share of its model's requests that gateways were told to give each version."""
    return {
        (policy.model, version): policy.weight_of(version) / FULL
        for policy in snapshot.policies
        for version in (policy.stable, *(arm.version for arm in policy.arms))
    }


def version_status(
    plan: ApplicationPlan,
    *,
    desired: Desired,
    leases: Sequence[Lease],
    report: ApplicationReport | None,
    failure: Failure | None,
    phase: PhaseReport | None,
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
        state = phase.phase
    elif report is not None:
        state = "starting"
    return VersionStatus(
        model=version.model,
        version=version.version,
        role=desired.role(version.model, version.version),
        digest=version.digest,
        state=state,
        message="" if leases else _trouble(failure, phase),
        min_replicas=plan.min_replicas,
        max_replicas=plan.max_replicas,
        replicas=tuple(_replica(lease, now_ns=now_ns) for lease in leases),
    )


def _trouble(failure: Failure | None, phase: PhaseReport | None) -> str:
    """Why it does not run, in the engine's words or in the replica's own."""
    if failure is not None:
        return failure.message
    return phase.reason if phase is not None else ""


def by_version(leases: Sequence[Lease]) -> Mapping[str, list[Lease]]:
    """By `model@version`."""
    found: dict[str, list[Lease]] = {}
    for lease in leases:
        key = f"{lease.endpoint.model}@{lease.endpoint.version}"
        found.setdefault(key, []).append(lease)
    return found


def _ensemble(
    version: ModelVersion, *, desired: Desired, leases: Mapping[str, Sequence[Lease]]
) -> VersionStatus:
    """It is ready when all of its stages are; it has no replicas of its own."""
    missing = [stage.key for stage in version.stages if not leases.get(stage.key)]
    return VersionStatus(
        model=version.model,
        version=version.version,
        role=desired.role(version.model, version.version),
        digest=version.digest,
        state="waiting" if missing else "ready",
        message=f"its stages {', '.join(dict.fromkeys(missing))} are not ready" if missing else "",
        min_replicas=0,
        max_replicas=0,
        replicas=(),
    )


def _refused(key: str, reason: str, desired: Desired) -> VersionStatus:
    model, _, version = key.rpartition("@")
    return VersionStatus(
        model=model,
        version=version,
        role=desired.role(model, version),
        digest="",
        state="refused",
        message=reason,
        min_replicas=0,
        max_replicas=0,
        replicas=(),
    )


def _leaving(version: ModelVersion, leases: Sequence[Lease], *, now_ns: int) -> VersionStatus:
    return VersionStatus(
        model=version.model,
        version=version.version,
        role="shadow",
        digest=version.digest,
        state="leaving",
        message="",
        min_replicas=0,
        max_replicas=0,
        replicas=tuple(_replica(lease, now_ns=now_ns) for lease in leases),
    )


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
