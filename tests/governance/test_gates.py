"""Gates as functions of counts and figures: ok, breach or insufficient, with their numbers."""

import random

import pytest

from serving.core.reports import LATENCY_BOUNDS_S
from serving.governance.gates import (
    Counts,
    Reading,
    read_comparison,
    read_errors,
    read_figure,
    read_latency,
    worst,
)
from serving.monitoring.figures import Figure

ALPHA = 0.01


def errors(candidate: Counts, stable: Counts, *, limit: float = 0.01) -> Reading:
    return read_errors(candidate, stable, limit=limit, least=100, alpha=ALPHA)


def timed(n: int, each_s: float) -> Counts:
    """Answers that all took about as long."""
    buckets = tuple(n if each_s <= bound else 0 for bound in LATENCY_BOUNDS_S)
    return Counts(ok=n, buckets=(*buckets, n))


def latency(candidate: Counts, stable: Counts) -> Reading:
    return read_latency(candidate, stable, LATENCY_BOUNDS_S, limit=1.5, least=100, alpha=ALPHA)


@pytest.mark.parametrize(
    ("candidate", "status"),
    [
        (Counts(ok=0), "insufficient"),
        (Counts(ok=99), "insufficient"),
        (Counts(ok=100), "ok"),
        (Counts(ok=98, failed=2), "insufficient"),
        (Counts(ok=70, failed=30), "breach"),
        (Counts(ok=2, failed=10), "breach"),
    ],
)
def test_errors_break_only_when_large_and_significant(candidate: Counts, status: str) -> None:
    """Two failures of a hundred are a reason to wait, ten of twelve are one to go back."""
    assert errors(candidate, Counts(ok=900)).status == status


def test_failures_of_both_versions_are_nobodys_fault() -> None:
    """When everything fails a fifth of the time the candidate is as good as the other."""
    assert errors(Counts(ok=800, failed=200), Counts(ok=8000, failed=2000)).status == "ok"


def test_reading_holds_every_number_that_it_rests_on() -> None:
    """Estimate, interval, limit and both counts, for people and for the trail."""
    found = errors(Counts(ok=70, failed=30), Counts(ok=900))

    assert (found.value, found.limit, found.n, found.beside) == (0.3, 0.01, 100, 900)
    assert found.low is not None
    assert found.high is not None
    assert 0 < found.low < 0.3 < found.high
    assert found.detail == "30 of 100 failed, beside 0 of 900"


@pytest.mark.parametrize(
    ("candidate", "stable", "status"),
    [
        (timed(300, 0.004), timed(900, 0.004), "ok"),
        (timed(300, 0.3), timed(900, 0.004), "breach"),
        (timed(12, 0.3), timed(100, 0.004), "breach"),
        (timed(2, 0.3), timed(100, 0.004), "insufficient"),
        (timed(300, 0.0009), timed(900, 0.0004), "ok"),
        (timed(0, 0.3), timed(900, 0.004), "insufficient"),
    ],
)
def test_latency_breaks_only_when_large_and_significant(
    candidate: Counts, stable: Counts, status: str
) -> None:
    """A dozen slow answers show it; half a millisecond is nothing that anybody waits for."""
    assert latency(candidate, stable).status == status


def test_equal_versions_are_told_apart_in_no_more_runs_than_alpha() -> None:
    """Peeking 50 times at each of 100 rollouts raises fewer false alarms than alpha permits."""
    alarms = 0
    for seed in range(100):
        dice = random.Random(seed)  # noqa: S311 - no secret
        failed = [0, 0]
        for look in range(1, 51):
            failed[0] += sum(dice.random() < 0.05 for _ in range(20))
            failed[1] += sum(dice.random() < 0.05 for _ in range(20))
            counts = [Counts(ok=look * 20 - each, failed=each) for each in failed]
            if errors(*counts, limit=0.0).status == "breach":
                alarms += 1
                break

    assert alarms <= 100 * ALPHA


def figure(name: str, **changes: object) -> Figure:
    values: dict[str, object] = {
        "name": name,
        "n": 1000,
        "estimate": 0.01,
        "low": 0.0,
        "high": 0.03,
    }
    return Figure(**values | changes)  # type: ignore[arg-type]  # by name


def test_figure_gate_reads_the_figures_that_it_is_about() -> None:
    """Disagreement of outputs, not latency and not slices; fairness the slices."""
    figures = (
        figure("latency_ratio", estimate=9.0, low=8.0),
        figure("label.label_flip"),
        figure("label.label_flip", slice="SEX=2", estimate=0.2, low=0.1, high=0.3),
        figure("score.js", estimate=0.4, low=0.3, high=0.5),
        figure("loss_difference", estimate=0.001),
    )

    read = {
        gate: read_figure(gate, figures, limit=0.05)
        for gate in ("disagreement", "fairness", "drift", "loss")
    }
    assert {gate: each.status for gate, each in read.items()} == {
        "disagreement": "ok",
        "fairness": "breach",
        "drift": "breach",
        "loss": "ok",
    }
    assert read["fairness"].detail == "label.label_flip where SEX=2"


@pytest.mark.parametrize(
    ("low", "estimate", "status"),
    [(0.06, 0.1, "breach"), (0.04, 0.1, "insufficient"), (0.0, 0.04, "ok")],
)
def test_figure_breaks_a_gate_when_its_whole_interval_is_beyond(
    low: float, estimate: float, status: str
) -> None:
    """In between nothing is decided."""
    found = read_figure(
        "disagreement", [figure("y.tolerance", low=low, estimate=estimate)], limit=0.05
    )

    assert found.status == status


def test_small_slice_holds_nobody_up_and_can_still_break_the_gate() -> None:
    """Three people, one of them answered otherwise, are no reason to wait; ten of ten are one to go."""
    large = figure("y.tolerance", slice="SEX=1")
    few = figure("y.tolerance", slice="AGE=99", n=3, estimate=0.33, low=0.0, high=0.9)
    bad = figure("y.tolerance", slice="AGE=99", n=10, estimate=1.0, low=0.6, high=1.0)

    assert read_figure("fairness", [large, few], limit=0.05).status == "ok"
    assert read_figure("fairness", [large, bad], limit=0.05).status == "breach"


def test_fairness_reads_ratios_of_selection_by_how_much_they_fall_short() -> None:
    """0.2 is the four-fifths rule; an interval that is too wide says nothing."""
    ratio = figure(
        "selection_ratio", slice="SEX=2", sense="at_least", estimate=0.7, low=0.6, high=0.75
    )
    wide = figure(
        "selection_ratio", slice="SEX=2", sense="at_least", estimate=0.9, status="insufficient"
    )

    assert read_figure("fairness", [ratio], limit=0.2).status == "breach"
    assert read_figure("fairness", [wide], limit=0.2).status == "insufficient"


def test_gate_without_a_comparison_waits() -> None:
    """Whoever names a figure wants it looked at."""
    assert read_figure("loss", (), limit=0.1).status == "insufficient"


def test_comparison_that_rejects_breaks_and_says_by_what() -> None:
    """The limits that the model's owner stated hold for rollouts, too."""
    broken = figure("y.tolerance", status="breach", limit=0.001)

    assert read_comparison([figure("y.tolerance", status="ok")]).status == "ok"
    assert (read_comparison([broken]).status, read_comparison([broken]).limit) == ("breach", 0.001)


def test_worst_reading_comes_first() -> None:
    """A breach before anything that waits."""
    readings = [
        Reading(gate=gate, status=status, limit=1.0)  # type: ignore[arg-type]  # literals
        for gate, status in (("a", "ok"), ("b", "breach"), ("c", "insufficient"))
    ]

    assert worst(readings).gate == "b"
