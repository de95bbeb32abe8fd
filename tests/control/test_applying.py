"""A file of deployments against what the registry has: planned exactly, made as planned."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from serving.audit.log import AuditLog
from serving.control.applying import Applying
from serving.control.changes import ApplyOrder
from serving.core.actors import Actor, product
from serving.core.clock import ManualClock
from serving.errors import ArtifactMissing, Forbidden, ParameterInvalid, ServingError
from serving.registry.entities import ModelFacts, Traffic
from serving.registry.journal import Unguarded
from serving.registry.lifecycle import Step
from serving.registry.orders import ModelOrder, Search, StateOrder
from serving.registry.service import Registry
from serving.settings import Deployment
from serving.storage.database import Database
from serving.storage_settings import RegistrySettings
from tests.plans import a_version

US = product("tests")
ONE: dict[str, Any] = {"model": "doubler", "stable": "1"}
TWO: dict[str, Any] = {"model": "doubler", "stable": "2", "min_replicas": 2, "max_replicas": 2}


@dataclass
class Shelf:
    """Versions that can be had from a folder, as a test says. waiting: those that take people."""

    registry: Registry
    database: Database
    absent: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)

    def obstacle(self, model: str, version: str) -> ServingError | None:
        key = f"{model}@{version}"
        return ArtifactMissing(f"{key} is not there") if key in self.absent else None

    def admit(self, deployment: Deployment, version: str, *, actor: Actor) -> str:
        del actor
        key = (deployment.model, version)
        with self.database.transaction() as connection:
            if not self.registry.search(connection, Search(), actor=US).models:
                order = ModelOrder(name=deployment.model, facts=ModelFacts(owner="grace"))
                self.registry.register_model(connection, order, actor=US)
            self.registry.register_version(connection, a_version(*key), actor=US)
            if f"{deployment.model}@{version}" in self.waiting:
                return "2 people"
            for step in (Step.VALIDATE, Step.APPROVE):
                order_ = StateOrder(step=step, reason="good")
                self.registry.change_state(connection, key, order=order_, actor=US)
        return ""


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    clock = ManualClock()
    database = Database.open(RegistrySettings(), tmp_path, clock=clock)
    yield Shelf(Registry(AuditLog(clock), Unguarded(), clock), database)
    database.close()


@pytest.fixture
def applying(shelf: Shelf) -> Applying:
    return Applying(shelf.database, shelf.registry, shelf)


def order(*deployments: dict[str, Any], **more: Any) -> ApplyOrder:
    return ApplyOrder(deployments=list(deployments), **more)


def traffic(shelf: Shelf) -> Traffic:
    return shelf.database.read(lambda c: shelf.registry.traffic(c, "doubler", actor=US))


def kinds(applied: Any) -> list[tuple[str, str]]:
    return [(step.kind, step.what) for step in applied.steps]


def test_plan_changes_nothing(applying: Applying, shelf: Shelf) -> None:
    """What would be done, in order; nothing of it is there afterwards."""
    planned = applying.run(order(ONE, plan_only=True), actor=US)

    assert kinds(planned) == [("admit", "doubler@1"), ("traffic", "doubler")]
    assert not planned.made
    assert applying.run(order(ONE, plan_only=True), actor=US) == planned


def test_applying_twice_is_applying_once(applying: Applying, shelf: Shelf) -> None:
    """The second plan is empty; another version, or scale, is a change again."""
    applying.run(order(ONE), actor=US)
    again = applying.run(order(ONE), actor=US)
    changed = applying.run(order(TWO), actor=US)

    assert again.steps == ()
    assert kinds(changed) == [("admit", "doubler@2"), ("traffic", "doubler")]
    assert (traffic(shelf).stable, traffic(shelf).scale.min_replicas) == ("2", 2)
    assert traffic(shelf).revision == 2


def test_version_that_takes_people_keeps_the_traffic_as_it_is(
    applying: Applying, shelf: Shelf
) -> None:
    """It is registered, it is said what is missing, and the last good version goes on."""
    applying.run(order(ONE), actor=US)
    shelf.waiting.add("doubler@2")

    applied = applying.run(order(TWO), actor=US)

    assert [(step.kind, step.detail) for step in applied.steps] == [("blocked", "2 people")]
    assert traffic(shelf).stable == "1"


def test_artifact_that_is_not_there_leaves_an_optional_model_out(
    applying: Applying, shelf: Shelf
) -> None:
    """With a word; what is not optional stops the whole."""
    shelf.absent.add("doubler@1")

    left = applying.run(order({**ONE, "optional": True}), actor=US)

    assert (left.steps, left.left_out) == ((), (("doubler", "doubler@1 is not there"),))
    with pytest.raises(ArtifactMissing):
        applying.run(order(ONE), actor=US)


def test_pruning_takes_the_traffic_of_what_is_not_named(applying: Applying, shelf: Shelf) -> None:
    """Only when it is asked for."""
    applying.run(order(ONE), actor=US)

    kept = applying.run(order(), actor=US)
    pruned = applying.run(order(prune=True), actor=US)

    assert (kept.steps, kinds(pruned)) == ((), [("traffic", "doubler")])
    assert traffic(shelf).stable == ""


def test_nobody_applies_what_they_may_not_operate(applying: Applying, shelf: Shelf) -> None:
    """Every model of the file is asked about, by the tenant that it belongs to."""
    stranger = Actor("eve", reach=lambda _action, _model, tenant: tenant == "evil")

    with pytest.raises(Forbidden):
        applying.run(order(ONE), actor=stranger)


@pytest.mark.parametrize("wrong", [{"model": "doubler"}, {**ONE, "replicas": 3}])
def test_file_with_a_mistake_is_refused_whole(applying: Applying, wrong: dict[str, Any]) -> None:
    """A field that is missing, or that there is none of, is named."""
    with pytest.raises(ParameterInvalid, match="deployments: "):
        applying.run(order(wrong), actor=US)
    with pytest.raises(ParameterInvalid, match="once"):
        applying.run(order(ONE, ONE), actor=US)
