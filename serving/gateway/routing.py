"""Which versions answer, and which candidates get copies: the snapshot, made quick to look up.

A `RoutingTable` is built once per snapshot and swapped by one assignment, so that a request sees one
policy from beginning to end. Queues outlive snapshots: a version keeps its queue, and the calls in
it, for as long as its digest stays the same.

A model that has a policy but no version to answer with is told from one that is not there, and
both from one that was retired: its tombstone says whom to ask instead.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from serving.core.models import ModelVersion
from serving.core.traffic import Segment, Snapshot, Tombstone, TrafficPolicy
from serving.errors import ModelNotFound, ModelRetired, NoReplica
from serving.gateway.batching import VersionQueue
from serving.gateway.shadowing import Candidate
from serving.gateway.splitting import Split, Turns


@dataclass(frozen=True, slots=True)
class Route:
    """Where requests to one model go: the queues that answer and those that get copies.

    split: None where the stable version answers everybody. segments: those that some shadow asks
    for. is_plain: a request that chose no version needs no look at anything else.
    """

    policy: TrafficPolicy
    epoch: int
    stable: VersionQueue
    shadows: tuple[Candidate, ...]
    split: Split | None
    segments: frozenset[Segment]
    is_plain: bool

    @property
    def queues(self) -> tuple[VersionQueue, ...]:
        """All of them, each once, the stable one first."""
        arms = self.split.arms if self.split is not None else ()
        copied = (each.queue for each in self.shadows)
        return tuple(dict.fromkeys((self.stable, *arms, *copied)))


class RoutingTable:
    """The routes of one snapshot."""

    def __init__(
        self,
        snapshot: Snapshot,
        queues: dict[str, VersionQueue],
        make_queue: Callable[[ModelVersion], VersionQueue],
        *,
        turns: Mapping[str, Turns],
        diverted: Callable[[VersionQueue], None] = lambda _queue: None,
    ) -> None:
        """queues, turns: those of the table before, by version key and by model; new ones are made as
        needed. diverted: told of each request that an arm could not take."""
        self.epoch = snapshot.epoch
        self.turns: dict[str, Turns] = {
            it.model: turns.get(it.model) or Turns() for it in snapshot.policies
        }
        self._diverted = diverted
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
        self._idle = {policy.model for policy in snapshot.policies} - self._routes.keys()
        self._graves = {f"{each.model}@{each.version}": each for each in snapshot.tombstones}
        # The latest one of a model is the one that its callers look for.
        latest = sorted(snapshot.tombstones, key=lambda each: each.retired_s)
        self._last_graves: dict[str, Tombstone] = {each.model: each for each in latest}

    @property
    def routes(self) -> Iterable[Route]:
        return self._routes.values()

    @property
    def unready(self) -> list[str]:
        """Versions, as `model@version`, that a policy names and no replica answers for yet.

        One that is about to serve, or that ends the calls it has, keeps nobody waiting.
        """
        named = [queue for route in self.routes for queue in route.queues]
        return [queue.version.key for queue in named if not queue.ready]

    def choose(self, model: str) -> Route:
        """The route of `model`. Raises ModelNotFound, ModelRetired, NoReplica."""
        route = self._routes.get(model)
        if route is None:
            raise self._absence(model)
        return route

    def pinned(self, model: str, version: str) -> VersionQueue:
        """The queue of a version that the caller named. Raises ModelNotFound, ModelRetired."""
        queue = self.queues.get(f"{model}@{version}")
        if queue is None:
            self.check_grave(model, version)
            raise ModelNotFound("there is no such version of this model here")
        return queue

    def check_grave(self, model: str, version: str) -> None:
        """Passes when the version was not retired. Raises ModelRetired."""
        grave = self._graves.get(f"{model}@{version}")
        if grave is not None:
            raise _retired(grave)

    @property
    def candidates(self) -> list[Candidate]:
        return [candidate for route in self.routes for candidate in route.shadows]

    def shadows_of(self, queue: VersionQueue) -> tuple[Candidate, ...]:
        """The candidates that get copies of what this queue answered."""
        route = self._routes.get(queue.version.model)
        return route.shadows if route is not None and route.stable is queue else ()

    def relieve(self) -> None:
        """Gives what waits for an arm without a replica to the stable version, if that can take it."""
        for route in self.routes:
            if route.split is not None:
                route.split.relieve()

    def _absence(self, model: str) -> ModelNotFound | ModelRetired | NoReplica:
        """Why nothing answers for the model."""
        if model in self._idle:
            return NoReplica("no version of this model may answer now")
        if model in self._last_graves:
            return _retired(self._last_graves[model])
        return ModelNotFound("there is no such model here")

    def _route(self, policy: TrafficPolicy) -> Route:
        def queue_of(version: str) -> VersionQueue | None:
            return self.queues.get(f"{policy.model}@{version}")

        stable = self.queues[f"{policy.model}@{policy.stable}"]
        arms = [(arm, queue) for arm in policy.arms if (queue := queue_of(arm.version))]
        shadows = [(each, queue) for each in policy.shadows if (queue := queue_of(each.version))]
        turns = self.turns[policy.model]
        split = Split(policy, stable, arms, turns=turns, diverted=self._diverted) if arms else None
        segments = frozenset(segment for shadow, _ in shadows for segment in shadow.segments)
        return Route(
            policy=policy,
            epoch=self.epoch,
            stable=stable,
            shadows=tuple(Candidate(queue, shadow) for shadow, queue in shadows),
            split=split,
            segments=segments,
            is_plain=split is None and not segments,
        )


def _retired(grave: Tombstone) -> ModelRetired:
    instead = f"; ask {grave.successor} instead" if grave.successor else ""
    return ModelRetired(
        f"{grave.model}@{grave.version} was retired{instead}", successor=grave.successor
    )
