import sys
from pathlib import Path

import pytest

from loadtests.children import ChildFailed, running
from loadtests.cpu import TreeAccount, open_account

IGNORES_SIGTERM = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
while True: time.sleep(60)
"""
LEAVES_ONE = """
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("up", flush=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
signal.pause()
"""


def test_a_child_that_dies_early_is_told_with_its_last_words(tmp_path: Path) -> None:
    """Waiting for a marker ends when the child does."""
    command = [sys.executable, "-c", "raise SystemExit('no such port')"]
    with (
        pytest.raises(ChildFailed, match="ended with status 1: no such port"),
        running(command, name="any", folder=tmp_path) as child,
    ):
        child.wait_for("up", limit_s=20)


def test_a_child_that_ignores_the_signal_is_killed(tmp_path: Path) -> None:
    """It ends anyway, and the run hears of it."""
    command = [sys.executable, "-c", IGNORES_SIGTERM]
    with (
        pytest.raises(ChildFailed, match="still running"),
        running(command, name="any", folder=tmp_path, grace_s=0.2) as child,
    ):
        child.wait_for("up", limit_s=20)

    assert child.account.pids() == []


def test_what_a_child_leaves_behind_is_killed(tmp_path: Path) -> None:
    """A grandchild that outlives it in a session of its own is found where a cgroup counts."""
    account = open_account("probe")
    account.close()
    if isinstance(account, TreeAccount):
        pytest.skip("only a cgroup knows what has left the tree")
    command = [sys.executable, "-c", LEAVES_ONE]
    with (
        pytest.raises(ChildFailed, match="left processes"),
        running(command, name="any", folder=tmp_path) as child,
    ):
        child.wait_for("up", limit_s=20)

    assert child.account.pids() == []
