"""How traffic moves: which versions gateways know, and which one answers, step by step.

What is desired says where each model should arrive; what was published says where it is. One look
(`Rollout.look`) takes every model as far as it can go now:

    deploy    the new version starts beside the old one; gateways know nothing of it
    connect   it holds a lease, so it is published without traffic and gateways connect to it
    move      `SETTLE_S` later the policy names it: one assignment in each gateway
    drain     the old version stays published for `drain_s`, for the calls that it has
    forget    it leaves the snapshot, and nothing holds its application any more

Whatever does not come as far as `connect` gets no traffic: the last good version goes on answering
for as long as that takes. Nothing of this is remembered but in the snapshot itself, so that a
control process killed at any instant goes on from what gateways were told last; a wait begins anew.

Before the first snapshot of an instance there is nobody to protect: everything desired is published
at once, and gateways are not ready until they are connected to all of it. A version that is refused
is never published; a policy that has no other then stands alone, and callers are told to retry.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from serving.control.desired import Desired
from serving.core.clock import Clock
from serving.core.models import ModelVersion, VersionName
from serving.core.traffic import Arm, ReplicaEndpoint, Shadow, Snapshot, TrafficPolicy

Part = TypeVar("Part", Arm, Shadow)

SETTLE_S: Final = 0.25
"""For gateways to connect to a version before its first call; they take some milliseconds."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What gateways should know now. due_ns: when to look again, None when only news matter."""

    versions: tuple[ModelVersion, ...]
    policies: tuple[TrafficPolicy, ...]
    due_ns: int | None = None

    @property
    def keys(self) -> frozenset[str]:
        """Versions, as `model@version`, whose applications must not be deleted."""
        return frozenset(version.key for version in self.versions)


class Rollout:
    """See the module docstring. Remembers since when versions have been live or without traffic."""

    def __init__(self, *, drain_s: float, clock: Clock, before: Snapshot | None) -> None:
        """before: what was published last, None in a new instance."""
        self._drain_ns = round(drain_s * 1e9)
        self._clock = clock
        self._is_first = before is None
        self._versions = {each.key: each for each in before.versions} if before else {}
        self._policies = {each.model: each for each in before.policies} if before else {}
        self._live_ns: dict[str, int] = {}
        self._idle_ns: dict[str, int] = {}

    def look(self, desired: Desired, endpoints: Sequence[ReplicaEndpoint]) -> Stage:
        """As far as everything can go now. endpoints: of the replicas that hold a lease."""
        now_ns = self._clock.monotonic_ns()
        known = {**self._versions, **{each.key: each for each in desired.versions}}
        for key in desired.refusals:
            known.pop(key, None)
        live = {f"{each.model}@{each.version}" for each in endpoints}
        live |= {key for key, each in known.items() if each.stages and _stages(each) <= live}
        self._live_ns = {key: self._live_ns.get(key, now_ns) for key in live}
        settled = self._settled(now_ns)
        policies = tuple(
            policy
            for each in desired.policies
            if (policy := self._policy(each, settled, known)) is not None
        )
        named = {key for policy in policies for key in _keys(policy) if key in known}
        coming = {each.key for each in desired.versions} & live
        leaving = self._leaving(named | coming, known, now_ns)
        keys = named | coming | leaving
        ensembles = [known[key] for key in keys if key in known]
        keys |= {stage for each in ensembles for stage in _stages(each)}
        versions = {key: version for key, version in known.items() if key in keys}
        self._versions, self._is_first = versions, False
        self._policies = {each.model: each for each in policies}
        return Stage(tuple(versions.values()), policies, self._due_ns(now_ns, leaving))

    def _settled(self, now_ns: int) -> frozenset[str]:
        """Versions that gateways have had time to connect to."""
        since_ns = now_ns - round(SETTLE_S * 1e9)
        return frozenset(
            key
            for key, live_ns in self._live_ns.items()
            if key in self._versions and live_ns <= since_ns
        )

    def _policy(
        self,
        wanted: TrafficPolicy,
        settled: Collection[str],
        known: Collection[str],
    ) -> TrafficPolicy | None:
        """The policy of a model for now; None while it has nothing to answer with."""
        before = self._policies.get(wanted.model)
        if before is None:
            is_there = f"{wanted.model}@{wanted.stable}" in settled
            return wanted if self._is_first or is_there else None
        arrived = f"{wanted.model}@{wanted.stable}" in settled
        stable = wanted.stable if arrived else before.stable
        # Until traffic moves the version that will answer keeps the part that it had.
        waiting = "" if arrived else wanted.stable

        def may(version: VersionName, held: Collection[VersionName]) -> bool:
            key = f"{wanted.model}@{version}"
            return version != stable and key in known and (key in settled or version in held)

        return replace(
            wanted,
            stable=stable,
            shadows=_there(wanted.shadows, before.shadows, waiting=waiting, may=may),
            arms=_there(wanted.arms, before.arms, waiting=waiting, may=may),
        )

    def _leaving(
        self, staying: Collection[str], known: Collection[str], now_ns: int
    ) -> frozenset[str]:
        """Versions without traffic whose time has not run out."""
        idle = [key for key in self._versions if key in known and key not in staying]
        self._idle_ns = {key: self._idle_ns.get(key, now_ns) for key in idle}
        oldest_ns = now_ns - self._drain_ns
        return frozenset(key for key, since_ns in self._idle_ns.items() if since_ns > oldest_ns)

    def _due_ns(self, now_ns: int, leaving: Collection[str]) -> int | None:
        settle_ns = round(SETTLE_S * 1e9)
        dues = [self._idle_ns[key] + self._drain_ns for key in leaving]
        dues += [live_ns + settle_ns for live_ns in self._live_ns.values()]
        return min((due for due in dues if due > now_ns), default=None)


def _there(
    parts: Sequence[Part],
    had: Sequence[Part],
    *,
    waiting: str,
    may: Callable[[VersionName, Collection[VersionName]], bool],
) -> tuple[Part, ...]:
    """Those whose versions may take their part now. had: the parts before. waiting: the version
    that will answer."""
    held = {part.version for part in had}
    found: list[Part] = []
    found.extend(parts)
    found.extend([part for part in had if part.version == waiting])
    return tuple([part for part in found if may(part.version, held)])


def answering(snapshot: Snapshot | None) -> list[str]:
    """The versions, as `model@version`, that gateways were told to ask last."""
    return [f"{each.model}@{each.stable}" for each in snapshot.policies] if snapshot else []


def _stages(version: ModelVersion) -> set[str]:
    """What an ensemble is made of; nothing of a version with replicas of its own."""
    return {stage.key for stage in version.stages}


def _keys(policy: TrafficPolicy) -> Iterator[str]:
    for version in policy.versions:
        yield f"{policy.model}@{version}"
