"""What a rollout should do next: a pure function of the rollout and of what is seen. No clock, no I/O.

In this order, the first that applies:

    traffic set by hand                           displace
    must not run, did not come up, lost its       break
    last replica while the other version has one
    a gate broke                                  break
    published with its first weight               ready
    published as the one that answers             arrive
    held long enough, every gate ok               advance, or finish after the last step
    held long enough, a gate has too little       wait

A replica that is gone together with those of the stable version says nothing about the candidate: the
machine restarts. Whatever was missed while control was away shows at the first look.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from serving.governance.gates import Counts, Reading, read_errors, read_latency, worst
from serving.governance.rollout_book import Rollout
from serving.governance.rollout_states import SHARING, RolloutState, Turn
from serving.governance.rollouts import Cause
from serving.registry.shares import whole

RELEASE: Final = "release"
WARM_UP: Final = "warm_up"
REPLICAS: Final = "replicas"
FAULT_GATES: Final = (RELEASE, WARM_UP, REPLICAS)
"""Gates that are no figures: it must not run, does not come up, or has no replica left."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen of a rollout. now_ns: wall time.

    live: the candidate has a replica; stood: it had one since this process looks; stable_live: what
    it would go back to has one. waited_s: how long this process has looked. refusal, failure: why it
    must not or does not run. published: what gateways were told that it answers, of all requests.
    """

    now_ns: int
    live: bool
    stood: bool
    stable_live: bool
    waited_s: float
    published: float
    refusal: str = ""
    failure: str = ""
    is_displaced: bool = False
    readings: tuple[Reading, ...] = ()
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Next:
    """What to do, and why."""

    turn: Turn
    cause: Cause


def decide(rollout: Rollout, sight: Sight, *, start_s: float) -> Next | None:
    """The next turn, None when there is nothing to do. start_s: how long it may take to come up."""
    if sight.is_displaced:
        return Next(Turn.DISPLACE, Cause()) if rollout.is_active else None
    cause = _fault(rollout, sight, start_s) or _broken(rollout, sight)
    if cause is not None:
        return Next(Turn.BREAK, cause)
    if whole(sight.published) == whole(rollout.weight):
        match rollout.state:
            case RolloutState.PENDING:
                return Next(Turn.READY, Cause())
            case RolloutState.PROMOTING:
                return Next(Turn.ARRIVE, Cause(evidence=rollout.evidence))
            case RolloutState.RUNNING | RolloutState.HOLDING | RolloutState.PAUSED:
                return _judge(rollout, sight)
            case _:
                pass
    return None


def _fault(rollout: Rollout, sight: Sight, start_s: float) -> Cause | None:
    """Why the candidate cannot serve at all."""
    if sight.refusal:
        return Cause(gate=RELEASE, reason=f"it must not run: {sight.refusal}")
    if sight.live or (sight.stood and not sight.stable_live):
        return None
    if sight.stood:
        return Cause(gate=REPLICAS, reason=f"it has no replica left {sight.failure}".strip())
    since_s = (sight.now_ns - rollout.since_ns) / 1e9
    reason = f"it does not come up: {sight.failure}" if sight.failure else ""
    if not reason and min(since_s, sight.waited_s) > start_s:
        reason = f"it did not come up within {start_s:g} s"
    return Cause(gate=WARM_UP, reason=reason) if reason else None


def _broken(rollout: Rollout, sight: Sight) -> Cause | None:
    """The gate that broke, in whatever state the candidate answers a share."""
    if rollout.state not in SHARING or not sight.readings:
        return None
    first = worst(sight.readings)
    if first.status != "breach":
        return None
    reason = f"gate {first.gate}: {first.detail}"
    return Cause(gate=first.gate, reason=reason, evidence=sight.readings)


def _judge(rollout: Rollout, sight: Sight) -> Next | None:
    """By time and gates, none of which is broken."""
    first = worst(sight.readings)
    held_s = (sight.now_ns - rollout.since_ns) / 1e9
    if rollout.state is RolloutState.PAUSED or held_s < rollout.at.hold_s:
        return None
    if first.status == "ok" and sight.requests >= rollout.at.min_requests:
        turn = Turn.FINISH if rollout.is_last else Turn.ADVANCE
        return Next(turn, Cause(evidence=sight.readings))
    if rollout.state is RolloutState.HOLDING:
        return None
    missing = f"{sight.requests} of {rollout.at.min_requests} requests"
    if sight.requests >= rollout.at.min_requests:
        missing = f"gate {first.gate}: {first.detail}"
    reason = f"its time is over, but there is too little to judge by: {missing}"
    return Next(Turn.WAIT, Cause(reason=reason, evidence=sight.readings))


@dataclass(slots=True)
class Window:
    """Counts of both versions since a step began, and over about the last `recent_s`."""

    step: int
    base: tuple[Counts, Counts]
    marks: deque[tuple[int, Counts, Counts]] = field(default_factory=deque)

    def move(
        self, rollout: Rollout, now_ns: int, seen: tuple[Counts, Counts], *, recent_s: float
    ) -> None:
        """seen: all that was ever counted. now_ns: monotonic."""
        if rollout.step != self.step:
            self.step, self.base = rollout.step, seen
        self.marks.append((now_ns, *seen))
        oldest_ns = now_ns - round(recent_s * 1e9)
        while len(self.marks) > 1 and self.marks[1][0] <= oldest_ns:
            self.marks.popleft()

    def readings(
        self, rollout: Rollout, bounds_s: Sequence[float], *, alpha: float
    ) -> tuple[list[Reading], int]:
        """The gates on counts, and the candidate's requests of this step. Each is read over the step
        and over the recent time, and a breach of either counts."""
        _, *now = self.marks[-1]
        _, *mark = self.marks[0]
        step = [since(one, other) for one, other in zip(now, self.base, strict=True)]
        recent = [since(one, other) for one, other in zip(now, mark, strict=True)]
        spans = [_read(rollout, span, bounds_s, alpha=alpha / 2) for span in (step, recent)]
        found = [
            one if late.status != "breach" or one.status == "breach" else late
            for one, late in zip(*spans, strict=True)
        ]
        return found, step[0].n


def since(now: Counts, before: Counts) -> Counts:
    """What was counted in between; nothing where a count fell, for then the two are not of one sum."""
    older = before.buckets or (0,) * len(now.buckets)
    buckets = tuple(one - other for one, other in zip(now.buckets, older, strict=True))
    between = Counts(now.ok - before.ok, now.failed - before.failed, buckets)
    if min(between.ok, between.failed, *buckets) < 0:
        return Counts(buckets=(0,) * len(buckets))
    return between


def _read(
    rollout: Rollout, span: Sequence[Counts], bounds_s: Sequence[float], *, alpha: float
) -> list[Reading]:
    candidate, stable = span
    limits, least = rollout.plan.limits, rollout.at.min_requests
    return [
        read_errors(candidate, stable, limit=limits["errors"], least=least, alpha=alpha),
        read_latency(
            candidate, stable, bounds_s, limit=limits["latency"], least=least, alpha=alpha
        ),
    ]
