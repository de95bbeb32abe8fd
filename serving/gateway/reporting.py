"""What this worker counted of each version, told to the control plane every second.

Nothing waits for a report, and one that is lost is made good by the next: counts grow from the start
of the worker on. Everything is read from the counters that Prometheus shows; only which part a version
had when it answered is noted here, with every snapshot.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import accumulate
from typing import Final

import httpx
import msgspec
import structlog

from serving.access.ownports import trust_in, url_of
from serving.core.clock import Clock
from serving.core.predictions import Fate
from serving.core.reports import GatewayReport, Role, VersionCounts
from serving.core.traffic import FULL, TrafficPolicy
from serving.telemetry.families import GatewayMetrics, VersionMetrics
from serving.telemetry.metrics import Labels
from serving.tls_settings import PortSettings

logger = structlog.get_logger()

PERIOD_S: Final = 1.0
PATH: Final = "/internal/reports"
COST_SECONDS: Final = 60.0
"""How long the past counts in the cost of a candidate."""
_TIMEOUT_S: Final = 5.0
_FAILURES: Final = tuple(fate for fate in Fate if fate is not Fate.OK)

Version = tuple[str, str]


class Tally:
    """The counts of one worker. worker: its name."""

    def __init__(self, metrics: GatewayMetrics, *, worker: str, clock: Clock) -> None:
        self._metrics = metrics
        self._worker = worker
        self._clock = clock
        self._started_ns = clock.wall_ns()
        self._policies: tuple[TrafficPolicy, ...] = ()
        self._roles: dict[Version, Role] = {}
        self._begun: dict[Version, tuple[VersionMetrics, VersionCounts]] = {}
        self._ended: dict[tuple[str, str, Role], VersionCounts] = {}
        self._costs: dict[Labels, tuple[float, float]] = {}
        self._seen: dict[VersionMetrics, float] = {}

    def apply(self, policies: tuple[TrafficPolicy, ...]) -> None:
        """From here on versions have the parts that these policies give them."""
        self._policies = policies
        for policy in policies:
            self._begin((policy.model, policy.stable), "stable")
            for arm in policy.arms:
                self._begin((policy.model, arm.version), "canary")

    def report(self, epoch: int) -> GatewayReport:
        counts = [
            counted
            for (model, version, role), metrics in self._metrics.versions().items()
            for counted in self._counts(model, version, role, metrics)
        ]
        return GatewayReport(
            worker=self._worker,
            started_ns=self._started_ns,
            at_ns=self._clock.wall_ns(),
            epoch=epoch,
            versions=tuple(counts),
        )

    def weights(self) -> dict[Labels, float]:
        """The share of its model's requests that each version is to answer."""
        return {
            (policy.model, version): policy.weight_of(version) / FULL
            for policy in self._policies
            for version in (policy.stable, *(arm.version for arm in policy.arms))
        }

    def costs(self) -> dict[Labels, float]:
        """Model time of each candidate's copies as a share of the stable version's."""
        return {key: cost / base for key, (cost, base) in self._costs.items() if base}

    def look(self) -> None:
        """Brings the costs up to date; called once a period."""
        keep = 1 - PERIOD_S / COST_SECONDS
        fresh: dict[Labels, tuple[float, float]] = {}
        spent: dict[VersionMetrics, float] = {}
        for policy in self._policies:
            base_s = self._lately((policy.model, policy.stable), "primary", spent)
            for shadow in policy.shadows:
                key = (policy.model, shadow.version)
                cost, base = self._costs.get(key, (0.0, 0.0))
                cost_s = self._lately(key, "shadow", spent)
                fresh[key] = (cost * keep + cost_s, base * keep + base_s)
        self._costs, self._seen = fresh, spent

    # -- inside ----------------------------------------------------------------------------------

    def _lately(self, key: Version, role: str, spent: dict[VersionMetrics, float]) -> float:
        """Model seconds since the last look."""
        metrics = self._metrics.versions().get((*key, role))
        if metrics is None:
            return 0.0
        spent[metrics] = now_s = metrics.model_seconds.value
        return now_s - self._seen.get(metrics, now_s)

    def _begin(self, key: Version, role: Role) -> None:
        before = self._roles.get(key)
        if before == role:
            return
        metrics = self._metrics.versions().get((*key, "primary"))
        if before is not None and metrics is not None:
            self._ended[(*key, before)] = self._answered(key, before, metrics)
        if metrics is not None:
            self._begun[key] = metrics, _read(*key, role, metrics)
        self._roles[key] = role

    def _counts(
        self, model: str, version: str, role: str, metrics: VersionMetrics
    ) -> Iterable[VersionCounts]:
        if role != "primary":
            yield _read(model, version, "shadow" if role == "shadow" else "chosen", metrics)
            return
        now = self._roles.get((model, version), "stable")
        yield self._answered((model, version), now, metrics)
        other: Role = "canary" if now == "stable" else "stable"
        ended = self._ended.get((model, version, other))
        if ended is not None:
            yield ended

    def _answered(self, key: Version, role: Role, metrics: VersionMetrics) -> VersionCounts:
        """In one part: now, and whenever it had it before."""
        total = _read(*key, role, metrics)
        since, begun = self._begun.get(key, (metrics, None))
        if since is not metrics:
            # The version had left and came back: its counters began anew.
            self._begun.pop(key)
            for part in ("stable", "canary"):
                self._ended.pop((*key, part), None)
        elif begun is not None:
            total = total.since(begun)
        ended = self._ended.get((*key, role))
        return total if ended is None else total.plus(ended)


def _read(model: str, version: str, role: Role, metrics: VersionMetrics) -> VersionCounts:
    failed = {
        fate.name.lower(): int(metrics.requests[fate].value)
        for fate in _FAILURES
        if metrics.requests[fate].value
    }
    duration = metrics.duration
    return VersionCounts(
        model,
        version,
        role,
        generation=metrics.generation,
        ok=int(metrics.requests[Fate.OK].value),
        failed=failed,
        latency_buckets=tuple(accumulate(duration.counts)),
        latency_us_sum=round(duration.total * 1e6),
        run_us_sum=round(metrics.model_seconds.value * 1e6),
        rows=int(metrics.model_rows.value),
        mirrored=int(metrics.shadow_copies.value),
        dropped=int(sum(each.value for each in metrics.shadow_dropped.values())),
    )


class GatewayReporter:
    """The teller of one worker. port: of the control plane."""

    def __init__(
        self,
        tally: Tally,
        *,
        epoch: Callable[[], int],
        port: PortSettings,
        secret: str,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._tally = tally
        self._epoch = epoch
        self._port = port
        self._headers = {"Authorization": f"Bearer {secret}"}
        self._pause = pause

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._tell()
            except (httpx.HTTPError, OSError) as error:
                logger.debug("a report was not told", error=repr(error))
                await self._wait()

    async def _tell(self) -> None:
        """Until something fails; then the certificate may be another one."""
        async with httpx.AsyncClient(
            base_url=url_of(self._port),
            headers=self._headers,
            trust_env=False,
            verify=trust_in(self._port),
            timeout=_TIMEOUT_S,
        ) as client:
            while True:
                await self._wait()
                report = msgspec.json.encode(self._tally.report(self._epoch()))
                answer = await client.post(PATH, content=report)
                answer.raise_for_status()

    async def _wait(self) -> None:
        await self._pause(PERIOD_S)
        self._tally.look()
