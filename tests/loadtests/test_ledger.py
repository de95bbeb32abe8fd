from pathlib import Path

from loadtests.goals import GOALS, judge
from loadtests.ledger import SIZES, ledger, random_rows


def test_a_small_ledger_has_every_figure_that_is_judged(tmp_path: Path) -> None:
    """Log, tables and queries are measured with the product's own parts, and every goal has its figure."""
    figures = ledger(tmp_path / "same", records=SIZES[0], times=1, say=lambda _: None)
    random = random_rows(tmp_path / "random", records=500)

    wanted = {goal.figure for goal in GOALS if goal.case == "ledger"}
    assert wanted <= figures.values.keys()
    assert {each.goal.case for each in judge([figures, random])} == {"ledger"}
    assert random.values["bytes per record, random rows"] > 256
