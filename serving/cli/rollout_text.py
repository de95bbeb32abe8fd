"""A rollout in words and figures, for a terminal."""

from serving.cli.output import instant, table
from serving.control.rollout_desk import RolloutList, RolloutView
from serving.governance.gates import Reading
from serving.governance.rollout_book import Rollout


def details(view: RolloutView, *, now_ns: int) -> str:
    """How far it is, what every gate says, and what happened last."""
    rollout = view.rollout
    lines = [
        f"{rollout.model}: version {rollout.candidate} beside {rollout.stable}, {_state(view)}"
    ]
    if rollout.is_active:
        lines.append(_place(view, now_ns))
    if rollout.reason:
        lines.append(f"  why: {rollout.reason}")
    if rollout.settled:
        lines.append(f"  version {rollout.settled} answers")
    if rollout.warm_until_ns > now_ns:
        lines.append(
            f"  version {rollout.stable} stays warm until {instant(rollout.warm_until_ns // 10**9)}"
        )
    readings = view.readings or rollout.evidence
    if readings:
        lines.append(_gates(readings))
    return "\n".join(lines)


def summary(found: RolloutList) -> str:
    heads = ("MODEL", "CANDIDATE", "BESIDE", "STATE", "WEIGHT", "STEP", "STARTED", "BY", "GATE")
    return table(heads, [_row(each) for each in found.rollouts])


def _state(view: RolloutView) -> str:
    state = view.rollout.state.replace("_", " ")
    return f"{state} (the registry does not know yet)" if view.unrecorded else state


def _place(view: RolloutView, now_ns: int) -> str:
    rollout = view.rollout
    left_s = max(view.holds_until_ns - now_ns, 0) / 1e9
    told = "" if view.published is None else f", gateways were told {view.published:.2%}"
    return (
        f"  step {rollout.step + 1} of {len(rollout.plan.steps)}: {view.weight:.2%}{told}, "
        f"{view.requests} of {rollout.at.min_requests} requests, {left_s:.0f} s left"
    )


def _gates(readings: tuple[Reading, ...]) -> str:
    rows = [
        (
            f"  {each.gate}",
            each.status,
            _number(each.value),
            f"{_number(each.low)} .. {_number(each.high)}",
            f"{each.limit:g}",
            each.detail,
        )
        for each in readings
    ]
    return table(("  GATE", "SAYS", "VALUE", "INTERVAL", "LIMIT", ""), rows)


def _row(rollout: Rollout) -> tuple[str, ...]:
    return (
        rollout.model,
        rollout.candidate,
        rollout.stable,
        rollout.state.value,
        f"{rollout.weight:.2%}",
        f"{rollout.step + 1}/{len(rollout.plan.steps)}",
        instant(rollout.created_ns // 10**9),
        rollout.created_by,
        rollout.gate or "-",
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
