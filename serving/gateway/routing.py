"""Which version answers, and which candidates get a copy: the snapshot, made quick to look up.

A `RoutingTable` is built once per snapshot and swapped by one assignment, so that a request sees one
policy from beginning to end. Queues outlive snapshots: a version keeps its queue, and the calls in
it, for as long as its digest stays the same.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from serving.core.models import ModelVersion
from serving.core.traffic import Snapshot, TrafficPolicy
from serving.errors import ModelNotFound
from serving.gateway.batching import VersionQueue


@dataclass(frozen=True, slots=True)
class Route:
    """Where requests to one model go: the queue that answers and those that shadow it."""

    policy: TrafficPolicy
    epoch: int
    stable: VersionQueue
    shadows: tuple[VersionQueue, ...]


class RoutingTable:
    """The routes of one snapshot."""

    def __init__(
        self,
        snapshot: Snapshot,
        queues: dict[str, VersionQueue],
        make_queue: Callable[[ModelVersion], VersionQueue],
    ) -> None:
        """queues: those of the table before, by version key; new ones are made as needed."""
        self.epoch = snapshot.epoch
        self.queues: dict[str, VersionQueue] = {}
        for version in snapshot.versions:
            kept = queues.get(version.key)
            same = kept is not None and kept.version == version
            self.queues[version.key] = kept if kept and same else make_queue(version)
        self._routes: dict[str, Route] = {
            policy.model: self._route(policy)
            for policy in snapshot.policies
            if f"{policy.model}@{policy.stable}" in self.queues
        }

    @property
    def routes(self) -> Iterable[Route]:
        return self._routes.values()

    def choose(self, model: str) -> Route:
        """The route of `model`. Raises ModelNotFound."""
        route = self._routes.get(model)
        if route is None:
            raise ModelNotFound("there is no such model here")
        return route

    def pinned(self, model: str, version: str) -> VersionQueue:
        """The queue of a version that the caller named. Raises ModelNotFound."""
        queue = self.queues.get(f"{model}@{version}")
        if queue is None:
            raise ModelNotFound("there is no such version of this model here")
        return queue

    def shadows_of(self, queue: VersionQueue) -> tuple[VersionQueue, ...]:
        """The candidates that get a copy of what this queue answered."""
        route = self._routes.get(queue.version.model)
        return route.shadows if route is not None and route.stable is queue else ()

    def _route(self, policy: TrafficPolicy) -> Route:
        keys = [f"{policy.model}@{version}" for version in policy.shadows]
        return Route(
            policy=policy,
            epoch=self.epoch,
            stable=self.queues[f"{policy.model}@{policy.stable}"],
            shadows=tuple(self.queues[key] for key in keys if key in self.queues),
        )
