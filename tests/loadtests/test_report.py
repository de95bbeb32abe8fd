import json
from pathlib import Path

import pytest

from loadtests.ceilings import RunRate, SyncRate
from loadtests.report import Report, as_json, as_text, conclusion, save
from loadtests.summaries import summarise
from loadtests.thresholds import evaluate
from loadtests.windows import CaseResult, Plan
from tests.loadtests.samples import a_result, a_window

SWEEP = [RunRate(rows, rows=rows * 1000, seconds=1.0, cpu_s=1.0, run_ms=(1.0,)) for rows in (1, 16)]


def a_report(*results: CaseResult, absolute_binds: bool = True, fault: str = "") -> Report:
    cases = [summarise(result) for result in results]
    return Report(
        facts={"on": {"authentication": "on"}},
        plan=Plan(repetitions=1, attempts=1, seconds=2, warm_up_s=1),
        sweeps={"M1": SWEEP},
        sync=SyncRate(3000.0, 0.3, 0.5, "ext4"),
        results=results,
        cases=cases,
        verdicts=evaluate(cases, absolute_binds=absolute_binds),
        faults=[fault] if fault else [],
    )


def slow() -> CaseResult:
    return a_result("m1-json-c64", (a_window(27_000),))


def unfair() -> CaseResult:
    return a_result("log-off-c256", (a_window(800), a_window(1000)), drift=0.5)


def test_the_conclusion_names_what_was_missed_and_by_how_much() -> None:
    """Absolute goals and ratios have a line each, then their misses."""
    lines = conclusion(a_report(slow(), unfair())).splitlines()

    assert lines[0].endswith("1 missed, 0 kept")
    assert "m1-json-c64 (one-row JSON): 27,000 req/s, at least 30,000 req/s" in lines[1]
    assert lines[1].endswith("10.0% below it")
    ratios = lines.index("ratios (every machine): 1 missed, 0 kept")
    assert "log-off-c256 (synced log over no log): 0.8, at least 0.9" in lines[ratios + 1]
    assert lines[-1] == "FAILED"


@pytest.mark.parametrize(
    ("report", "failed"),
    [
        (a_report(slow()), True),
        (a_report(slow(), absolute_binds=False), False),
        (a_report(unfair(), absolute_binds=False), True),
        (a_report(a_result("m1-json-c128", (a_window(1),))), False),
        (a_report(fault="3 requests failed"), True),
    ],
    ids=["absolute-missed", "absolute-elsewhere", "ratio-missed", "no-goal", "fault"],
)
def test_a_run_fails_for_a_binding_miss_or_a_fault(report: Report, failed: bool) -> None:
    """Nothing else fails it: not a miss elsewhere, not a case without a goal."""
    assert report.failed == failed


def test_the_tables_hold_every_side_and_mark_disturbed_windows() -> None:
    """Each side has its line; a repetition kept in spite of a neighbour is marked."""
    text = as_text(a_report(slow(), unfair()))

    (first,) = [line for line in text.splitlines() if line.startswith("log-off-c256  product")]
    assert "1 kept, 0 dropped, 1 DISTURBED" in first
    assert "log-off  M1" in text
    assert "best at 16" in text
    assert "authentication  on" in text


def test_the_json_holds_figures_windows_and_states(tmp_path: Path) -> None:
    """What is saved can be read back and says the same as the tables."""
    path = save(a_report(slow(), fault="one request failed"), folder=tmp_path / "results")

    content = json.loads(path.read_bytes())
    assert content == json.loads(as_json(a_report(slow(), fault="one request failed")))
    assert content["cases"][0]["sides"][0]["rate_per_s"] == 27_000
    assert content["windows"][0]["repetitions"][0]["windows"][0]["requests"] == 54_000
    assert content["verdicts"][0]["state"] == "MISSED"
    assert (content["failed"], content["faults"]) == (True, ["one request failed"])
