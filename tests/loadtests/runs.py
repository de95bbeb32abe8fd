"""The benchmark's programs, run as people run them."""

import subprocess
import sys
from pathlib import Path

from loadtests.report import RESULTS

ROOT = Path(__file__).resolve().parents[2]


def run(module: str, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Its end, after which no folder of its own is left; others may run beside it."""
    command = [sys.executable, "-m", f"loadtests.{module}", *arguments]
    with subprocess.Popen(  # noqa: S603 - our own command
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            output, errors = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.terminate()
            raise
    assert list(RESULTS.glob(f"run-{process.pid}-*")) == []
    return subprocess.CompletedProcess(command, process.returncode, output, errors)
