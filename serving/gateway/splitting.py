"""Which version answers a request that chose none: the stable one, or an arm by its weight.

Sticky by request, points are multiples of the golden ratio, modulo one: however few of them are
looked at, and at whatever distance from each other, no side has one request more than its share by
more than a handful, in each worker by itself. Sticky by a caller's key, the point is a hash of the
policy's salt and the key, the same in every worker and after every restart. An arm answers the points
in its own part of [0, `FULL`), the first arms from below, the last from above: the stable version has
what is between, so that raising a weight moves callers from it and nobody back.

An arm without a ready replica answers nobody: its share goes to the stable version at once. Its
points stay its own, so callers come back to it when it does.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final, Protocol

from serving.core.principals import Principal
from serving.core.traffic import FULL, Arm, Segment, Sticky, TrafficPolicy
from serving.gateway.batching import VersionQueue

STICKY_HEADER: Final = "serving-sticky-key"
SUBJECT_HEADER: Final = "serving-subject"
GOLDEN: Final = 0x9E37_79B9_7F4A_7C15
"""2**64 divided by the golden ratio; odd."""
_MASK: Final = 2**64 - 1
_HALF: Final = 2**63


class Heard(Protocol):
    """What a request says of itself besides its body."""

    def header(self, name: str) -> bytes: ...


class Turns:
    """Counts the requests of a model in this worker; outlives snapshots."""

    __slots__ = ("point",)

    def __init__(self) -> None:
        self.point = _HALF

    def take(self) -> int:
        """The next point, of `FULL`."""
        self.point = (self.point + GOLDEN) & _MASK
        return self.point * FULL >> 64


def point_of_sequence(sequence: int) -> int:
    """Of `FULL`, a hash (the one of SplitMix64): copies take sequences, too, so that whatever is
    regular in sequences would depend on what was copied before."""
    bits = sequence * GOLDEN & _MASK
    bits = (bits ^ bits >> 30) * 0xBF58_476D_1CE4_E5B9 & _MASK
    bits = (bits ^ bits >> 27) * 0x94D0_49BB_1331_11EB & _MASK
    return (bits ^ bits >> 31) * FULL >> 64


def point_of_key(salt: str, key: bytes) -> int:
    """Of `FULL`."""
    digest = blake2b(salt.encode() + b"\0" + key, digest_size=8).digest()
    return int.from_bytes(digest, "little") * FULL >> 64


def parts_of(arms: Sequence[Arm]) -> tuple[tuple[int, int], ...]:
    """The points of each arm, from the first to before the last."""
    parts, below = [], 0
    for arm in arms[:-1]:
        parts.append((below, below + arm.weight))
        below += arm.weight
    return (*parts, *((FULL - arm.weight, FULL) for arm in arms[-1:]))


class Split:
    """The arms of one model under one policy."""

    def __init__(
        self,
        policy: TrafficPolicy,
        stable: VersionQueue,
        arms: Sequence[tuple[Arm, VersionQueue]],
        *,
        turns: Turns,
        diverted: Callable[[VersionQueue], None],
    ) -> None:
        """diverted: told of each request that an arm could not take."""
        parts = dict(zip([arm.version for arm in policy.arms], parts_of(policy.arms), strict=True))
        self.arms = tuple(queue for _, queue in arms)
        self._parts = [(*parts[arm.version], queue) for arm, queue in arms if arm.weight]
        self._stable = stable
        self._sticky: Sticky = policy.sticky
        self._salt = policy.salt
        self._turns = turns
        self._diverted = diverted

    def choose(self, exchange: Heard, principal: Principal) -> VersionQueue:
        """Who answers now."""
        point = self._point(exchange, principal)
        for first, end, queue in self._parts:
            if first <= point < end:
                if queue.ready:
                    return queue
                self._diverted(queue)
                break
        return self._stable

    def relieve(self) -> None:
        """Gives what waits for an arm without a replica to the stable version, if that can take it."""
        for queue in self.arms:
            if queue.queued_rows and not queue.ready and _is_alike(queue, self._stable):
                for _ in range(queue.hand_over(self._stable)):
                    self._diverted(queue)

    def _point(self, exchange: Heard, principal: Principal) -> int:
        if self._sticky == "request":
            return self._turns.take()
        key = b""
        if self._sticky == "header":
            key = exchange.header(STICKY_HEADER)
        elif self._sticky == "subject":
            key = exchange.header(SUBJECT_HEADER)
        return point_of_key(self._salt, key or principal.subject.encode())


def _is_alike(queue: VersionQueue, other: VersionQueue) -> bool:
    """Whether a request that was read for one version can be run by the other."""
    one, another = queue.version, other.version
    shape = (one.inputs, one.outputs, one.batched, one.finite_inputs)
    return shape == (another.inputs, another.outputs, another.batched, another.finite_inputs)


def fitting(
    segments: frozenset[Segment], exchange: Heard, principal: Principal
) -> frozenset[Segment]:
    """Those segments that a request belongs to."""
    return frozenset(each for each in segments if _said(each, exchange, principal) == each.value)


def _said(segment: Segment, exchange: Heard, principal: Principal) -> str:
    if segment.by == "principal":
        return principal.subject
    if segment.by == "tenant":
        return principal.tenant
    return exchange.header(segment.by.removeprefix("header:")).decode("utf-8", "replace")
