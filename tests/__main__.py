"""Runs the tests, from a bare clone too: `python3 -m tests [--quick] [arguments of pytest]`.

Makes `.venv` with everything that tests need when there is none. Without arguments the whole suite
runs; `--quick` leaves out what starts a real Ray and what kills, fills and cuts for real. What needs
a program of the operating system that is not installed (wrk) is skipped with that reason.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from serving.bootstrap import ensure

CLONE = Path(__file__).resolve().parents[1]
QUICK = ["-m", "not ray and not faults"]
PARALLEL = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
"""One process for each of two cores; the tests of a file share what it starts."""


def pytest_command(arguments: Sequence[str]) -> list[str]:
    """The command for these arguments; `--quick` is ours, the others are pytest's."""
    rest = [argument for argument in arguments if argument != "--quick"]
    chosen = QUICK if len(rest) < len(arguments) else []
    return [sys.executable, "-m", "pytest", *PARALLEL, *chosen, *rest]


if __name__ == "__main__":
    ensure(extra="dev")
    os.chdir(CLONE)
    command = pytest_command(sys.argv[1:])
    os.execv(command[0], command)  # noqa: S606 - the arguments are the developer's own
