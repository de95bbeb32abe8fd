"""Ensembles in the control plane: registered by their stages, deployed as these, published as one."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection, update

from serving.audit.log import AuditLog
from serving.control.desired import Desired
from serving.control.ensembles import examine
from serving.control.register import CheckedRelease, Office, RegistrySource
from serving.control.rollout import SETTLE_S, Rollout
from serving.core.clock import ManualClock
from serving.core.models import Digest, ModelName, ModelVersion, Stage, VersionName
from serving.core.traffic import TrafficPolicy
from serving.errors import DigestChanged, ParameterInvalid, ReleaseRefused, TransitionRefused
from serving.inference.plans import ApplicationPlan
from serving.registry import rows, tables
from serving.registry.entities import RegisteredVersion, Scale
from serving.registry.lifecycle import Step
from serving.storage.database import Database
from serving.storage.worker import Worker
from serving.storage_settings import RegistrySettings
from tests.plans import a_plan, a_version, an_endpoint, an_order
from tests.registries import DEFINITION, RegistryStand, person

STAGES = [
    {
        "name": "scoring",
        "model": "fraud",
        "version": "1",
        "inputs": {"x": "x"},
        "outputs": {"y": "y"},
    }
]


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[RegistryStand]:
    """`fraud` with version 1 approved, and the model `combo` without any version."""
    clock = ManualClock()
    database = Database.open(RegistrySettings(), tmp_path, clock=clock)
    stand = RegistryStand(database, clock=clock)
    stand.model("fraud")
    stand.approved("1")
    stand.model("combo")
    yield stand
    database.close()


def register(stand: RegistryStand, **order: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"version": "1", "definition": DEFINITION | {"stages": STAGES}}
    answer = stand.order("register_version", values | order, arguments={"model": "combo"})
    found: dict[str, Any] = msgspec.json.decode(answer.content)
    return found


def first_of(stand: RegistryStand, model: str) -> RegisteredVersion:
    found = stand.run(lambda c: rows.find_version(c, model, "1"))
    assert found is not None
    return found


def serving(stand: RegistryStand) -> None:
    """The ensemble answers for its model."""
    register(stand)
    for step in (Step.VALIDATE, Step.APPROVE):
        stand.take(step, model="combo")
    stand.route("1", model="combo")


class Verdicts:
    """Releases that hold, but for those that a test refuses."""

    refused: tuple[str, ...] = ()

    def check(self, connection: Connection, version: RegisteredVersion) -> CheckedRelease:
        del connection
        if version.key in self.refused:
            raise ReleaseRefused("nobody approved")
        return CheckedRelease(f"/releases/{version.key}.json")


def plan_of(version: RegisteredVersion, scale: Scale, release: str) -> ApplicationPlan:
    del scale, release
    return ApplicationPlan(an_order(version.definition))


async def read(stand: RegistryStand, *refused: str) -> Desired:
    """What should run, with these releases refused."""
    verdicts, worker = Verdicts(), Worker(stand.clock)
    verdicts.refused = refused
    source = RegistrySource(
        lambda: Office(stand.database, verdicts, AuditLog(stand.clock).append),
        worker,
        plan_of=plan_of,
        clock=stand.clock,
    )
    try:
        await source.read()
    finally:
        worker.close()
    assert source.current is not None
    return source.current


def test_an_ensemble_is_registered_by_its_stages(stand: RegistryStand) -> None:
    """No artifact is uploaded: its digest is that of its stages, and a wrong one is refused."""
    found = register(stand)

    (stage,) = found["definition"]["stages"]
    assert (stage["name"], stage["model"], stage["version"]) == ("scoring", "fraud", "1")
    assert stage["digest"] == first_of(stand, "fraud").digest
    with pytest.raises(DigestChanged, match="the stages have the digest"):
        register(stand, version="2", digest="0" * 64)


def test_a_stage_must_be_there_for_whoever_registers(stand: RegistryStand) -> None:
    """What is not there, or another tenant's, is told in the same words."""
    unknown = [STAGES[0] | {"version": "9"}]

    with pytest.raises(ParameterInvalid, match=r"stages\.scoring: there is no version fraud@9"):
        register(stand, definition=DEFINITION | {"stages": unknown})
    owner, stranger = person("zoe", tenant="acme"), person("eve", tenant="other")
    stand.model("secret", actor=owner)
    stand.version(model="secret", actor=owner)
    assert stand.run(lambda c: stand.registry.stage(c, "secret", "1", actor=owner)) is not None
    assert stand.run(lambda c: stand.registry.stage(c, "secret", "1", actor=stranger)) is None


def test_its_inspection_looks_at_its_stages(stand: RegistryStand) -> None:
    """It passes without anything being loaded, and fails when a stage has ended."""
    register(stand)
    found = first_of(stand, "combo")

    passed = stand.run(lambda c: examine(c, found))
    stand.take(Step.DEPRECATE, model="fraud")
    stand.take(Step.RETIRE, model="fraud")
    failed = stand.run(lambda c: examine(c, found))

    assert (passed.passed, passed.runtime) == (True, "gateway")
    assert (failed.code, failed.reason) == ("stages", "stage scoring: fraud@1 is retired")


async def test_stages_run_because_the_ensemble_does(stand: RegistryStand) -> None:
    """The plans are those of its stages, which need no traffic; it has none itself."""
    serving(stand)

    desired = await read(stand)

    assert [plan.key for plan in desired.plans] == ["fraud@1"]
    assert [each.key for each in desired.ensembles] == ["combo@1"]
    assert [desired.role("fraud", "1"), desired.role("combo", "1")] == ["stage", "stable"]
    assert desired.refusals == {}


async def test_a_stage_that_must_not_run_refuses_the_ensemble(stand: RegistryStand) -> None:
    """A stage whose release does not hold is no part of anything that answers."""
    serving(stand)

    desired = await read(stand, "fraud@1")

    assert desired.refusals == {"combo@1": "stage fraud@1: nobody approved"}
    assert (desired.plans, desired.ensembles) == ((), ())


async def test_a_stage_that_was_exchanged_refuses_the_ensemble(stand: RegistryStand) -> None:
    """A row of the database with another digest is not what was agreed to."""
    serving(stand)
    with stand.database.transaction() as connection:
        found = rows.find_version(connection, "fraud", "1")
        assert found is not None
        changed = replace(found.definition, digest=Digest("cd" * 32))
        values = {"definition": msgspec.to_builtins(changed), "digest": changed.digest}
        connection.execute(
            update(tables.versions).where(tables.versions.c.model == "fraud").values(values)
        )

    desired = await read(stand)

    assert "another digest than the ensemble names" in desired.refusals["combo@1"]


def test_a_stage_with_traffic_behind_it_is_not_retired(stand: RegistryStand) -> None:
    """Who would end it is told whose stage it is."""
    serving(stand)
    stand.take(Step.DEPRECATE, model="fraud")

    with pytest.raises(TransitionRefused, match="is a stage of combo@1, which gets traffic"):
        stand.take(Step.RETIRE, model="fraud")


def a_pair() -> ModelVersion:
    single = a_version()
    stage = Stage("only", single.model, single.version, single.digest, (("x", "x"),), (("y", "y"),))
    return replace(a_version("pair"), stages=(stage,))


def wanting(*plans: ApplicationPlan, stable: str = "1") -> Desired:
    policy = TrafficPolicy(ModelName("pair"), VersionName(stable))
    return Desired(plans, (policy,), ensembles=(a_pair(),))


def test_an_ensemble_is_published_with_its_stages() -> None:
    """Gateways learn of the stages' versions as soon as they are live, though no policy names them."""
    clock = ManualClock()
    rollout = Rollout(drain_s=3, clock=clock, before=None)

    stage = rollout.look(wanting(a_plan()), [an_endpoint("a")])

    assert {version.key for version in stage.versions} == {"pair@1", "doubler@1"}
    assert stage.keys >= {"doubler@1"}


def test_an_ensemble_gets_traffic_when_its_stages_are_live() -> None:
    """As any version: connected first, then moved to."""
    clock = ManualClock()
    rollout = Rollout(drain_s=3, clock=clock, before=None)
    rollout.look(Desired(), [])

    assert rollout.look(wanting(a_plan()), []).policies == ()
    assert rollout.look(wanting(a_plan()), [an_endpoint("a")]).policies == ()
    clock.advance(SETTLE_S)

    assert rollout.look(wanting(a_plan()), [an_endpoint("a")]).policies[0].model == "pair"


def test_stages_stay_until_the_ensemble_has_drained() -> None:
    """What calls are on their way through is not taken from under them."""
    clock = ManualClock()
    rollout = Rollout(drain_s=3, clock=clock, before=None)
    rollout.look(wanting(a_plan()), [an_endpoint("a")])
    clock.advance(1)

    left = rollout.look(Desired(), [an_endpoint("a")])
    clock.advance(4)
    gone = rollout.look(Desired(), [an_endpoint("a")])

    assert {version.key for version in left.versions} == {"pair@1", "doubler@1"}
    assert gone.versions == ()


def test_an_ensemble_has_a_card_and_a_bill_of_materials(stand: RegistryStand) -> None:
    """Both are made for it as for any version; the bill lists its stages by digest."""
    register(stand)
    arguments = {"model": "combo", "version": "1"}

    bill = stand.ask("bom", arguments=arguments)
    stand.ask("card", arguments=arguments)

    assert first_of(stand, "fraud").digest in msgspec.json.encode(bill).decode()
