"""What gateway workers tell the control plane about the traffic that they had: sums, never records.

All counts grow from a worker's start on, so that a report which is lost costs nothing: the next one
says it again. Whoever wants to know what happened lately takes two of them apart (`since`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Role = Literal["stable", "canary", "shadow", "chosen"]
"""What a version did: it answered for its model, or a share; it got copies; callers chose it."""

LATENCY_BOUNDS_S: Final = (
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Upper bounds of the buckets; one more is above the last."""
NO_BUCKETS: Final = (0,) * (len(LATENCY_BOUNDS_S) + 1)


@dataclass(frozen=True, slots=True)
class VersionCounts:
    """One version in one role.

    generation: of these counts; a version that left a worker and came back counts anew, in a later
    one. A sum over generations has the latest. ok: answered. failed: the others, by fate. latency_buckets: answered requests that took at most
    each bound, and at last all. latency_us_sum: how long those took. run_us_sum: model time, a
    batch's shared out by rows. rows: that were run. mirrored, dropped: copies made for it, and not
    made for want of room or budget.
    """

    model: str
    version: str
    role: Role
    generation: int = 0
    ok: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    latency_buckets: tuple[int, ...] = NO_BUCKETS
    latency_us_sum: int = 0
    run_us_sum: int = 0
    rows: int = 0
    mirrored: int = 0
    dropped: int = 0

    @property
    def failures(self) -> int:
        """All fates but answers; callers that went away are among them."""
        return sum(self.failed.values())

    def plus(self, other: "VersionCounts") -> "VersionCounts":
        return self._with(other, 1)

    def since(self, before: "VersionCounts") -> "VersionCounts":
        """What came after `before`."""
        return self._with(before, -1)

    def quantile_s(self, share: float) -> float | None:
        """The bound below which that share of the answers came; None without any. Answers above
        the last bound count as infinitely late."""
        if not self.ok:
            return None
        bounds = (*LATENCY_BOUNDS_S, float("inf"))
        wanted = share * self.latency_buckets[-1]
        counts = zip(bounds, self.latency_buckets, strict=True)
        return next((bound for bound, count in counts if count >= wanted), float("inf"))

    def _with(self, other: "VersionCounts", sign: int) -> "VersionCounts":
        names = {**self.failed, **other.failed}
        failed = {
            name: self.failed.get(name, 0) + sign * other.failed.get(name, 0) for name in names
        }
        pairs = zip(self.latency_buckets, other.latency_buckets, strict=True)
        return VersionCounts(
            self.model,
            self.version,
            self.role,
            generation=max(self.generation, other.generation),
            ok=self.ok + sign * other.ok,
            failed={name: count for name, count in failed.items() if count},
            latency_buckets=tuple(one + sign * another for one, another in pairs),
            latency_us_sum=self.latency_us_sum + sign * other.latency_us_sum,
            run_us_sum=self.run_us_sum + sign * other.run_us_sum,
            rows=self.rows + sign * other.rows,
            mirrored=self.mirrored + sign * other.mirrored,
            dropped=self.dropped + sign * other.dropped,
        )


@dataclass(frozen=True, slots=True)
class GatewayReport:
    """What one worker counted since it started. worker: its name, which its successor has, too.

    started_ns, at_ns: wall times. epoch: of the snapshot that it routes by.
    """

    worker: str
    started_ns: int
    at_ns: int
    epoch: int
    versions: tuple[VersionCounts, ...] = ()
