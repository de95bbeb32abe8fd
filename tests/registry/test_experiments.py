"""When experiments ran, as the audit trail knows it."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from serving.audit.chain import Entry
from serving.audit.events import EventName
from serving.core.models import ModelName, VersionName
from serving.core.traffic import Arm, TrafficPolicy
from serving.errors import NotFound
from serving.registry.entities import Traffic
from serving.registry.experiments import (
    LAST_EPOCH,
    ExperimentRun,
    experiment_runs,
    last_run,
    routed_epochs,
)
from serving.registry.shares import ArmOrder, ShadowOrder


def set_at(at_ns: int, *, actor: str = "ada", **traffic: Any) -> Entry:
    """An event: the traffic was set to this."""
    after = msgspec.to_builtins(Traffic(model="census", stable="1", **traffic))
    return Entry(
        position=at_ns, previous="", id=f"{at_ns}", at_ns=f"{at_ns}", name=EventName.TRAFFIC_SET,
        actor=actor, tenant="", object="model:census", before=None, after=after, reason="",
        source="", request_id="",
    )  # fmt: skip


def arm(weight: float, version: str = "2") -> tuple[ArmOrder, ...]:
    return (ArmOrder(version=version, weight=weight),)


def test_a_run_is_from_its_start_to_the_change_that_ended_it() -> None:
    """Versions and shares of all arms, the stable one first, and who began it when."""
    events = [
        set_at(1),
        set_at(5, experiment="may", arms=arm(0.3), sticky="principal", actor="grace"),
        set_at(9),
    ]

    assert experiment_runs(events) == [
        ExperimentRun(
            model="census", name="may", versions=("1", "2"), shares=(0.7, 0.3), sticky="principal",
            since_ns=5, until_ns=9, started_by="grace",
        )
    ]  # fmt: skip


def test_other_shares_are_another_run() -> None:
    """A changed weight ends a run and begins the next; what decides nothing goes on."""
    copies = (ShadowOrder(version="3"),)
    events = [
        set_at(5, experiment="may", arms=arm(0.3)),
        set_at(6, experiment="may", arms=arm(0.3), shadows=copies),
        set_at(7, experiment="may", arms=arm(0.5)),
    ]

    runs = experiment_runs(events)

    assert [(each.since_ns, each.until_ns, each.shares) for each in runs] == [
        (5, 7, (0.7, 0.3)),
        (7, 0, (0.5, 0.5)),
    ]


def test_the_last_run_of_a_name_is_found() -> None:
    """By name or without one; what never was is not found."""
    runs = experiment_runs(
        [set_at(1, experiment="a", arms=arm(0.1)), set_at(2, experiment="b", arms=arm(0.1))]
    )

    assert [last_run(runs, "census", name).name for name in ("", "a", "b")] == ["b", "a", "b"]
    with pytest.raises(NotFound, match="never had an experiment 'c'"):
        last_run(runs, "census", "c")


def test_only_epochs_in_which_the_shares_were_routed_count() -> None:
    """While an arm starts, and after a candidate lost its place, nothing is part of the run."""
    [run] = experiment_runs([set_at(5, experiment="may", arms=arm(0.3), sticky="principal")])
    name, stable = ModelName("census"), VersionName("1")
    waiting = TrafficPolicy(name, stable, experiment="may", sticky="principal")
    routed = replace(waiting, arms=(Arm(VersionName("2"), 3000),), testers=("ada",))
    other = replace(routed, arms=(Arm(VersionName("2"), 3001),))

    told = [(1, waiting), (4, routed), (6, waiting), (9, routed), (12, other), (13, None)]

    assert routed_epochs(run, told) == ((4, 5), (9, 11))
    assert routed_epochs(run, told[:4]) == ((4, 5), (9, LAST_EPOCH))
    assert routed_epochs(run, [(1, waiting)]) == ()
