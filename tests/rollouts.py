"""A registry with models that can be rolled out, and the service that does it, on a real database."""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection

from serving.audit.reading import Filter, find
from serving.core.actors import Actor
from serving.errors import ReleaseRefused
from serving.governance import rollout_book as book
from serving.governance.journal import Journal
from serving.governance.notifications import Notifications
from serving.governance.rollout_book import Rollout
from serving.governance.rollout_plans import PlanStep, RolloutPlan
from serving.governance.rollout_states import Turn
from serving.governance.rollouts import Cause, RolloutOrder, Rollouts
from serving.registry.entities import ModelFacts, RegisteredVersion, Traffic
from serving.registry.journal import Claim, Unguarded
from serving.registry.orders import TrafficOrder
from serving.storage.database import Database
from serving.storage_settings import RegistrySettings
from tests.registries import ADA, RegistryStand

STEPS = tuple(PlanStep(weight=weight, hold_s=60, min_requests=100) for weight in (0.01, 0.1, 0.5))
PLAN = RolloutPlan(steps=STEPS, warm_s=600)


class Asked(Protocol):
    """What a step is asked of."""

    def check(self, connection: Connection, claim: Claim) -> None: ...


@dataclass
class Signatures:
    """Releases that hold, but for those that a test refuses."""

    refused: set[str] = field(default_factory=set)

    def __call__(self, connection: Connection, version: RegisteredVersion) -> None:
        del connection
        if version.key in self.refused:
            raise ReleaseRefused("its signer was revoked")


class ChangingGuard:
    """Asks another guard, which a test can replace."""

    def __init__(self) -> None:
        self.inner: Asked = Unguarded()

    def check(self, connection: Connection, claim: Claim) -> None:
        self.inner.check(connection, claim)

    def check_facts(self, facts: ModelFacts) -> None:
        del facts


class RolloutStand:
    """Model `fraud` with versions 1 to 3 approved, answered by 1."""

    def __init__(self, folder: Path, settings: RegistrySettings | None = None) -> None:
        database = Database.open(settings or RegistrySettings(), folder)
        self.guard = ChangingGuard()
        self.stand = RegistryStand(database, guard=self.guard)
        self.clock = self.stand.clock
        self.database = database
        self.signatures = Signatures()
        journal = Journal(self.stand.audit, Notifications(self.clock), self.clock)
        self.rollouts = Rollouts(
            self.stand.registry, journal, warm_s=3600, deployable=self.signatures
        )
        self.stand.model()
        self.stand.approved("1", "2", "3")
        self.stand.route("1")

    def start(
        self, candidate: str = "2", *, plan: RolloutPlan = PLAN, actor: Actor = ADA
    ) -> Rollout:
        order = RolloutOrder(candidate=candidate, plan=plan, reason="better")
        return self.database.run(lambda c: self.rollouts.start(c, "fraud", order, actor=actor))

    def turn(self, *turns: Turn, actor: Actor = ADA, cause: Cause = Cause()) -> Rollout:  # noqa: B008 - frozen
        """The newest rollout, turned so."""
        for turn in turns:
            found = self.newest()
            self.database.run(
                lambda c, turn=turn, found=found: self.rollouts.turn(  # type: ignore[misc]  # called now
                    c, found.id, turn, cause, actor=actor
                )
            )
        return self.newest()

    def newest(self) -> Rollout:
        found = self.database.read(lambda c: book.newest(c, "fraud"))
        assert found is not None
        return found

    def traffic(self) -> Traffic:
        return self.database.read(lambda c: self.stand.registry.traffic(c, "fraud", actor=ADA))

    def shares(self) -> tuple[str, dict[str, float]]:
        """Who is stable, and what the arms answer."""
        now = self.traffic()
        return now.stable, {arm.version: arm.weight for arm in now.arms}

    def route(self, order: TrafficOrder) -> Traffic:
        """By hand."""
        return self.database.run(
            lambda c: self.stand.registry.set_traffic(
                c,
                "fraud",
                order=order,
                actor=ADA,
                if_revision=self.stand.registry.traffic(c, "fraud", actor=ADA).revision,
            )
        )

    def told(self, name: str = "rollout:*") -> list[str]:
        """Names of events, oldest first."""
        return [each.name for each in reversed(find(self.database, Filter(name=name)))]

    def refuse(self, versions: Collection[str]) -> None:
        self.signatures.refused = {f"fraud@{each}" for each in versions}

    def close(self) -> None:
        self.database.close()
