"""What every change in the registry needs: the time, the guard of evidence, and the audit trail."""

from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Connection

from serving.audit.events import Event, EventName
from serving.audit.log import AuditLog
from serving.core.actors import Actor
from serving.core.clock import Clock
from serving.registry.entities import ModelFacts, RegisteredModel, RegisteredVersion
from serving.registry.lifecycle import Transition


@dataclass(frozen=True, slots=True)
class Claim:
    """That a version may take a step, as it is about to be made. override: traffic is no obstacle."""

    transition: Transition
    model: RegisteredModel
    version: RegisteredVersion
    actor: Actor
    reason: str = ""
    override: bool = False


class Guard(Protocol):
    """Decides whether the evidence that a step demands is there: `governance`."""

    def check(self, connection: Connection, claim: Claim) -> None:
        """Passes, or raises TransitionRefused (or Forbidden) naming all that is missing.

        The demands REASON and NO_TRAFFIC were looked after already.
        """

    def check_facts(self, facts: ModelFacts) -> None:
        """Passes facts whose rules can be followed. Raises ParameterInvalid."""


class Unguarded:
    """A guard that asks for nothing: for tests of the registry alone."""

    def check(self, connection: Connection, claim: Claim) -> None:
        del connection, claim

    def check_facts(self, facts: ModelFacts) -> None:
        del facts


@dataclass(frozen=True, slots=True)
class Journal:
    """Writes down what changes, in the transaction of the change."""

    audit: AuditLog
    guard: Guard
    clock: Clock

    def record(
        self,
        connection: Connection,
        actor: Actor,
        *,
        name: EventName,
        about: str,
        before: Any = None,
        after: Any = None,
        reason: str = "",
    ) -> None:
        event = Event.by(actor, name, about, before=before, after=after, reason=reason)
        self.audit.append(connection, event)

    def now_ns(self) -> int:
        return self.clock.wall_ns()
