"""The snapshot that gateways get: one immutable value, handed out by long poll, kept on disk.

The epoch grows with every change, also across restarts of control: it starts from wall time in
milliseconds and from what was published before, whichever is greater. A gateway that has seen a
later one (the clock was set back, the disk was lost) makes the epoch jump beyond its own. The file
lets a restarted control publish the replicas it knew at once, instead of an empty table that would
take every model off the air until they renew.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import structlog

from serving.control.announcement import Announcement
from serving.core.clock import Clock
from serving.core.models import ModelVersion
from serving.core.traffic import ReplicaEndpoint, Snapshot, TrafficPolicy

logger = structlog.get_logger()


def read_snapshot(path: Path) -> Snapshot | None:
    """What was published last, or None when there is nothing that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Snapshot)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        logger.warning("the last snapshot cannot be read", file=str(path), error=str(error))
        return None


class SnapshotPublisher:
    """Holds the current snapshot; `publish` replaces it, `after` waits for a newer one."""

    def __init__(
        self,
        *,
        versions: Sequence[ModelVersion],
        policies: Sequence[TrafficPolicy],
        path: Path,
        restore: bool,
        clock: Clock,
    ) -> None:
        """restore: whether the replicas of the last snapshot may still live."""
        before = read_snapshot(path)
        self._path = path
        self._versions = {(each.model, each.version) for each in versions}
        self.restored: tuple[ReplicaEndpoint, ...] = before.endpoints if before and restore else ()
        self._announcement = Announcement(
            Snapshot(
                epoch=max(clock.wall_ns() // 1_000_000, before.epoch + 1 if before else 0),
                versions=tuple(versions),
                policies=tuple(policies),
                endpoints=self._wanted(self.restored),
            )
        )

    @property
    def current(self) -> Snapshot:
        return self._announcement.current

    def publish(self, endpoints: Sequence[ReplicaEndpoint]) -> None:
        """Replaces the endpoints; those of versions that should not run are left out."""
        wanted = self._wanted(endpoints)
        if wanted != self.current.endpoints:
            self._advance(replace(self.current, epoch=self.current.epoch + 1, endpoints=wanted))

    async def after(self, epoch: int, *, wait_s: float) -> Snapshot | None:
        """The snapshot as soon as its epoch is above `epoch`, None when `wait_s` passed before."""
        if epoch > self.current.epoch:
            self._advance(replace(self.current, epoch=epoch + 1))
        return await self._announcement.after(epoch, wait_s=wait_s)

    def _wanted(self, endpoints: Sequence[ReplicaEndpoint]) -> tuple[ReplicaEndpoint, ...]:
        return tuple(each for each in endpoints if (each.model, each.version) in self._versions)

    def _advance(self, snapshot: Snapshot) -> None:
        self._announcement.announce(snapshot)
        try:
            temporary = self._path.with_suffix(".new")
            temporary.write_bytes(msgspec.json.encode(snapshot))
            os.replace(temporary, self._path)  # noqa: PTH105 - one call, atomic on POSIX
        except OSError as error:
            logger.warning("the snapshot cannot be kept", file=str(self._path), error=str(error))
