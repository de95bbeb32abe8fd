import json
from pathlib import Path

import pytest

from loadtests.goals import GOALS, Figures, conclusion, judge, save
from loadtests.overload import CASES


def figures(**values: float) -> Figures:
    made = Figures("overload-fixed")
    for goal in GOALS:
        if goal.case == made.case:
            made.add(goal.figure, goal.bound)
    for name, value in values.items():
        made.add(name.replace("_", " "), value)
    return made


def test_figure_at_its_bound_is_kept() -> None:
    """Bounds belong to what is permitted."""
    verdicts = judge([figures()])

    assert len(verdicts) > 5
    assert not any(verdict.missed for verdict in verdicts)
    assert conclusion(verdicts).endswith("passed")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("goodput_over_capacity", 0.94),
        ("accepted_p99_ms", 101),
        ("RSS_growth_MiB", 65),
        ("unanswered", 1),
        ("accepted_p99_ms", float("nan")),
        ("refusal_p99_ms", float("inf")),
    ],
)
def test_figure_beyond_its_bound_fails_the_run(name: str, value: float) -> None:
    """On either side, and a figure that is no number is a miss."""
    verdicts = judge([figures(**{name: value})])

    assert [each.goal.figure for each in verdicts if each.missed] == [name.replace("_", " ")]
    assert conclusion(verdicts).endswith("FAILED")


def test_case_that_was_not_measured_has_no_verdict() -> None:
    """What was not asked for is neither kept nor missed."""
    assert judge([]) == []


def test_every_case_has_a_goal() -> None:
    """Every case of overload has a goal, under its own name."""
    assert set(CASES) <= {goal.case for goal in GOALS}


def test_results_are_kept_as_json(tmp_path: Path) -> None:
    """Figures, goals and where they were measured."""
    measured = figures()

    path = save({"machine": {"cores": "2"}}, [measured], judge([measured]), folder=tmp_path)

    content = json.loads(path.read_bytes())
    assert content["cases"]["overload-fixed"] == measured.values
    assert content["facts"] == {"machine": {"cores": "2"}}
    assert not any(verdict["missed"] for verdict in content["verdicts"])
