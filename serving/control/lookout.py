"""What a conductor sees of a rollout: how its versions run, what gateways were told, what was counted.

Everything is asked anew at each look; what is remembered are counts to compare with, and which
candidates have been seen alive.
"""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Final, Protocol

from serving.control.canary import Sight, Window
from serving.control.status import ControlStatus, VersionStatus
from serving.core.clock import Clock
from serving.core.models import VersionName
from serving.core.reports import LATENCY_BOUNDS_S, Role, VersionCounts
from serving.core.traffic import FULL, Snapshot
from serving.governance.comparisons import ComparisonReport
from serving.governance.gates import Counts, Reading, read_comparison, read_figures
from serving.governance.rollout_book import Rollout
from serving.governance.rollout_states import SHARING
from serving.monitoring.figures import Figure
from serving.monitoring.specification import ComparisonSpecification
from serving.rollout_settings import RolloutSettings

LISTEN_S: Final = 3.0
"""Before counts are believed: after a start every gateway has told its own by then."""
UNSTATED: Final = ComparisonSpecification().digest()
"""Of a comparison whose limits nobody has stated: it is shown, and breaks no rollout by itself."""
NOT_YET: Final = Reading(
    gate="errors", status="insufficient", limit=0.0, detail="nothing counted yet"
)
FAULTS: Final = frozenset({"model_error", "timeout", "replica_lost", "invalid_output"})
"""Fates that count against a version; callers that went away or sent nonsense do not."""


class Floor(Protocol):
    """What runs and what gateways are told: `control.plane.Plane`."""

    def status(self) -> ControlStatus: ...
    def published(self) -> Snapshot: ...
    def look(self) -> None: ...


class Counted(Protocol):
    """`control.measures.Measures`."""

    def of(self, model: str, version: str, role: Role) -> VersionCounts: ...


@dataclass(frozen=True, slots=True)
class Senses:
    """What a conductor sees by. comparison: that of a candidate which goes on, by model and version.
    reread: reads the desired state anew, and says whether that worked."""

    floor: Floor
    measures: Counted
    comparison: Callable[[str, str], ComparisonReport | None]
    reread: Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Known:
    """A rollout as it was read last, whether its traffic is somebody else's by now, and why its
    candidate may not serve any more."""

    rollout: Rollout
    is_displaced: bool
    refusal: str = ""


class Lookout:
    """Owned by one event loop."""

    def __init__(self, senses: Senses, settings: RolloutSettings, clock: Clock) -> None:
        self._senses = senses
        self._settings = settings
        self._clock = clock
        self._began_ns = clock.monotonic_ns()
        self._windows: dict[str, Window] = {}
        self._stood: set[str] = set()

    def keep(self, ids: Collection[str]) -> None:
        """Forgets all other rollouts."""
        self._windows = {key: it for key, it in self._windows.items() if key in ids}
        self._stood &= set(ids)

    def look(self, known: Known) -> Sight:
        rollout = known.rollout
        status = {f"{row.model}@{row.version}": row for row in self._senses.floor.status().versions}
        candidate = status.get(rollout.key)
        live = _is_ready(candidate)
        stood = rollout.id in self._stood
        if live:
            self._stood.add(rollout.id)
        readings, requests = self._judged(rollout)
        return Sight(
            now_ns=self._clock.wall_ns(),
            live=live,
            stood=stood,
            stable_live=_is_ready(status.get(f"{rollout.model}@{rollout.stable}")),
            waited_s=self._waited_s(),
            published=self._published(rollout),
            refusal=known.refusal or _message(candidate, "refused"),
            failure=_message(candidate, "failed"),
            is_displaced=known.is_displaced,
            readings=tuple(readings),
            requests=requests,
        )

    def _waited_s(self) -> float:
        return (self._clock.monotonic_ns() - self._began_ns) / 1e9

    def _published(self, rollout: Rollout) -> float:
        for policy in self._senses.floor.published().policies:
            if policy.model == rollout.model:
                return policy.weight_of(VersionName(rollout.candidate)) / FULL
        return 0.0

    def _judged(self, rollout: Rollout) -> tuple[list[Reading], int]:
        """Gates as they are read now, and the candidate's requests of this step."""
        if self._waited_s() < LISTEN_S or rollout.state not in SHARING:
            return [NOT_YET], 0
        of = self._senses.measures.of
        seen = (
            counts_of(of(rollout.model, rollout.candidate, "canary")),
            counts_of(of(rollout.model, rollout.stable, "stable")),
        )
        window = self._windows.get(rollout.id)
        if window is None:
            window = self._windows[rollout.id] = Window(rollout.step, seen)
        now_ns = self._clock.monotonic_ns()
        window.move(rollout, now_ns, seen, recent_s=self._settings.recent_s)
        found, requests = window.readings(rollout, LATENCY_BOUNDS_S, alpha=self._settings.alpha)
        report = self._senses.comparison(rollout.model, rollout.candidate)
        figures: tuple[Figure, ...] = ()
        # One from before this step may have been made by rules that were changed for it.
        is_fresh = report is not None and report.at_ns >= rollout.since_ns
        if report is not None and is_fresh and report.primary == rollout.stable:
            figures = report.figures
            if report.specification_digest != UNSTATED:
                found.append(read_comparison(figures))
        return [*found, *read_figures(rollout.plan.limits, figures)], requests


def counts_of(counted: VersionCounts) -> Counts:
    """As gates take them."""
    failed = sum(count for fate, count in counted.failed.items() if fate in FAULTS)
    return Counts(counted.ok, failed, counted.latency_buckets)


def _is_ready(row: VersionStatus | None) -> bool:
    return row is not None and row.state == "ready"


def _message(row: VersionStatus | None, state: str) -> str:
    return (row.message or state) if row is not None and row.state == state else ""
