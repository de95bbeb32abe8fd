"""Where a rollback goes: to what answered before, or to the last good version that may still serve."""

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection

from serving.audit.events import EventName
from serving.audit.reading import Filter, find_in
from serving.errors import TransitionRefused
from serving.governance.rollout_book import Rollout
from serving.governance.rollout_traffic import Deployable, checked
from serving.registry import rows
from serving.registry.entities import Traffic
from serving.registry.lifecycle import SERVING, State

GOOD: Final = SERVING | {State.APPROVED}
"""States from which a version may answer again."""

MOST_LOOKED_AT: Final = 500
"""Changes of a model's traffic, the latest first."""


def last_good(
    connection: Connection, rollout: Rollout, now: Traffic, *, deployable: Deployable
) -> str:
    """The last version before the candidate that may serve now: its state permits it, and its
    approvals and signatures hold. Empty when there is none."""
    tried = {rollout.candidate, ""}
    for name in (rollout.stable, *_earlier(connection, rollout.model)):
        if name in tried:
            continue
        tried.add(name)
        version = rows.find_version(connection, rollout.model, name)
        if version is None or not (version.state in GOOD or name == now.stable):
            continue
        try:
            checked(deployable, connection, version)
        except TransitionRefused:
            continue
        return name
    return ""


def _earlier(connection: Connection, model: str) -> Iterator[str]:
    """What has answered, the latest first."""
    wanted = Filter(name=EventName.TRAFFIC_SET.value, object=f"model:{model}", limit=MOST_LOOKED_AT)
    for event in find_in(connection, wanted):
        yield (event.before or {}).get("stable", "")
