"""What every act of governance needs: the time, the audit event, and the notice that goes with it."""

import secrets
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection

from serving.audit.events import Event, EventName
from serving.audit.log import AuditLog
from serving.core.actors import Actor
from serving.core.clock import Clock
from serving.governance.entities import ApprovalRequest
from serving.governance.notifications import Notifications


@dataclass(frozen=True, slots=True)
class Journal:
    """Writes down what happens, in the transaction in which it does."""

    audit: AuditLog
    notifications: Notifications
    clock: Clock

    def record(
        self,
        connection: Connection,
        event: Event,
        *,
        facts: dict[str, Any] | None = None,
    ) -> None:
        """facts: for webhooks, besides who did what to what and why."""
        self.audit.append(connection, event)
        told = {"object": event.object, "actor": event.actor, "reason": event.reason}
        self.notifications.announce(connection, event.name, told | (facts or {}))

    def tell(
        self,
        connection: Connection,
        actor: Actor,
        request: ApprovalRequest,
        *,
        name: EventName,
        reason: str = "",
        after: Any = None,
    ) -> None:
        """An event about a request."""
        facts = msgspec.to_builtins(request)
        kept = {key: facts[key] for key in ("id", "kind", "model", "version", "digest", "tier")}
        event = Event.by(
            actor,
            name,
            f"version:{request.model}@{request.version}",
            after={"request": kept, "state": request.state.value, **(after or {})},
            reason=reason,
        )
        self.record(connection, event, facts={"request": kept, "state": request.state.value})

    def now_ns(self) -> int:
        return self.clock.wall_ns()


def new_id() -> str:
    return secrets.token_hex(8)
