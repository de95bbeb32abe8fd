"""Runs the tests, from a bare clone too: `python3 -m tests [--quick] [--again] [arguments of pytest]`.

Makes `.venv` with everything that tests need when there is none. Without arguments the whole suite
runs; `--quick` leaves out what starts a real Ray and what kills, fills and cuts for real. What needs
a program of the operating system that is not installed (wrk) is skipped with that reason.

`--again` runs a few that failed once more, one after another, and says so: many tests start whole
instances, two at a time on two cores, and a host that takes a core away for seconds can starve one.
What fails alone, too, has failed, as has the run when more than a few failed.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from serving.bootstrap import ensure

CLONE = Path(__file__).resolve().parents[1]
QUICK = ["-m", "not ray and not faults"]
PARALLEL = ["-n", "2", "--dist", "loadfile"]
"""One process for each of two cores; the tests of a file share what it starts. See `tests.order`."""
ALONE = ["-n", "0", "--last-failed", "--last-failed-no-failures", "none", "-rA"]
FEW = 5
FAILED_TESTS = 1
"""Exit status of pytest when tests failed, and nothing else was wrong."""
LAST_FAILED = Path(".pytest_cache/v/cache/lastfailed")


def pytest_command(arguments: Sequence[str]) -> list[str]:
    """The command for these arguments; `--quick` is ours, the others are pytest's."""
    rest = [argument for argument in arguments if argument != "--quick"]
    chosen = QUICK if len(rest) < len(arguments) else []
    return [sys.executable, "-m", "pytest", *PARALLEL, *chosen, *rest]


def run_again(command: Sequence[str]) -> int:
    """Exit status of the command, or of what failed in it when that ran alone."""
    LAST_FAILED.unlink(missing_ok=True)
    status = subprocess.run(command, check=False).returncode  # noqa: S603 - our own
    if status != FAILED_TESTS:
        return status
    failed = list(json.loads(LAST_FAILED.read_text()))
    if len(failed) > FEW:
        return status
    sys.stdout.write("\n  ".join(["failed beside others, once more alone:", *failed]) + "\n")
    sys.stdout.flush()
    return subprocess.run([*command, *ALONE], check=False).returncode  # noqa: S603 - our own


if __name__ == "__main__":
    ensure(extra="dev")
    os.chdir(CLONE)
    again = "--again" in sys.argv
    command = pytest_command([each for each in sys.argv[1:] if each != "--again"])
    if again:
        sys.exit(run_again(command))
    os.execv(command[0], command)  # noqa: S606 - the arguments are the developer's own
