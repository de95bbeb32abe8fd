import math

import pytest

from loadtests.cases import CASES
from loadtests.summaries import CaseSummary, summarise
from loadtests.thresholds import THRESHOLDS, Verdict, evaluate
from tests.loadtests.samples import a_result, a_window

GOALS = {(each.case, each.figure): each.bound for each in THRESHOLDS}


def verdict_on(case: CaseSummary, figure: str, *, absolute_binds: bool = True) -> Verdict:
    verdicts = evaluate([case], absolute_binds=absolute_binds)
    return next(
        each
        for each in verdicts
        if (each.threshold.case, each.threshold.figure) == (case.name, figure)
    )


def test_the_goals_are_those_that_were_promised() -> None:
    """No goal is weakened without this test changing."""
    assert GOALS == {
        ("m1-json-c64", "rate_per_s"): 30_000,
        ("m1-binary-c128", "rate_per_s"): 45_000,
        ("m1-json-c1", "p50_ms"): 0.7,
        ("m1-binary-c1", "p50_ms"): 0.7,
        ("log-off-c256", "ratio"): 0.9,
        ("m2-binary-c128", "ratio"): 0.95,
        ("plain-ray-c64", "ratio"): 90,
        ("m1-grpc-c64", "ratio"): 0.8,
    }


def test_every_goal_has_its_case() -> None:
    """A goal names a case that exists, and a ratio one with two sides."""
    sides = {case.name: len(case.sides) for case in CASES}

    assert [each for each in THRESHOLDS if each.case not in sides] == []
    assert {sides[each.case] for each in THRESHOLDS if each.figure == "ratio"} == {2}


@pytest.mark.parametrize(
    ("rate_per_s", "state", "distance"),
    [
        (30_000, "kept", "0.0% below"),
        (36_000, "kept", "20.0% above"),
        (27_000, "MISSED", "10.0% below"),
    ],
)
def test_a_rate_must_reach_its_goal(rate_per_s: float, state: str, distance: str) -> None:
    """Exactly the goal is enough; what is missing is told as a share of it."""
    case = summarise(a_result("m1-json-c64", (a_window(rate_per_s),)))

    verdict = verdict_on(case, "rate_per_s")

    assert (verdict.state, verdict.distance) == (state, distance)


@pytest.mark.parametrize(("p50_ms", "missed"), [(0.7, False), (0.71, True)])
def test_a_latency_must_stay_below_its_goal(p50_ms: float, missed: bool) -> None:
    """For latencies more is worse."""
    case = summarise(a_result("m1-json-c1", (a_window(1000, p50_ms=p50_ms),)))

    assert verdict_on(case, "p50_ms").missed == missed


@pytest.mark.parametrize(("off", "missed"), [(1000, False), (1112, True)])
def test_a_ratio_is_judged_by_pairs(off: float, missed: bool) -> None:
    """The ratio is that of requests per second, side by side."""
    case = summarise(a_result("log-off-c256", (a_window(1000), a_window(off))))

    assert verdict_on(case, "ratio").missed == missed


def test_absolute_goals_bind_on_the_reference_machine_only() -> None:
    """Elsewhere a miss is told and does not bind; a ratio binds everywhere."""
    slow = summarise(a_result("m1-json-c64", (a_window(1),)))
    unfair = summarise(a_result("plain-ray-c64", (a_window(1), a_window(1))))

    absolute = verdict_on(slow, "rate_per_s", absolute_binds=False)
    ratio = verdict_on(unfair, "ratio", absolute_binds=False)

    assert (absolute.missed, absolute.binding) == (True, False)
    assert (ratio.missed, ratio.binding) == (True, True)


def test_what_was_not_measured_is_neither_kept_nor_missed() -> None:
    """Without its case a goal says so."""
    states = {verdict.state for verdict in evaluate([], absolute_binds=True)}

    assert states == {"not measured"}


def test_a_figure_that_is_no_number_is_a_miss() -> None:
    """NaN never passes."""
    assert Verdict(THRESHOLDS[0], math.nan, binding=True).missed
