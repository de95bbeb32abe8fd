import json
import shutil

import pytest

from loadtests.cases import CASES
from tests.loadtests.runs import run


def test_cases_have_distinct_names() -> None:
    """A name means one thing in tables, goals and --only."""
    names = [case.name for case in CASES]

    assert len(set(names)) == len(names)


def test_servers_need_to_start_only_once() -> None:
    """In the order of the cases no server that was ended is needed again."""
    for name in {side.server for case in CASES for side in case.sides} - {"raw"}:
        needed = [name in case.servers for case in CASES]
        first, last = needed.index(True), len(needed) - needed[::-1].index(True)
        assert all(needed[first:last]), name


def test_an_unknown_case_is_refused_with_the_known_ones() -> None:
    """A typing error measures nothing."""
    done = run("benchmark", "--only", "m1-jsno-c64")

    assert done.returncode == 2
    assert "no case 'm1-jsno-c64'" in done.stderr
    assert "m1-json-c64" in done.stderr


@pytest.mark.faults
@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_a_short_run_measures_the_product_and_leaves_nothing() -> None:
    """One case by the real product: right answers, no failed request, no folder left behind."""
    done = run(
        "benchmark",
        "--quick",
        "--seconds",
        "1",
        "--json",
        "--ratios-only",
        "--only",
        "m1-binary-c64",
        timeout_s=280,
    )

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (case,) = report["cases"]
    assert case["sides"][0]["rate_per_s"] > 100
    assert 0 < case["sides"][0]["cpu_s_per_1000"] < 10
    assert (case["sides"][0]["errors"], report["faults"]) == (0, [])
