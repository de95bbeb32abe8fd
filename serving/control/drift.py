"""Where what runs is not what should: one value for each difference, empty when there is none.

refused      a version should serve and must not; the last good one goes on, if there is one
failed       its application does not come up; it is tried again
not_running  it has not been deployed yet, or is on its way up
too_few      fewer replicas than the least
not_moved    callers are answered by another version than they should be, or in other shares
unwanted     an application runs that nobody wants; it is drained, then deleted
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from serving.control.desired import Desired
from serving.control.reconciler import Failure
from serving.core.traffic import FULL, Snapshot, TrafficPolicy
from serving.inference.plans import ApplicationPlan, ApplicationReport, key_of

Difference = Literal["refused", "failed", "not_running", "too_few", "not_moved", "unwanted"]


class Drift(msgspec.Struct, frozen=True):
    """One difference. what: it is about, `model@version` or an application. detail: in words."""

    difference: Difference
    what: str
    detail: str


def drift_of(
    desired: Desired,
    *,
    snapshot: Snapshot,
    reported: Mapping[str, ApplicationReport],
    failures: Mapping[str, Failure],
    now_ns: int,
) -> tuple[Drift, ...]:
    """Every difference there is. snapshot: what gateways were told last."""
    found = [Drift("refused", key, reason) for key, reason in desired.refusals.items()]
    for plan in desired.plans:
        found += _of_plan(plan, reported.get(plan.name), failures.get(plan.name), now_ns)
    found += _of_traffic(desired, snapshot)
    wanted = {plan.name for plan in desired.plans}
    # The last good version may answer in place of another: that is `not_moved`.
    answering = {f"{policy.model}@{policy.stable}" for policy in snapshot.policies}
    answering -= {plan.key for plan in desired.plans}
    found += [
        Drift("unwanted", key_of(name), f"application {name} is {report.state}")
        for name, report in reported.items()
        if name not in wanted and key_of(name) not in answering
    ]
    return tuple(found)


def _of_plan(
    plan: ApplicationPlan,
    report: ApplicationReport | None,
    failure: Failure | None,
    now_ns: int,
) -> Iterator[Drift]:
    if failure is not None:
        wait_s = max(failure.retry_ns - now_ns, 0) / 1e9
        attempts = f"attempt {failure.attempts}, the next in {wait_s:.0f} s"
        yield Drift("failed", plan.key, f"{failure.message} ({attempts})")
    elif report is None:
        yield Drift("not_running", plan.key, "not deployed yet")
    elif report.state != "running":
        yield Drift("not_running", plan.key, f"its application is {report.state}")
    elif report.replicas < plan.min_replicas:
        detail = f"{report.replicas} replicas of at least {plan.min_replicas}"
        yield Drift("too_few", plan.key, detail)


def _of_traffic(desired: Desired, snapshot: Snapshot) -> Iterator[Drift]:
    published = {policy.model: policy for policy in snapshot.policies}
    for wanted in desired.policies:
        key = f"{wanted.model}@{wanted.stable}"
        now = published.get(wanted.model)
        if now is None:
            yield Drift("not_moved", key, "it should answer; nothing does yet")
        elif now.stable != wanted.stable:
            yield Drift("not_moved", key, f"it should answer; {now.model}@{now.stable} does")
        if now is not None:
            yield from _of_arms(wanted, now)


def _of_arms(wanted: TrafficPolicy, now: TrafficPolicy) -> Iterator[Drift]:
    for arm in wanted.arms:
        told, should = now.weight_of(arm.version) / FULL, arm.weight / FULL
        if told != should:
            detail = f"{should:.2%} of the requests are its share, not {told:.2%}"
            yield Drift("not_moved", f"{wanted.model}@{arm.version}", detail)
