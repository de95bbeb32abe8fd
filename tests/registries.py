"""A registry on a real database, with people of several tenants who ask it for things."""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection

from serving.access.authorization import reach_of
from serving.audit.log import AuditLog
from serving.core.actors import Actor
from serving.core.calls import Answer, Call
from serving.core.clock import Clock, ManualClock
from serving.core.models import Digest, ModelName, ModelVersion, VersionName
from serving.core.principals import Principal, Role
from serving.core.tensors import TensorSpecification
from serving.registry.desk import RegistryDesk
from serving.registry.entities import (
    Alias,
    ModelFacts,
    ModelPage,
    RegisteredModel,
    RegisteredVersion,
    Traffic,
)
from serving.registry.journal import Guard, Unguarded
from serving.registry.lifecycle import Step
from serving.registry.orders import ModelOrder, Search, StateOrder, TrafficOrder
from serving.registry.service import Registry
from serving.registry.shares import ShadowOrder
from serving.storage.database import Database
from serving.storage.operations import Operations

Result = TypeVar("Result")

FACTS = ModelFacts(owner="ada", team="risk", purpose="Finds fraud.", tags={"area": "cards"})
DEFINITION: dict[str, Any] = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
}


def person(subject: str, *roles: Role, tenant: str = "") -> Actor:
    """Somebody with these roles, by default all that registering and operating takes."""
    held = frozenset(roles or (Role.DEVELOPER, Role.OPERATOR, Role.APPROVER))
    principal = Principal(subject, held, tenant=tenant)
    return Actor.of(principal, source="test", request_id="r-1", reach=reach_of(principal))


ADA = person("ada")
BOB = person("bob")


def version_of(model: str, version: str = "1", digest: str = "") -> ModelVersion:
    tensor = TensorSpecification("x", "FP32", (-1, 2))
    return ModelVersion(
        model=ModelName(model),
        version=VersionName(version),
        digest=Digest(digest or digest_of(version)),
        inputs=(tensor,),
        outputs=(TensorSpecification("y", "FP32", (-1,)),),
    )


def shadows_of(*versions: str) -> tuple[ShadowOrder, ...]:
    """Full copies for each."""
    return tuple(ShadowOrder(version=version) for version in versions)


def digest_of(version: str) -> str:
    return version.encode().hex().rjust(64, "0")


class FullShelf:
    """Every artifact was uploaded, but for one whose digest is all `f`."""

    def holds(self, digest: str) -> bool:
        return digest != "f" * 64

    def put(self, pieces: Iterable[bytes], *, expected: str = "") -> str:
        return expected or hashlib.sha256(b"".join(pieces)).hexdigest()


class RegistryStand:
    """A registry and short ways to use it."""

    def __init__(
        self, database: Database, *, guard: Guard | None = None, clock: Clock | None = None
    ) -> None:
        self.clock = clock or ManualClock()
        self.database = database
        self.audit = AuditLog(self.clock)
        self.registry = Registry(self.audit, guard or Unguarded(), self.clock)
        self.operations = Operations(database, self.clock)
        self.desk = RegistryDesk(self.registry, database, self.operations, shelf=FullShelf())

    def run(self, change: Callable[[Connection], Result]) -> Result:
        return self.database.run(change)

    def model(self, name: str = "fraud", *, actor: Actor = ADA, **facts: Any) -> RegisteredModel:
        order = ModelOrder(name=name, facts=msgspec.structs.replace(FACTS, **facts))
        return self.run(lambda c: self.registry.register_model(c, order, actor=actor))

    def version(
        self, version: str = "1", *, model: str = "fraud", actor: Actor = ADA, digest: str = ""
    ) -> RegisteredVersion:
        definition = version_of(model, version, digest)
        return self.run(lambda c: self.registry.register_version(c, definition, actor=actor))

    def take(
        self,
        step: Step,
        version: str = "1",
        *,
        model: str = "fraud",
        actor: Actor = ADA,
        if_revision: int | None = None,
        **order: Any,
    ) -> RegisteredVersion:
        asked = StateOrder(step=step, **{"reason": "because", **order})
        return self.run(
            lambda c: self.registry.change_state(
                c, (model, version), order=asked, actor=actor, if_revision=if_revision
            )
        )

    def approved(self, *versions: str, model: str = "fraud") -> None:
        """Registers versions and takes them as far as approval."""
        for version in versions:
            self.version(version, model=model)
            self.take(Step.VALIDATE, version, model=model)
            self.take(Step.APPROVE, version, model=model)

    def route(
        self,
        stable: str,
        *shadows: str,
        model: str = "fraud",
        actor: Actor = ADA,
        if_revision: int | None = None,
    ) -> Traffic:
        """Traffic from what is there now, or from the revision that is said to be seen."""
        order = TrafficOrder(stable=stable, shadows=shadows_of(*shadows))

        def change(connection: Connection) -> Traffic:
            seen = if_revision
            if seen is None:
                seen = self.registry.traffic(connection, model, actor=actor).revision
            return self.registry.set_traffic(
                connection, model, order=order, actor=actor, if_revision=seen
            )

        return self.run(change)

    def alias(self, alias: str, version: str, if_revision: int | None = None) -> Alias:
        return self.run(
            lambda c: self.registry.set_alias(
                c, "fraud", alias, version=version, actor=ADA, if_revision=if_revision
            )
        )

    def search(self, search: Search, actor: Actor = ADA) -> ModelPage:
        return self.database.read(lambda c: self.registry.search(c, search, actor=actor))

    def questions(self) -> list[Callable[[str, Actor], object]]:
        """Everything that can be asked about one model."""
        ask, it = self.database.read, self.registry
        return [
            lambda model, actor: ask(lambda c: it.model(c, model, actor=actor)),
            lambda model, actor: ask(lambda c: it.versions(c, model, actor=actor)),
            lambda model, actor: ask(lambda c: it.version(c, model, "1", actor=actor)),
            lambda model, actor: ask(lambda c: it.history(c, model, actor=actor)),
            lambda model, actor: ask(lambda c: it.traffic(c, model, actor=actor)),
            lambda model, actor: ask(lambda c: it.aliases(c, model, actor=actor)),
        ]

    def states(self, model: str = "fraud") -> dict[str, str]:
        found = self.database.read(lambda c: self.registry.versions(c, model, actor=ADA))
        return {each.version: each.state.value for each in found}

    def events(self, model: str = "fraud") -> list[str]:
        """Names of the model's events, without their first part."""
        found = self.database.read(lambda c: self.registry.history(c, model, actor=ADA))
        return [each.name.removeprefix("registry:") for each in found]

    def order(self, name: str, body: object = None, *, actor: Actor = ADA, **call: Any) -> Answer:
        """An order at the desk, as the control port sends it."""
        content = b"" if body is None else msgspec.json.encode(body)
        return self.desk.carry_out(name, Call(actor, body=content, **call))

    def ask(self, name: str, *, actor: Actor = ADA, **call: Any) -> Any:
        """A question at the desk."""
        return msgspec.json.decode(self.desk.ask(name, Call(actor, **call)).content)
