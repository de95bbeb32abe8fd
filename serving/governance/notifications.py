"""What webhooks are told: written to an outbox in the transaction of the change, sent later.

A notification names what happened and what it is about, and holds no payload and no secret: whoever
gets it asks the control port, as themselves, for the rest. Those of rollouts say what their gates were
judged by: counts, figures and limits.
"""

import secrets
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, insert, select

from serving.audit.events import EventName
from serving.core.clock import Clock
from serving.governance.tables import deliveries, webhooks

TELLING: Final = frozenset(
    {
        EventName.REQUEST_OPENED,
        EventName.REQUEST_APPROVED,
        EventName.REQUEST_REJECTED,
        EventName.REQUEST_WITHDRAWN,
        EventName.REQUEST_EXPIRED,
        EventName.APPROVAL_GIVEN,
        EventName.APPROVAL_WITHDRAWN,
        EventName.APPROVAL_REFUSED,
        EventName.OVERRIDE_GIVEN,
        EventName.REPLICA_REFUSED,
        EventName.RELEASE_REFUSED,
        EventName.ROLLOUT_STARTED,
        EventName.ROLLOUT_HELD,
        EventName.ROLLOUT_PROMOTED,
        EventName.ROLLOUT_COMPLETED,
        EventName.ROLLOUT_ROLLED_BACK,
        EventName.ROLLOUT_ABORTED,
        EventName.ROLLOUT_TARGET_REFUSED,
    }
)
"""Events that webhooks can ask for."""

TEST: Final = "webhook:test"
PENDING: Final = "pending"


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a delivery. id: the same at every try, for whoever gets it twice."""

    id: str
    event: str
    at_ns: int
    facts: dict[str, Any]


class Notifications:
    """Writes to the outbox."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def announce(self, connection: Connection, event: EventName, facts: Mapping[str, Any]) -> None:
        """To every webhook that asked for this event."""
        if event not in TELLING:
            return
        for row in connection.execute(select(webhooks.c.id, webhooks.c.events)):
            if any(_fits(pattern, event.value) for pattern in row.events):
                self.queue(connection, row.id, event.value, facts)

    def queue(
        self, connection: Connection, webhook: str, event: str, facts: Mapping[str, Any]
    ) -> str:
        """One delivery to one webhook; its identifier."""
        now_ns = self._clock.wall_ns()
        body = Notification(id=secrets.token_hex(8), event=event, at_ns=now_ns, facts=dict(facts))
        connection.execute(
            insert(deliveries).values(
                id=body.id,
                webhook=webhook,
                event=event,
                body=msgspec.json.encode(body).decode(),
                made_ns=now_ns,
                state=PENDING,
                attempts=0,
                next_ns=now_ns,
                outcome="",
            )
        )
        return body.id


def _fits(pattern: str, event: str) -> bool:
    return pattern == event or (pattern.endswith("*") and event.startswith(pattern[:-1]))
