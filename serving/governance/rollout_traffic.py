"""What a rollout makes of a model's traffic: pure, from what is there to what should be there.

Shadows, testers and scale are other people's and stay as they are; only the candidate's own copies end
when it answers everything.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from sqlalchemy import Connection

from serving.core.traffic import FULL
from serving.errors import ReleaseRefused, TransitionRefused
from serving.governance.rollout_book import Rollout
from serving.governance.rollout_states import SHARING
from serving.registry.entities import RegisteredVersion, Traffic
from serving.registry.orders import TrafficOrder
from serving.registry.shares import ArmOrder, Shares, Warm, whole

Deployable = Callable[[Connection, RegisteredVersion], object]
"""Raises ReleaseRefused for a version that must not run."""


def shared(now: Traffic, rollout: Rollout, reason: str) -> TrafficOrder:
    """The candidate answers its step's share."""
    return _order(
        now,
        arms=(ArmOrder(version=rollout.candidate, weight=rollout.weight),),
        sticky=rollout.plan.sticky,
        salt=f"rollout-{rollout.id}",
        warm=tuple(each for each in now.warm if each.version != rollout.candidate),
        reason=reason or f"rollout {rollout.id}: {rollout.weight:.2%}",
    )


def promoted(now: Traffic, rollout: Rollout, until_ns: int) -> TrafficOrder:
    """The candidate answers everything, and what answered before stays warm."""
    names = {rollout.candidate, now.stable}
    return _order(
        now,
        stable=rollout.candidate,
        arms=(),
        sticky="request",
        salt="",
        shadows=tuple(each for each in now.shadows if each.version != rollout.candidate),
        warm=(
            *(each for each in now.warm if each.version not in names),
            Warm(version=now.stable, until_ns=until_ns),
        ),
        reason=rollout.reason or f"rollout {rollout.id}: promoted",
    )


def without(now: Traffic, rollout: Rollout, target: str) -> TrafficOrder | None:
    """`target` answers, and the candidate nothing; None when that is so already."""
    arms = tuple(each for each in now.arms if each.version != rollout.candidate)
    if now.stable == target and len(arms) == len(now.arms):
        return None
    gone = {target, rollout.candidate}
    return _order(
        now,
        stable=target,
        arms=tuple(each for each in arms if each.version != target),
        sticky="request",
        salt="",
        shadows=tuple(each for each in now.shadows if each.version != target),
        warm=tuple(each for each in now.warm if each.version not in gone),
        reason=rollout.reason or f"rollout {rollout.id}: rolled back",
    )


def is_displaced(now: Traffic, rollout: Rollout, *, ends: bool) -> bool:
    """Whether the traffic is somebody else's by now. ends: the candidate is to lose it; then only what
    was given to a third version is left alone."""
    shares = {arm.version: whole(arm.weight) for arm in now.arms}
    if ends:
        named = rollout.candidate in (now.stable, *shares)
        return not named and now.stable not in ("", rollout.stable)
    if rollout.state in SHARING:
        wanted = {rollout.candidate: whole(rollout.weight)}
        return (now.stable, shares) != (rollout.stable, wanted)
    return now.stable != rollout.candidate


def checked(deployable: Deployable, connection: Connection, version: RegisteredVersion) -> None:
    """Raises TransitionRefused for a version that must not run."""
    try:
        deployable(connection, version)
    except ReleaseRefused as error:
        raise TransitionRefused(f"{version.key} must not run: {error.message}") from error


def share_of(traffic: Traffic, version: str) -> float:
    """What a version is to answer, of all requests."""
    arms = {arm.version: arm.weight for arm in traffic.arms}
    if version == traffic.stable:
        return 1.0 - sum(whole(weight) for weight in arms.values()) / FULL
    return arms.get(version, 0.0)


def _order(now: Traffic, *, reason: str, **changes: Any) -> TrafficOrder:
    shares = {name: getattr(now, name) for name in Shares.__struct_fields__}
    return msgspec.convert(
        TrafficOrder(**shares | changes, reason=reason), TrafficOrder, from_attributes=True
    )
