"""Connections to the replicas that the snapshot names: opened, replaced, dropped.

A replica that is in the snapshot and has no open connection is tried again and again, with a pause
that grows until one is greeted; a connection that closes is gone at once, whatever the snapshot
says; a replica that left the snapshot keeps its connection until the frames it has are answered. A
gateway whose control plane is gone keeps reconnecting to the last endpoints it was told.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from serving.core.models import ModelVersion
from serving.core.traffic import ReplicaEndpoint, Snapshot
from serving.gateway.batching import VersionQueue
from serving.gateway.forming import ReplicaLink

logger = structlog.get_logger()

FIRST_PAUSE_S: Final = 0.02
LAST_PAUSE_S: Final = 2.0


class OpenLink(ReplicaLink, Protocol):
    """A link that can be opened; `Channel` fits by shape."""

    async def connect(self) -> None:
        """Raises OSError or TimeoutError."""

    def retire(self) -> None:
        """Takes no more frames; closes when those it has are answered."""


MakeLink = Callable[[ReplicaEndpoint, ModelVersion, Callable[[OpenLink], None]], OpenLink]


@dataclass(frozen=True, slots=True)
class _Keeper:
    """Who keeps a link to `endpoint` for `queue`."""

    endpoint: ReplicaEndpoint
    queue: VersionQueue
    task: asyncio.Task[None]


class ReplicaLinks:
    """Keeps one link per endpoint of the snapshot and hands live ones to their queues.

    A link is in its queue from connect to close, so that a silent one is noticed even when its
    replica has left the snapshot.
    """

    def __init__(
        self, make_link: MakeLink, *, pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._make_link = make_link
        self._pause = pause
        self._links: set[OpenLink] = set()
        self._keepers: dict[str, _Keeper] = {}

    def apply(self, snapshot: Snapshot, queues: dict[str, VersionQueue]) -> None:
        """Starts keeping new endpoints and stops keeping those that are no longer named."""
        wanted = {
            endpoint.replica: (endpoint, queues[key])
            for endpoint in snapshot.endpoints
            if (key := f"{endpoint.model}@{endpoint.version}") in queues
        }
        for replica, keeper in list(self._keepers.items()):
            if wanted.get(replica) != (keeper.endpoint, keeper.queue):
                del self._keepers[replica]
                keeper.task.cancel()
        for replica, (endpoint, queue) in wanted.items():
            if replica not in self._keepers:
                task = asyncio.ensure_future(self._keep(endpoint, queue))
                self._keepers[replica] = _Keeper(endpoint, queue, task)

    async def aclose(self) -> None:
        """Closes everything; frames in flight are lost."""
        tasks = [keeper.task for keeper in self._keepers.values()]
        self._keepers.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in list(self._links):
            link.abort()

    async def _keep(self, endpoint: ReplicaEndpoint, queue: VersionQueue) -> None:
        """Keeps a link to `endpoint` open until cancelled."""
        pause_s = FIRST_PAUSE_S
        while True:
            if await self._hold(endpoint, queue):
                pause_s = FIRST_PAUSE_S
            await self._pause(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)

    async def _hold(self, endpoint: ReplicaEndpoint, queue: VersionQueue) -> bool:
        """Opens a link and stays until it closes; whether it was ever fit to carry frames."""
        closed = asyncio.Event()
        greeted = False

        def changed(link: OpenLink) -> None:
            nonlocal greeted
            greeted = greeted or link.ready
            if link.closed:
                closed.set()
                self._forget(link, queue)
            queue.wake()

        link = self._make_link(endpoint, queue.version, changed)
        try:
            await link.connect()
        except (OSError, TimeoutError) as error:
            logger.debug("replica not reached", replica=endpoint.replica, error=repr(error))
            return False
        if not link.closed:
            self._links.add(link)
            queue.links.append(link)
            # The greeting may have come before the queue knew the link.
            queue.wake()
            try:
                await closed.wait()
            finally:
                link.retire()
        return greeted

    def _forget(self, link: OpenLink, queue: VersionQueue) -> None:
        self._links.discard(link)
        if link in queue.links:
            queue.links.remove(link)
