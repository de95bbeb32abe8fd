"""`serving status`."""

import asyncio

import msgspec

from serving.app.directory import DataDirectory
from serving.app.introspection import Introspection
from serving.app.ledger_status import LedgerStatus
from serving.app.monitor_status import ComparedPair, MonitorStatus
from serving.app.processes import CONTROL, LEDGER, MONITOR, gateway_names
from serving.cli.groups import AtDirectory, grouped
from serving.cli.options import running
from serving.cli.output import table
from serving.cli.shares import percent
from serving.control.status import ControlStatus, VersionStatus
from serving.predictionlog.writing.counts import LogStatistics
from serving.settings import Settings


class QueueStatus(msgspec.Struct, frozen=True):
    """One model version in one worker."""

    queued_rows: int
    replicas: int


class GatewayStatus(msgspec.Struct, frozen=True):
    """What a gateway worker says about itself."""

    epoch: int
    ready: bool
    not_ready: str | None
    in_flight: int
    connections: int
    queues: dict[str, QueueStatus]
    log: LogStatistics
    degraded: tuple[str, ...] = ()


class InstanceStatus(msgspec.Struct, frozen=True):
    """All that is known; None for a process that does not answer."""

    data_dir: str
    control: ControlStatus | None
    gateways: dict[str, GatewayStatus | None]
    ledger: LedgerStatus | None = None
    monitor: MonitorStatus | None = None


@grouped
def status(*, at: AtDirectory) -> None:
    """Show what runs: models, versions, replicas, queues, and where the prediction log stands.

    Asks the processes of the instance on this data directory directly; needs no token, only the
    right to read the directory.

    \b
    Examples:
      serving status
      serving status --data-dir /srv/a --json
    """
    found = asyncio.run(look(at.settings()))
    at.tell(found, lambda: describe(found))


async def look(settings: Settings) -> InstanceStatus:
    """Asks every process. Raises NotReady when nothing runs on the data directory."""
    directory = DataDirectory.at(settings.data_dir)
    names = gateway_names(running(directory))
    sockets = Introspection(
        {
            CONTROL: directory.control_socket,
            LEDGER: directory.ledger_socket,
            MONITOR: directory.monitor_socket,
            **{name: directory.gateway_socket(index) for index, name in enumerate(names)},
        }
    )
    try:
        control = await sockets.status(CONTROL, ControlStatus)
        gateways = {name: await sockets.status(name, GatewayStatus) for name in names}
        ledger = await sockets.status(LEDGER, LedgerStatus)
        monitor = await sockets.status(MONITOR, MonitorStatus)
    finally:
        await sockets.aclose()
    return InstanceStatus(str(directory.root), control, gateways, ledger, monitor)


def describe(found: InstanceStatus) -> str:
    """The same as text."""
    parts = [f"instance on {found.data_dir}"]
    if found.control is None:
        parts.append("the control process does not answer; gateways go on with what they know")
    else:
        parts.append(_versions(found.control))
        parts += [f"left out: {each.model}: {each.reason}" for each in found.control.left_out]
        parts += _drift(found.control)
    parts += [_gateways(found.gateways), _ledger(found.ledger), _monitor(found.monitor)]
    return "\n\n".join(parts)


def _versions(control: ControlStatus) -> str:
    rows = [_version_row(version) for version in control.versions]
    text = table(
        ("MODEL", "VERSION", "ROLE", "WEIGHT", "STATE", "REPLICAS", "ROWS", "BUSY", "DEVICE"), rows
    )
    failed = [f"{v.model}@{v.version}: {v.message}" for v in control.versions if v.message]
    return "\n".join([text, *failed])


def _drift(control: ControlStatus) -> list[str]:
    """Where what runs is not what should, and whether that is known at all."""
    parts = []
    if control.drift:
        rows = [
            (each.what, each.difference.replace("_", " "), each.detail) for each in control.drift
        ]
        parts.append(table(("DRIFT", "IS", "BECAUSE"), rows))
    if control.trouble:
        parts.append(f"the registry cannot be read, so this may be out of date: {control.trouble}")
    elif not control.known:
        parts.append("what should run is not known yet")
    return parts


def _version_row(version: VersionStatus) -> tuple[str, ...]:
    figures = [r.statistics for r in version.replicas if r.statistics is not None]
    busy = sum(each.busy_fraction for each in figures) / len(figures) if figures else 0.0
    wanted = str(version.min_replicas)
    if version.max_replicas > version.min_replicas:
        wanted = f"{version.min_replicas} to {version.max_replicas}"
    devices = {
        p.removesuffix("ExecutionProvider") for r in version.replicas for p in r.providers[:1]
    }
    return (
        version.model,
        version.version,
        version.role,
        percent(version.weight) if version.weight else "-",
        version.state,
        f"{len(version.replicas)} of {wanted}",
        str(sum(each.rows for each in figures)),
        f"{busy:.0%}",
        ",".join(sorted(devices)) or "-",
    )


def _gateways(gateways: dict[str, GatewayStatus | None]) -> str:
    rows = []
    for name, gateway in gateways.items():
        if gateway is None:
            rows.append((name, "no answer", "-", "-", "-", "-"))
            continue
        queued = sum(queue.queued_rows for queue in gateway.queues.values())
        rows.append(
            (
                name,
                _readiness(gateway),
                str(gateway.connections),
                str(gateway.in_flight),
                str(queued),
                _log_position(gateway.log),
            )
        )
    return table(("GATEWAY", "READY", "CONNECTIONS", "IN FLIGHT", "QUEUED ROWS", "LOG"), rows)


def _readiness(gateway: GatewayStatus) -> str:
    if not gateway.ready:
        return f"no: {gateway.not_ready}"
    return "; ".join(("yes", *gateway.degraded))


def _log_position(log: LogStatistics) -> str:
    text = f"{log.records} records, {log.bytes / 2**20:.1f} MiB, {log.pending_records} pending"
    troubles = [
        f"{log.failed_records} failed" if log.failed_records else "",
        f"{log.suspect_segments} suspect segments" if log.suspect_segments else "",
        f"refuses: {log.refusal}" if log.refusal else "",
    ]
    return ", ".join([text, *(trouble for trouble in troubles if trouble)])


def _ledger(ledger: LedgerStatus | None) -> str:
    if ledger is None:
        return "the ledger process does not answer; the log goes on without it"
    rows = [
        (each.name, str(each.runs), f"{each.seconds:.1f} s", each.error or "ok")
        for each in ledger.jobs
    ]
    tables = (
        f"{ledger.files} table files, {ledger.cold_bytes / 2**20:.1f} MiB; "
        f"{ledger.waiting_segments} segments wait"
    )
    damaged = f"; {ledger.damaged_segments} damaged" if ledger.damaged_segments else ""
    return f"{table(('LEDGER JOB', 'RUNS', 'LAST', 'RESULT'), rows)}\n{tables}{damaged}"


def _monitor(monitor: MonitorStatus | None) -> str:
    if monitor is None:
        return "the monitor process does not answer; candidates are compared later"
    trouble = f"\nthe monitor is in trouble: {monitor.error}" if monitor.error else ""
    if not monitor.comparisons:
        return f"no candidate is being compared{trouble}"
    heads = ("COMPARED", "WITH", "PAIRS", "DISAGREE", "GAP", "SHARE", "SAYS", "BECAUSE")
    rows = [_compared(each) for each in monitor.comparisons]
    lag = f"{monitor.lag_seconds:.1f} s behind the log; {monitor.waiting} answers wait for outcomes"
    return f"{table(heads, rows)}\n{lag}{trouble}"


def _compared(pair: ComparedPair) -> tuple[str, ...]:
    return (
        f"{pair.model}@{pair.candidate}",
        pair.primary,
        str(pair.pairs),
        "-" if pair.disagreement is None else f"{pair.disagreement:.2%}",
        "-" if pair.gap is None else f"{pair.gap:.2%}",
        f"{pair.share:.0%}",
        pair.outcome,
        pair.reason,
    )
