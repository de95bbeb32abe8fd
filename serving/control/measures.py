"""What the gateways of this installation counted together: the newest report of each, summed up.

A worker's counts begin anew when it starts again, those of a version when that leaves the worker and
comes back, be it between two reports; what was told by then is kept, so that sums never fall. What a
worker counted after its last report and before it died is missing.
"""

from serving.core.clock import Clock
from serving.core.reports import GatewayReport, Role, VersionCounts

Key = tuple[str, str, Role]


class Measures:
    """Sums over workers. Belongs to the event loop of control."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._newest: dict[str, GatewayReport] = {}
        self._heard_ns: dict[str, int] = {}
        self._past: dict[Key, VersionCounts] = {}

    def take(self, report: GatewayReport) -> None:
        """A worker tells; what is older than its last report is passed over."""
        before = self._newest.get(report.worker)
        if before is not None:
            if (report.started_ns, report.at_ns) < (before.started_ns, before.at_ns):
                return
            if report.started_ns != before.started_ns:
                for counts in before.versions:
                    self._keep(counts)
            else:
                self._keep_gone(before, report)
        self._newest[report.worker] = report
        self._heard_ns[report.worker] = self._clock.monotonic_ns()

    def of(self, model: str, version: str, role: Role) -> VersionCounts:
        """Everything counted so far; all zeros where nothing was."""
        key = (model, version, role)
        total = self._past.get(key) or VersionCounts(*key)
        for report in self._newest.values():
            for counts in report.versions:
                if _key(counts) == key:
                    total = total.plus(counts)
        return total

    def epochs(self, *, within_s: float) -> dict[str, int]:
        """By worker the epoch it routes by, of those heard of lately."""
        since_ns = self._clock.monotonic_ns() - round(within_s * 1e9)
        return {
            worker: report.epoch
            for worker, report in self._newest.items()
            if self._heard_ns[worker] >= since_ns
        }

    def _keep_gone(self, before: GatewayReport, report: GatewayReport) -> None:
        """What a worker no longer tells of, since the version has left it, and maybe come back."""
        told = {(_key(counts), counts.generation) for counts in report.versions}
        for counts in before.versions:
            if (_key(counts), counts.generation) not in told:
                self._keep(counts)

    def _keep(self, counts: VersionCounts) -> None:
        known = self._past.get(_key(counts))
        self._past[_key(counts)] = counts if known is None else known.plus(counts)


def _key(counts: VersionCounts) -> Key:
    return counts.model, counts.version, counts.role
