import json
from pathlib import Path

import pytest

from tests.loadtests.runs import run


def test_an_unknown_case_is_refused_with_the_known_ones() -> None:
    """A typing error measures nothing."""
    done = run("overload", "--only", "overlaod-fixed")

    assert done.returncode == 2
    assert "no case 'overlaod-fixed'" in done.stderr
    assert "overload-fixed" in done.stderr


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_a_short_overload_is_survived() -> None:
    """Twice and four times what a known model can do: what it can is served, the rest refused, and
    nothing is left behind. Goals of time are not judged here: other tests share the machine."""
    done = run("overload", "--only", "overload-fixed", "--seconds", "2", timeout_s=240)

    assert done.returncode in (0, 1), done.stderr
    written = Path(done.stderr.rpartition("written to ")[2].strip())
    figures = json.loads(written.read_bytes())["cases"]["overload-fixed"]
    written.unlink()
    assert figures["goodput over capacity"] > 0.5
    assert figures["refused"] > 100
    assert figures["unanswered"] == 0
    assert figures["RSS growth MiB"] < 64
