"""The registry's rows as what should run: believed as far as they are proved."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import Connection, select, update

from serving.audit.events import EventName
from serving.audit.log import AuditLog
from serving.audit.tables import events
from serving.control.register import CheckedRelease, Office, RegistrySource
from serving.core.actors import product
from serving.core.clock import ManualClock
from serving.core.models import VersionName
from serving.core.traffic import Arm, Deprecation, Segment, Shadow, Tombstone, TrafficPolicy
from serving.errors import ReleaseRefused
from serving.inference.plans import ApplicationPlan
from serving.registry import tables
from serving.registry.entities import ModelFacts, RegisteredVersion, Scale
from serving.registry.journal import Unguarded
from serving.registry.lifecycle import Step
from serving.registry.orders import ModelOrder, StateOrder, TrafficOrder
from serving.registry.service import Registry
from serving.registry.shares import ArmOrder, ShadowOrder, Warm
from serving.storage.database import Database
from serving.storage.worker import Worker
from serving.storage_settings import RegistrySettings
from tests.plans import a_version, an_order

US = product("tests")


@dataclass
class Verdicts:
    """Releases that hold, but for those that a test refuses."""

    refused: dict[str, str] = field(default_factory=dict)

    def check(self, connection: Connection, version: RegisteredVersion) -> CheckedRelease:
        del connection
        if version.key in self.refused:
            raise ReleaseRefused(self.refused[version.key])
        return CheckedRelease(f"/releases/{version.key}.json", is_local=True)


class Agency:
    """A registry with the model `doubler`, versions 1 and 2 approved, and the source that reads it."""

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        self.clock = clock
        self.database = Database.open(RegistrySettings(), folder, clock=clock)
        self.registry = Registry(AuditLog(clock), Unguarded(), clock)
        self.verdicts = Verdicts()
        self.worker = Worker(clock)
        self.source = self.reader()
        order = ModelOrder(name="doubler", facts=ModelFacts(owner="grace"))
        with self.database.transaction() as connection:
            self.registry.register_model(connection, order, actor=US, tenant="acme")
            for name in ("1", "2"):
                self.registry.register_version(connection, a_version(version=name), actor=US)
                for step in (Step.VALIDATE, Step.APPROVE):
                    self._take(connection, name, StateOrder(step=step, reason="good"))

    def reader(self, *held: str) -> RegistrySource:
        return RegistrySource(
            lambda: Office(self.database, self.verdicts, AuditLog(self.clock).append),
            self.worker,
            plan_of=plan_of,
            clock=self.clock,
            held=held,
            period_s=60,
        )

    def take(self, version: str, order: StateOrder) -> None:
        with self.database.transaction() as connection:
            self._take(connection, version, order)

    def route(self, order: TrafficOrder) -> None:
        with self.database.transaction() as connection:
            now = self.registry.traffic(connection, "doubler", actor=US)
            self.registry.set_traffic(
                connection, "doubler", order=order, actor=US, if_revision=now.revision
            )

    def told(self, name: EventName) -> list[str]:
        """Objects of the events of this name."""
        query = select(events.c.object).where(events.c.name == name.value)
        return self.database.read(lambda connection: list(connection.scalars(query)))

    def _take(self, connection: Connection, version: str, order: StateOrder) -> None:
        self.registry.change_state(connection, ("doubler", version), order=order, actor=US)


def plan_of(version: RegisteredVersion, scale: Scale, release: str) -> ApplicationPlan:
    assert release == f"/releases/{version.key}.json"
    return ApplicationPlan(
        an_order(version.definition),
        min_replicas=scale.min_replicas,
        max_replicas=scale.max_replicas,
    )


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def office(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Agency]:
    office = Agency(tmp_path, clock)
    yield office
    office.worker.close()
    office.database.close()


def keys(plans: tuple[ApplicationPlan, ...]) -> list[str]:
    return [plan.key for plan in plans]


async def test_shares_become_whole_numbers(office: Agency) -> None:
    """Weights, shares and budgets of the registry are ten-thousandths for gateways."""
    segment = Segment("tenant", "risk")
    office.route(
        TrafficOrder(
            stable="1",
            arms=(ArmOrder(version="2", weight=0.1),),
            shadows=(ShadowOrder(version="2", share=0.5, budget=0.2, segments=(segment,)),),
            sticky="principal",
            testers=("tess",),
            experiment="spring",
        )
    )

    await office.source.read()

    desired = office.source.current
    assert desired is not None
    (policy,) = desired.policies
    assert policy.arms == (Arm(VersionName("2"), 1000),)
    assert policy.shadows == (Shadow(VersionName("2"), 5000, 2000, (segment,)),)
    assert (policy.sticky, policy.salt, policy.testers) == ("principal", "spring", ("tess",))
    assert (desired.role("doubler", "1"), desired.role("doubler", "2")) == ("stable", "canary")


async def test_warm_versions_are_planned_until_their_time(
    office: Agency, clock: ManualClock
) -> None:
    """Deployed and ready without traffic, and not a moment longer."""
    until_ns = clock.wall_ns() + 10**9
    office.route(TrafficOrder(stable="1", warm=(Warm(version="2", until_ns=until_ns),)))
    await office.source.read()
    before = office.source.current
    clock.advance(1)
    await office.source.read()
    after = office.source.current

    assert before is not None
    assert after is not None
    assert (keys(before.plans), before.warm) == (["doubler@1", "doubler@2"], ("doubler@2",))
    assert before.policies == after.policies
    assert (before.role("doubler", "2"), keys(after.plans)) == ("warm", ["doubler@1"])


async def test_traffic_rows_become_plans_and_policies(office: Agency) -> None:
    """Who answers, who shadows, how often each runs, and whose model it is."""
    office.route(
        TrafficOrder(
            stable="1",
            shadows=(ShadowOrder(version="2"),),
            scale=Scale(min_replicas=2, max_replicas=3),
        )
    )

    await office.source.read()

    desired = office.source.current
    assert desired is not None
    assert keys(desired.plans) == ["doubler@1", "doubler@2"]
    assert desired.policies == (TrafficPolicy("doubler", "1", (Shadow("2"),), salt="doubler"),)  # type: ignore[arg-type]  # names
    assert [(plan.min_replicas, plan.max_replicas) for plan in desired.plans] == [(2, 3), (2, 3)]
    assert desired.tenants == (("doubler", "acme"),)
    assert (desired.refusals, desired.local) == ({}, ("doubler@1", "doubler@2"))


async def test_change_is_read_at_once_after_a_nudge(office: Agency) -> None:
    """Whoever waits for news gets them; a second look without any wakes nobody."""
    office.route(TrafficOrder(stable="1"))
    running = asyncio.create_task(office.source.run())
    await office.source.changed()
    first = office.source.current
    office.route(TrafficOrder(stable="2"))
    waiting = asyncio.create_task(office.source.changed())
    await asyncio.sleep(0)
    office.source.nudge()
    await asyncio.wait_for(waiting, 5)
    second = office.source.current
    await office.source.read()

    running.cancel()
    assert first is not None
    assert second is not None
    assert (keys(first.plans), keys(second.plans)) == (["doubler@1"], ["doubler@2"])
    assert office.source.current is not second or office.source.current == second


async def test_release_that_does_not_hold_is_refused_and_told_once(office: Agency) -> None:
    """No approved digest, no traffic; the reason is in the trail, once."""
    office.route(TrafficOrder(stable="1", shadows=(ShadowOrder(version="2"),)))
    office.verdicts.refused["doubler@2"] = "nobody approved"

    for _ in range(3):
        await office.source.read()

    desired = office.source.current
    assert desired is not None
    assert keys(desired.plans) == ["doubler@1"]
    assert desired.refusals == {"doubler@2": "nobody approved"}
    assert office.told(EventName.RELEASE_REFUSED) == ["version:doubler@2"]


@pytest.mark.parametrize(("named", "why"), [("9", "not registered"), ("2", "approved")])
async def test_n13_traffic_written_into_the_database_is_not_believed(
    office: Agency, named: str, why: str
) -> None:
    """A row that names what may not serve is refused, whoever wrote it there."""
    office.route(TrafficOrder(stable="1"))
    with office.database.transaction() as connection:
        connection.execute(update(tables.traffic).values(stable=named))

    await office.source.read()

    desired = office.source.current
    assert desired is not None
    assert (desired.plans, list(desired.refusals)) == ((), [f"doubler@{named}"])
    assert why in desired.refusals[f"doubler@{named}"]
    assert office.told(EventName.RELEASE_REFUSED) == [f"version:doubler@{named}"]


async def test_deprecated_version_answers_until_its_sunset(
    office: Agency, clock: ManualClock
) -> None:
    """Callers are told; on the day it is gone for them, whatever the traffic says."""
    now_ns = clock.wall_ns()
    office.route(TrafficOrder(stable="1", shadows=(ShadowOrder(version="2"),)))
    sunset_ns = now_ns + 60 * 10**9
    office.take(
        "1",
        StateOrder(step=Step.DEPRECATE, reason="old", sunset_ns=sunset_ns, successor="2"),
    )
    await office.source.read()
    before = office.source.current
    clock.advance(60)
    await office.source.read()
    after = office.source.current

    assert before is not None
    assert after is not None
    assert before.deprecations == (
        Deprecation("doubler", "1", now_ns // 10**9, sunset_ns // 10**9, "doubler@2"),  # type: ignore[arg-type]  # names
    )
    assert (keys(before.plans), before.tombstones) == (["doubler@1", "doubler@2"], ())
    assert (after.plans, after.policies, after.deprecations) == ((), (), ())
    assert after.tombstones == (
        Tombstone("doubler", "1", sunset_ns // 10**9, "doubler@2"),  # type: ignore[arg-type]  # names
    )


async def test_retired_version_leaves_a_tombstone(office: Agency, clock: ManualClock) -> None:
    """It stays, with the successor that was named."""
    office.take("1", StateOrder(step=Step.DEPRECATE, reason="old"))
    office.take("1", StateOrder(step=Step.RETIRE, reason="unused", successor="2"))

    await office.source.read()

    desired = office.source.current
    assert desired is not None
    assert [(each.version, each.successor) for each in desired.tombstones] == [("1", "doubler@2")]
    assert desired.tombstones[0].retired_s == clock.wall_ns() // 10**9


async def test_what_answered_before_a_restart_may_run_on(office: Agency) -> None:
    """The last good version is a spare for as long as nothing refuses it."""
    office.route(TrafficOrder(stable="1"))
    office.route(TrafficOrder(stable="2"))
    reader = office.reader("doubler@1", "doubler@2", "gone@1")
    await reader.read()
    office.verdicts.refused["doubler@1"] = "withdrawn"
    refused = office.reader("doubler@1")
    await refused.read()

    assert reader.current is not None
    assert refused.current is not None
    assert (keys(reader.current.plans), keys(reader.current.spares)) == (
        ["doubler@2"],
        ["doubler@1"],
    )
    assert refused.current.spares == ()


async def test_p20_database_that_is_away_changes_nothing(office: Agency, tmp_path: Path) -> None:
    """What is known stays and says that it may be old; when the database is back, all is well."""
    office.route(TrafficOrder(stable="1"))
    await office.source.read()
    before = office.source.current
    file = tmp_path / "registry.sqlite"
    file.rename(tmp_path / "away")
    await office.source.read()
    trouble = office.source.trouble
    (tmp_path / "away").rename(file)
    office.route(TrafficOrder(stable="2"))
    during = office.source.current
    await office.source.read()

    assert during is before
    assert "cannot be used" in trouble
    assert office.source.trouble == ""
    assert office.source.current is not None
    assert keys(office.source.current.plans) == ["doubler@2"]


async def test_source_that_never_read_knows_nothing(office: Agency, tmp_path: Path) -> None:
    """A start with the database away is no order to delete what runs."""
    file = tmp_path / "registry.sqlite"
    file.rename(tmp_path / "away")

    await office.source.read()

    assert office.source.current is None
    assert office.source.trouble
    (tmp_path / "away").rename(file)
