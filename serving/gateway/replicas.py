"""Connections to the replicas that the snapshot names: opened, replaced, dropped.

A replica that is in the snapshot and has no open connection is tried again and again, with a pause
that grows; a connection that closes is gone at once, whatever the snapshot says; a replica that
left the snapshot keeps its connection until the frames it has are answered. A gateway whose control
plane is gone keeps reconnecting to the last endpoints it was told.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from serving.core.models import ModelVersion
from serving.core.traffic import ReplicaEndpoint, Snapshot
from serving.gateway.batching import ReplicaLink, VersionQueue

logger = structlog.get_logger()

_FIRST_PAUSE_S: Final = 0.05
_LAST_PAUSE_S: Final = 2.0


class OpenLink(ReplicaLink, Protocol):
    """A link that can be opened; `Channel` fits by shape."""

    async def connect(self) -> None:
        """Raises OSError or TimeoutError."""


MakeLink = Callable[[ReplicaEndpoint, ModelVersion, Callable[[object], None]], OpenLink]


class ReplicaLinks:
    """Keeps one link per endpoint of the snapshot and hands live ones to their queues."""

    def __init__(self, make_link: MakeLink) -> None:
        self._make_link = make_link
        self._links: dict[str, OpenLink] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}

    def apply(self, snapshot: Snapshot, queues: dict[str, VersionQueue]) -> None:
        """Starts keeping new endpoints and stops keeping those that are no longer named."""
        wanted = {endpoint.replica: endpoint for endpoint in snapshot.endpoints}
        for replica in set(self._keepers) - set(wanted):
            self._keepers.pop(replica).cancel()
        for replica, endpoint in wanted.items():
            queue = queues.get(f"{endpoint.model}@{endpoint.version}")
            if queue is not None and replica not in self._keepers:
                self._keepers[replica] = asyncio.ensure_future(self._keep(endpoint, queue))

    async def aclose(self) -> None:
        for keeper in self._keepers.values():
            keeper.cancel()
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)
        for link in list(self._links.values()):
            link.abort()

    async def _keep(self, endpoint: ReplicaEndpoint, queue: VersionQueue) -> None:
        """Keeps a link to `endpoint` open until cancelled."""
        pause_s = _FIRST_PAUSE_S
        while True:
            closed = asyncio.Event()
            link = self._make_link(endpoint, queue.version, _changed(queue, closed))
            try:
                await link.connect()
            except (OSError, TimeoutError) as error:
                logger.debug("replica not reached", replica=endpoint.replica, error=repr(error))
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LAST_PAUSE_S)
                continue
            self._links[endpoint.replica] = link
            queue.links.append(link)
            try:
                await closed.wait()
            finally:
                await self._drop(endpoint, queue, link, closed)
            pause_s = _FIRST_PAUSE_S

    async def _drop(
        self,
        endpoint: ReplicaEndpoint,
        queue: VersionQueue,
        link: OpenLink,
        closed: asyncio.Event,
    ) -> None:
        """Takes the link from its queue; frames it still has are answered or lost by the link."""
        self._links.pop(endpoint.replica, None)
        if link in queue.links:
            queue.links.remove(link)
        if not closed.is_set() and not link.outstanding_rows:
            link.abort()
        await asyncio.sleep(0)


def _changed(queue: VersionQueue, closed: asyncio.Event) -> Callable[[object], None]:
    """What a link calls when it became ready, got a credit back, or closed."""

    def changed(link: object) -> None:
        if getattr(link, "closed", False):
            closed.set()
            if link in queue.links:
                queue.links.remove(link)
        queue.wake()

    return changed
