"""The readout of an A/B test: means of arms, differences, and when neither is to be believed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.monitoring.experiments import Better, Design, Experiment, Readout, planned_shares

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Batch:
    arm: NDArray[np.int64]
    loss: Floats
    slice: NDArray[np.object_] = field(default_factory=lambda: np.array([], object))
    total_us: Floats = field(default_factory=lambda: np.array([]))


@dataclass(frozen=True)
class Counts:
    version: str
    units: int
    requests: int = 0
    rows: int = 0
    labelled: int = 0
    failed: int = 0
    p50_us: float = math.nan
    p99_us: float = math.nan


def a_batch(arms: Sequence[Floats], *, slices: Sequence[str] = ()) -> Batch:
    """The losses of each arm; times of one millisecond; slices take turns."""
    arm = np.concatenate([np.full(len(each), place) for place, each in enumerate(arms)])
    names = np.array([slices[n % len(slices)] if slices else "" for n in range(len(arm))], object)
    return Batch(arm, np.concatenate(list(arms)), names, np.full(len(arm), 1000.0))


def read(
    arms: Sequence[Floats],
    *,
    shares: tuple[float, ...] = (0.5, 0.5),
    units: Sequence[int] = (),
    better: Better = "lower",
    both_sides: int = 0,
) -> Readout:
    counts = [
        Counts(str(place + 1), units[place] if units else len(each), requests=len(each))
        for place, each in enumerate(arms)
    ]
    experiment = Experiment(Design(shares, better=better), counts, both_sides=both_sides)
    experiment.add([a_batch(arms)])
    return experiment.readout()


def noise(seed: int, count: int, mean: float) -> Floats:
    return np.random.default_rng(seed).normal(mean, 0.1, count)


def test_the_better_arm_leads_once_it_is_shown() -> None:
    """A lower mean leads where less is better, the other one where more is; the estimate is exact."""
    arms = (noise(1, 2000, 0.5), noise(2, 2000, 0.45))

    lower, higher = read(arms), read(arms, better="higher")

    [contrast] = lower.contrasts
    loss = contrast.figures[0]
    assert (contrast.leads, higher.contrasts[0].leads) == ("2", "1")
    assert loss.estimate == pytest.approx(arms[1].mean() - arms[0].mean())
    assert loss.high is not None
    assert loss.high < 0
    assert loss.e_value > 20
    assert [each.mean for each in lower.arms] == pytest.approx([each.mean() for each in arms])


def test_nothing_is_said_of_few_units() -> None:
    """Below a hundred units in an arm there is a difference and no interval."""
    readout = read((noise(1, 5000, 0.9), noise(2, 99, 0.1)), shares=(0.98, 0.02))

    figure = readout.contrasts[0].figures[0]
    assert (figure.low, figure.status, readout.contrasts[0].leads) == (None, "insufficient", "")
    assert figure.estimate == pytest.approx(-0.8, abs=0.05)


def test_an_arm_without_units_is_nothing_to_compare() -> None:
    """Before anybody came to an arm there is no mean, no difference, no failure."""
    readout = read((noise(1, 200, 0.5), np.array([])), shares=(1.0, 0.0))

    assert readout.arms[1].mean is None
    assert readout.contrasts[0].figures[0].estimate is None
    assert readout.sample_ratio.status == "ok"


def test_shares_that_did_not_come_as_planned_cast_doubt() -> None:
    """A mismatch of planned and seen units breaks the sample ratio, and nobody leads any more."""
    arms = (noise(1, 3000, 0.5), noise(2, 2500, 0.4))

    readout = read(arms)

    assert readout.sample_ratio.status == "breach"
    assert readout.contrasts[0].leads == ""
    assert readout.doubts == ("planned shares are 50.0%, 50.0%, but came 1: 3000, 2: 2500",)


def test_callers_on_both_sides_cast_doubt() -> None:
    """Assignment that did not hold its callers is told, and nobody leads."""
    readout = read((noise(1, 2000, 0.5), noise(2, 2000, 0.4)), both_sides=3)

    assert readout.doubts == ("3 callers were answered by more than one arm",)
    assert readout.contrasts[0].leads == ""


def test_slices_have_differences_of_their_own() -> None:
    """A cut gives a figure for each of its slices, with wider intervals than the whole at its n."""
    arms = (noise(1, 1000, 0.5), noise(2, 1000, 0.4))
    counts = [Counts("1", 1000), Counts("2", 1000)]
    experiment = Experiment(Design((0.5, 0.5)), counts)
    experiment.add([a_batch(arms)])
    experiment.add_slices("SEX", [a_batch(arms, slices=["1", "2"])])

    figures = experiment.readout().contrasts[0].figures

    losses = {each.slice: each.n for each in figures if each.name == "loss_difference"}
    assert losses == {"all": 2000, "SEX=1": 1000, "SEX=2": 1000}


def test_failures_are_compared_exactly() -> None:
    """The difference of failure rates has its interval from the first request on."""
    counts = [
        Counts("1", 1000, requests=1000, failed=0),
        Counts("2", 1000, requests=1000, failed=100),
    ]
    experiment = Experiment(Design((0.5, 0.5)), counts)

    figure = experiment.readout().contrasts[0].figures[-1]

    assert (figure.name, figure.estimate) == ("failure_difference", 0.1)
    assert figure.low is not None
    assert figure.low > 0.05


def test_equal_arms_are_seldom_told_apart_however_often_one_looks() -> None:
    """Of 200 experiments with equal arms, looked at every 200 units, at most alpha see a leader."""
    alarms = 0
    for seed in range(200):
        arms = (noise(2 * seed, 2000, 0.5), noise(2 * seed + 1, 2000, 0.5))
        counts = [Counts("1", 0), Counts("2", 0)]
        experiment = Experiment(Design((0.5, 0.5)), counts)
        for start in range(0, 2000, 200):
            part = [each[start : start + 200] for each in arms]
            experiment.add([a_batch(part)])
            if experiment.readout().contrasts[0].leads:
                alarms += 1
                break

    assert alarms / 200 <= 0.05


def test_planned_shares_come_to_one() -> None:
    """The stable version gets what the arms leave."""
    assert planned_shares({"2": 0.2, "3": 0.3}) == (0.5, 0.2, 0.3)
