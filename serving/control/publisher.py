"""The snapshot that gateways get: one immutable value, handed out by long poll, kept on disk.

The epoch grows with every change, also across restarts of control: it starts from wall time in
milliseconds and from what was published before, whichever is greater. A gateway that has seen a
later one (the clock was set back, the disk was lost) makes the epoch jump beyond its own. The file
lets a restarted control go on from what gateways know: it publishes the replicas it knew at once,
instead of an empty table that would take every model off the air until they renew.

Where there is no such file nothing is handed out before the first `publish`: a gateway with a copy
of its own goes on with that.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import structlog

from serving.control.announcement import Announcement
from serving.core.clock import Clock
from serving.core.traffic import ReplicaEndpoint, Snapshot

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
    """Holds the current snapshot; `publish` replaces it, `after` waits for a newer one.

    before: what an earlier control process of this run published last, None for none.
    """

    def __init__(
        self,
        *,
        path: Path,
        restore: bool,
        clock: Clock,
        note: Callable[[Snapshot], None] = lambda _snapshot: None,
    ) -> None:
        """restore: whether the replicas of the last snapshot may still live. note: told of each
        snapshot before anybody else (`control.policyhistory`)."""
        self._note = note
        self.before = read_snapshot(path)
        self._path = path
        self._first_epoch = clock.wall_ns() // 1_000_000
        current = Snapshot(epoch=0)
        if self.before is not None:
            self._first_epoch = max(self._first_epoch, self.before.epoch + 1)
            current = replace(self.before, epoch=self._first_epoch)
            if not restore:
                current = replace(current, endpoints=())
        self._announcement = Announcement(current)

    @property
    def current(self) -> Snapshot:
        """Of epoch 0 while there is none."""
        return self._announcement.current

    @property
    def restored(self) -> tuple[ReplicaEndpoint, ...]:
        """The replicas that may still live from before."""
        return self.current.endpoints

    def publish(self, snapshot: Snapshot) -> None:
        """Makes this the current one, under the next epoch, unless it says nothing new."""
        current = self.current
        if not current.epoch:
            self._advance(replace(snapshot, epoch=self._first_epoch))
        elif replace(snapshot, epoch=current.epoch) != current:
            self._advance(replace(snapshot, epoch=current.epoch + 1))

    async def after(self, epoch: int, *, wait_s: float) -> Snapshot | None:
        """The snapshot as soon as its epoch is above `epoch`, None when `wait_s` passed before."""
        if epoch >= self._first_epoch and not self.current.epoch:
            self._first_epoch = epoch + 1
        elif self.current.epoch and epoch > self.current.epoch:
            self._advance(replace(self.current, epoch=epoch + 1))
        return await self._announcement.after(epoch, wait_s=wait_s)

    def _advance(self, snapshot: Snapshot) -> None:
        self._note(snapshot)
        self._announcement.announce(snapshot)
        try:
            temporary = self._path.with_suffix(".new")
            temporary.write_bytes(msgspec.json.encode(snapshot))
            os.replace(temporary, self._path)  # noqa: PTH105 - one call, atomic on POSIX
        except OSError as error:
            logger.warning("the snapshot cannot be kept", file=str(self._path), error=str(error))
