"""The desired state as the registry has it: traffic rows, and what may run of what they name.

Read again every `period_s`, and at once after `nudge`; the database is asked in a thread that is not
the event loop's. What a row says is not believed by itself: a version that is in no state to serve,
or whose release does not verify, is refused with the reason (`Desired.refusals`), and each new refusal
is an event of the audit trail. While the database is away the last known state stays as it is: nothing
is deployed, deleted or moved that was not known before; before it was there for the first time nothing
is known.

A deprecated version whose sunset has come answers no more, whatever the traffic rows say: it was
announced. Retiring it formally is still somebody's act.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog
from sqlalchemy import Connection

from serving.audit.events import Event, EventName
from serving.control.desired import Desired
from serving.control.ensembles import stages_of
from serving.core.actors import product
from serving.core.clock import Clock
from serving.core.models import ModelName, ModelVersion, VersionName
from serving.core.traffic import Arm, Deprecation, Shadow, Tombstone, TrafficPolicy
from serving.errors import RegistryUnavailable, ReleaseRefused, ServingError
from serving.inference.plans import ApplicationPlan
from serving.registry import rows
from serving.registry.entities import Ending, RegisteredVersion, Scale, Traffic
from serving.registry.lifecycle import SERVING, State
from serving.registry.shares import ShadowOrder, whole
from serving.storage.database import Database
from serving.storage.worker import Worker

logger = structlog.get_logger()

MAY_SERVE: Final = SERVING | {State.DEPRECATED}
MOST_TOMBSTONES: Final = 10_000
"""The latest ones; gateways hold them all."""


@dataclass(frozen=True, slots=True)
class CheckedRelease:
    """A release that holds. path: of its file. is_local: nobody but the local policy agreed to it."""

    path: str
    is_local: bool = False


class Releases(Protocol):
    """Says whether a version may run: `control.releases.ReleaseFiles`."""

    def check(self, connection: Connection, version: RegisteredVersion) -> CheckedRelease:
        """Its release, verified and written. Raises ReleaseRefused."""


@dataclass(frozen=True, slots=True)
class Office:
    """What is read, once there is a database.

    record: writes an event, and tells webhooks of it. left_out: as in `Desired`. tend: called after
    each reading of a registry that has retired versions.
    """

    database: Database
    releases: Releases
    record: Callable[[Connection, Event], object]
    left_out: tuple[tuple[str, str], ...] = ()
    tend: Callable[[], None] = lambda: None


PlanOf = Callable[[RegisteredVersion, Scale, str], ApplicationPlan]
"""From a version, how often it runs, and the path of its release."""


@dataclass(slots=True)
class _Reading:
    """What is found while one state of the database is read."""

    plans: dict[str, ApplicationPlan] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    policies: list[TrafficPolicy] = field(default_factory=list)
    local: list[str] = field(default_factory=list)
    warm: list[str] = field(default_factory=list)
    ensembles: dict[str, ModelVersion] = field(default_factory=dict)


class RegistrySource:
    """Fits `control.desired.DesiredSource`. Built on the loop; `run` is one task."""

    def __init__(
        self,
        open_office: Callable[[], Office],
        worker: Worker,
        *,
        plan_of: PlanOf,
        clock: Clock,
        held: Collection[str] = (),
        period_s: float = 1.0,
    ) -> None:
        """open_office: called in the worker's thread until it succeeds. held: versions, as
        `model@version`, that answered when control ended last."""
        self.current: Desired | None = None
        self.trouble = ""
        self._open_office = open_office
        self._office: Office | None = None
        self._worker = worker
        self._plan_of = plan_of
        self._clock = clock
        self._held = frozenset(held)
        self._period_s = period_s
        self._told: dict[str, str] = {}
        self._nudged = asyncio.Event()
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled. Raises what stops a start: see `read`."""
        while True:
            self._nudged.clear()
            await self.read()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._nudged.wait(), self._period_s)

    async def read(self) -> None:
        """Looks once. Raises what makes it impossible to begin, but for a database that is away."""
        desired, trouble = self.current, ""
        try:
            desired = await self._worker.run(self._look)
        except ServingError as error:
            if self._office is None and not isinstance(error, RegistryUnavailable):
                raise
            trouble = error.message
        if trouble and not self.trouble:
            logger.warning("the registry cannot be read; what is known stays", reason=trouble)
        if (desired, trouble) != (self.current, self.trouble):
            self.current, self.trouble = desired, trouble
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    async def note_refusal(self, key: str, reason: str) -> None:
        """Writes into the audit trail what a replica found: that it must not run a version."""
        try:
            await self._worker.run(lambda: self._write_refusal(key, reason))
        except ServingError as error:
            logger.warning("a refusal is not in the audit trail", model=key, reason=error.message)
        self.nudge()

    def nudge(self) -> None:
        """Something was changed: looks now."""
        self._nudged.set()

    async def changed(self) -> None:
        await self._changed.wait()

    # -- in the worker's thread ------------------------------------------------------------------

    def _look(self) -> Desired:
        if self._office is None:
            self._office = self._open_office()
        office = self._office
        desired = office.database.read(lambda connection: self._read(connection, office))
        self._tell(desired.refusals, office)
        if desired.tombstones:
            office.tend()
        return desired

    def _read(self, connection: Connection, office: Office) -> Desired:
        reading = _Reading()
        ends = rows.endings(connection)
        now_ns = self._clock.wall_ns()
        over = {_key(each) for each in ends if _is_over(each, now_ns)}
        for traffic in rows.all_traffic(connection):
            if traffic.stable and f"{traffic.model}@{traffic.stable}" not in over:
                self._read_traffic(connection, traffic, reading, office=office, over=over)
        return Desired(
            plans=tuple(reading.plans.values()),
            policies=tuple(reading.policies),
            left_out=office.left_out,
            refusals=reading.refusals,
            local=tuple(reading.local),
            warm=tuple(reading.warm),
            ensembles=tuple(reading.ensembles.values()),
            spares=self._spares(connection, reading, office),
            deprecations=tuple(_deprecation(each) for each in ends if _key(each) not in over),
            tombstones=_tombstones(each for each in ends if _key(each) in over),
            tenants=tuple((ModelName(m), tenant) for m, tenant in rows.owned_models(connection)),
        )

    def _read_traffic(
        self,
        connection: Connection,
        traffic: Traffic,
        reading: _Reading,
        *,
        office: Office,
        over: Collection[str],
    ) -> None:
        lasting = [name for name in traffic.versions if f"{traffic.model}@{name}" not in over]
        reading.policies.append(_policy(traffic, lasting))
        for name in lasting:
            version = rows.find_version(connection, traffic.model, name)
            if version is None or version.state not in MAY_SERVE:
                state = "not registered" if version is None else f"{version.state}"
                reason = f"traffic names it, but it is {state}"
                reading.refusals[f"{traffic.model}@{name}"] = reason
                continue
            self._read_version(connection, version, reading, office=office, scale=traffic.scale)
        now_ns = self._clock.wall_ns()
        for warm in traffic.warm:
            version = rows.find_version(connection, traffic.model, warm.version)
            if warm.until_ns <= now_ns or warm.version in lasting or version is None:
                continue
            if version.state in MAY_SERVE | {State.APPROVED} and version.key not in over:
                self._read_version(connection, version, reading, office=office, scale=traffic.scale)
                reading.warm.append(version.key)

    def _read_version(
        self,
        connection: Connection,
        version: RegisteredVersion,
        reading: _Reading,
        *,
        office: Office,
        scale: Scale,
    ) -> None:
        """Its plan, or why there is none."""
        try:
            release = office.releases.check(connection, version)
        except ReleaseRefused as error:
            reading.refusals[version.key] = error.message
            return
        if version.definition.stages:
            reason = self._read_stages(connection, version.definition, reading, office=office)
            if reason:
                reading.refusals[version.key] = reason
                return
            reading.ensembles[version.key] = version.definition
        else:
            reading.plans[version.key] = self._plan_of(version, scale, release.path)
        if release.is_local:
            reading.local.append(version.key)

    def _read_stages(
        self, connection: Connection, ensemble: ModelVersion, reading: _Reading, *, office: Office
    ) -> str:
        """Plans of an ensemble's stages. Why one of them must not run; nothing when all may."""
        plans = {}
        for version, reason in stages_of(connection, ensemble, now_ns=self._clock.wall_ns()):
            if version is None or reason:
                return reason
            try:
                release = office.releases.check(connection, version)
            except ReleaseRefused as error:
                return f"stage {version.key}: {error.message}"
            scale = rows.traffic_of(connection, version.model).scale
            plans[version.key] = self._plan_of(version, scale, release.path)
        reading.plans |= plans
        return ""

    def _spares(
        self, connection: Connection, reading: _Reading, office: Office
    ) -> tuple[ApplicationPlan, ...]:
        """Plans of what answered last and nobody wants any more, where it may still run."""
        found = []
        for key in sorted(self._held - reading.plans.keys() - reading.refusals.keys()):
            model, _, name = key.rpartition("@")
            version = rows.find_version(connection, model, name)
            if version is None or version.state not in MAY_SERVE | {State.APPROVED}:
                continue
            if version.definition.stages:
                continue
            with contextlib.suppress(ReleaseRefused):
                path = office.releases.check(connection, version).path
                scale = rows.traffic_of(connection, model).scale
                found.append(self._plan_of(version, scale, path))
        return tuple(found)

    def _write_refusal(self, key: str, reason: str) -> None:
        office = self._office
        if office is None:
            raise RegistryUnavailable("the registry's database was not reached since the start")
        event = Event.by(
            product("replica"), EventName.REPLICA_REFUSED, f"version:{key}", reason=reason
        )
        office.database.run(lambda connection: office.record(connection, event))

    def _tell(self, refusals: Mapping[str, str], office: Office) -> None:
        """Writes each new refusal into the audit trail, once."""
        fresh = {key: it for key, it in refusals.items() if self._told.get(key) != it}
        self._told = {key: it for key, it in self._told.items() if key in refusals}
        if not fresh:
            return
        for key, reason in fresh.items():
            logger.error("a version must not run", model=key, reason=reason)

        def write(connection: Connection) -> None:
            for key, reason in fresh.items():
                office.record(
                    connection,
                    Event.by(
                        product("control"),
                        EventName.RELEASE_REFUSED,
                        f"version:{key}",
                        reason=reason,
                    ),
                )

        office.database.run(write)
        self._told |= fresh


def _budget(shadow: ShadowOrder) -> int | None:
    return None if shadow.budget is None else whole(shadow.budget)


def _policy(traffic: Traffic, lasting: Collection[str]) -> TrafficPolicy:
    """As gateways get it. lasting: versions that have not ended."""
    return TrafficPolicy(
        model=ModelName(traffic.model),
        stable=VersionName(traffic.stable),
        shadows=tuple(
            Shadow(VersionName(each.version), whole(each.share), _budget(each), each.segments)
            for each in traffic.shadows
            if each.version in lasting
        ),
        arms=tuple(
            Arm(VersionName(each.version), whole(each.weight))
            for each in traffic.arms
            if each.version in lasting
        ),
        sticky=traffic.sticky,
        salt=traffic.salt or traffic.experiment or traffic.model,
        testers=traffic.testers,
        experiment=traffic.experiment,
    )


def _key(version: Ending) -> str:
    return f"{version.model}@{version.version}"


def _is_over(version: Ending, now_ns: int) -> bool:
    return version.state is State.RETIRED or 0 < version.sunset_ns <= now_ns


def _deprecation(version: Ending) -> Deprecation:
    return Deprecation(
        ModelName(version.model),
        VersionName(version.version),
        since_s=version.deprecated_ns // 10**9,
        sunset_s=version.sunset_ns // 10**9,
        successor=_successor(version),
    )


def _tombstones(versions: Iterable[Ending]) -> tuple[Tombstone, ...]:
    found = [
        Tombstone(
            ModelName(each.model),
            VersionName(each.version),
            retired_s=(each.retired_ns or each.sunset_ns) // 10**9,
            successor=_successor(each),
        )
        for each in versions
    ]
    return tuple(sorted(found, key=lambda it: (it.retired_s, it.model, it.version)))[
        -MOST_TOMBSTONES:
    ]


def _successor(version: Ending) -> str:
    """As `model@version`."""
    successor = version.successor
    return f"{version.model}@{successor}" if successor and "@" not in successor else successor
