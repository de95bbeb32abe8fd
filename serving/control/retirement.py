"""What becomes of the artifact of a retired version: held, or destroyed, as the settings say.

Destroyed means that nobody can ever open it again, backups included: its wrapped key goes first. That
happens a while after the retirement, when no replica can be starting from it any more, and never
while another version that is not retired has the same artifact. The tombstone and the history stay.
"""

from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog
from sqlalchemy import Connection, or_, select

from serving.audit.events import Event, EventName
from serving.audit.log import AuditLog
from serving.core.actors import product
from serving.core.clock import Clock
from serving.errors import ServingError
from serving.registry.lifecycle import State
from serving.registry.tables import versions
from serving.storage.database import Database

logger = structlog.get_logger()

WAIT_NS: Final = 60 * 10**9


class Shredder(Protocol):
    """Where artifacts are: `artifacts.store.ArtifactStore`."""

    def holds(self, digest: str) -> bool: ...
    def destroy(self, digest: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Retirement:
    """Destroys the artifacts of retired versions. Blocks; safe to repeat. done: digests looked after."""

    database: Database
    audit: AuditLog
    store: Shredder
    clock: Clock
    done: set[str] = field(default_factory=set)

    def sweep(self) -> None:
        """Raises RegistryUnavailable. What cannot be destroyed now is tried again."""
        for key, digest in self.database.read(self._due):
            if digest in self.done:
                continue
            try:
                held = self.store.holds(digest)
                self.store.destroy(digest)
            except (ServingError, OSError) as error:
                logger.warning("a retired artifact is still there", model=key, error=str(error))
                continue
            self.done.add(digest)
            if not held:
                continue
            event = Event.by(
                product("control"),
                EventName.ARTIFACT_DESTROYED,
                f"version:{key}",
                before={"digest": digest},
                reason="its version is retired",
            )
            self.database.run(lambda connection, event=event: self.audit.append(connection, event))  # type: ignore[misc]  # called now

    def _due(self, connection: Connection) -> list[tuple[str, str]]:
        """Retired versions, long enough ago, whose artifact is nobody else's."""
        latest_ns = self.clock.wall_ns() - WAIT_NS
        retired = State.RETIRED.value
        used = select(versions.c.digest).where(
            or_(versions.c.state != retired, versions.c.retired_ns > latest_ns)
        )
        query = select(versions.c.model, versions.c.version, versions.c.digest).where(
            versions.c.state == retired,
            versions.c.retired_ns <= latest_ns,
            versions.c.digest.not_in(used),
        )
        return [(f"{row.model}@{row.version}", row.digest) for row in connection.execute(query)]
