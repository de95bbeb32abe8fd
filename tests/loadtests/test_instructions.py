from pathlib import Path

import pytest

from loadtests.instruction_steps import ROWS, steps
from loadtests.instructions import Counts, build, load, table, total


def counts(**steps: int) -> Counts:
    return Counts("a build", steps)


def test_growth_within_the_margin_is_permitted() -> None:
    """Not quite three per cent more are, four are not; a new step has nothing to be compared with."""
    before = counts(decode=1000, encode=1000)

    assert counts(decode=1029, encode=500, new=7).worse_than(before) == {}
    assert counts(decode=1000, encode=1040).worse_than(before) == {
        "encode": pytest.approx(0.04),
    }


def test_table_shows_every_step_and_its_change() -> None:
    """A person sees what was counted beside what is on record."""
    text = table(counts(decode=1020, new=5), counts(decode=1000))

    assert text.splitlines()[1].split() == ["decode", "1,020", "1,000", "+2.0", "%"]
    assert text.splitlines()[2].split() == ["new", "5", "0", "new"]


def test_total_is_read_from_what_callgrind_writes(tmp_path: Path) -> None:
    """A dump without one was cut short, and is no figure."""
    dump = tmp_path / "out.2"
    dump.write_text("events: Ir\nfn=(1) main\n1 5\ntotals: 4711\n")
    assert total(dump) == 4711

    dump.write_text("events: Ir\n")
    with pytest.raises(ValueError, match="cut short"):
        total(dump)


def test_steps_do_the_work_of_a_frame() -> None:
    """What is counted decodes, encodes and records as many requests as it says."""
    done = steps()

    assert len(done["decode_json"]()) == ROWS
    assert len(done["log_encode"]()) == ROWS


def test_every_step_is_on_record() -> None:
    """A step without a figure would guard nothing."""
    assert set(load().steps) == set(steps()) - {"nothing"}
    assert "numpy" in build()
