from pathlib import Path

from loadtests.connections import CONNECTIONS, PAYLOAD_BYTES, USUAL, payload
from loadtests.goals import GOALS, judge


def test_bodies_of_every_size_are_received_and_judged(tmp_path: Path) -> None:
    """Every size has a rate, and every goal of the case has its figure."""
    figures = payload(tmp_path, seconds=0.05)

    for size in PAYLOAD_BYTES:
        assert figures.values[f"requests per second at {size}"] > 0
    verdicts = judge([figures])
    assert {each.goal.case for each in verdicts} == {"payload"}
    assert all(each.goal.figure in figures.values for each in verdicts)


def test_goals_of_connections_name_what_is_measured() -> None:
    """The bound on the cost of many connections is about counts that the case measures."""
    figures = {goal.figure for goal in GOALS if goal.case == "connections"}

    assert f"CPU of {max(CONNECTIONS)} over that of {USUAL}" in figures
    assert USUAL in CONNECTIONS
