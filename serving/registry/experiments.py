"""When an experiment ran, and how: read from the audit trail, which holds every change of traffic.

An experiment is a name that the traffic of a model carries (`Shares.experiment`). A run of it is a time
during which who answers which share did not change: a readout is about one run, because the arms of two
were met by different callers. What does not decide who answers (shadows, testers, replicas) may change.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from serving.audit.chain import Entry
from serving.core.traffic import FULL, Sticky, TrafficPolicy
from serving.errors import NotFound
from serving.registry.shares import ArmOrder, whole

LAST_EPOCH: Final = 2**63 - 1


class ExperimentRun(msgspec.Struct, frozen=True, kw_only=True):
    """versions: of the arms, the stable one first; shares: of the requests, as long. Wall times;
    until_ns is 0 while it runs. started_by: who set the traffic."""

    model: str
    name: str
    versions: tuple[str, ...]
    shares: tuple[float, ...]
    sticky: Sticky
    since_ns: int
    until_ns: int = 0
    started_by: str = ""


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    """What an event says of it; events from before there were arms say less."""

    model: str
    stable: str = ""
    arms: tuple[ArmOrder, ...] = ()
    sticky: Sticky = "request"
    experiment: str = ""


def experiment_runs(events: Iterable[Entry]) -> list[ExperimentRun]:
    """Of one model. events: `registry:traffic:set` of it, oldest first."""
    runs: list[ExperimentRun] = []
    open_: ExperimentRun | None = None
    for event in events:
        at_ns = int(event.at_ns)
        wanted = _run(msgspec.convert(event.after, _Told, strict=False), at_ns, event.actor)
        if open_ is not None and wanted is not None and _is_same(open_, wanted):
            continue
        if open_ is not None:
            runs.append(msgspec.structs.replace(open_, until_ns=at_ns))
        open_ = wanted
    return [*runs, open_] if open_ is not None else runs


def last_run(runs: Sequence[ExperimentRun], model: str, name: str = "") -> ExperimentRun:
    """The newest one of that name, or of any. Raises NotFound."""
    for run in reversed(runs):
        if name in ("", run.name):
            return run
    raise NotFound(f"{model} never had an experiment{f' {name!r}' if name else ''}")


def routed_epochs(
    run: ExperimentRun, told: Iterable[tuple[int, TrafficPolicy | None]]
) -> tuple[tuple[int, int], ...]:
    """First and last epoch of each time in which gateways routed by exactly this run's shares.

    told: the model's policies and the epochs that they were in force from, oldest first. A version
    that was still starting had no share yet: what was answered until then is left out.
    """
    found: list[tuple[int, int]] = []
    first: int | None = None
    for epoch, policy in told:
        is_routed = policy is not None and _is_routed(run, policy)
        if first is not None and not is_routed:
            found.append((first, epoch - 1))
            first = None
        elif first is None and is_routed:
            first = epoch
    return (*found, (first, LAST_EPOCH)) if first is not None else tuple(found)


def _is_routed(run: ExperimentRun, policy: TrafficPolicy) -> bool:
    weights = (FULL - sum(arm.weight for arm in policy.arms), *(arm.weight for arm in policy.arms))
    versions = (policy.stable, *(arm.version for arm in policy.arms))
    return (policy.experiment, policy.sticky, versions, weights) == (
        run.name,
        run.sticky,
        run.versions,
        tuple(map(whole, run.shares)),
    )


def _run(traffic: _Told, since_ns: int, actor: str) -> ExperimentRun | None:
    """None without an experiment."""
    if not traffic.experiment:
        return None
    weights = [arm.weight for arm in traffic.arms]
    return ExperimentRun(
        model=traffic.model,
        name=traffic.experiment,
        versions=(traffic.stable, *(arm.version for arm in traffic.arms)),
        shares=(round(1 - sum(weights), 4), *weights),
        sticky=traffic.sticky,
        since_ns=since_ns,
        started_by=actor,
    )


def _is_same(one: ExperimentRun, other: ExperimentRun) -> bool:
    return (one.name, one.versions, one.shares, one.sticky) == (
        other.name,
        other.versions,
        other.shares,
        other.sticky,
    )
