import subprocess
import sys
from collections.abc import Callable

import pytest

from loadtests.cpu import Account, TreeAccount, open_account

BURNT_S = 0.3
GRANDCHILD = f"""
import time
while time.process_time() < {BURNT_S}: pass
"""
CHILD = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {GRANDCHILD!r}], check=True)
subprocess.Popen([sys.executable, "-c", {GRANDCHILD!r}]).wait()
print("burnt", flush=True)
sys.stdin.read()
"""


def a_cgroup() -> Account:
    account = open_account("test")
    if isinstance(account, TreeAccount):
        pytest.skip("no cgroup can be made here")
    return account


@pytest.mark.parametrize("opened", [a_cgroup, TreeAccount], ids=["cgroup", "proc"])
def test_time_of_ended_grandchildren_counts(opened: Callable[[], Account]) -> None:
    """What two grandchildren burnt is in the account of the child, though both are gone."""
    account = opened()
    with subprocess.Popen(  # noqa: S603 - constant
        [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=account.join,  # noqa: PLW1509 - as the benchmark does it
    ) as child:
        account.watch(child.pid)
        assert child.stdout is not None
        assert child.stdout.readline() == b"burnt\n"

        seconds = account.seconds()
        alive = account.pids()
    left = account.pids()
    account.close()

    assert 2 * BURNT_S * 0.9 < seconds < 2 * BURNT_S + 5
    assert (alive, left) == ([child.pid], [])


def test_time_of_others_does_not_count() -> None:
    """A sibling outside the tree, and this process, add nothing."""
    account = open_account("test")
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); import sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=account.join,  # noqa: PLW1509 - as the benchmark does it
    ) as child:
        account.watch(child.pid)
        assert child.stdout is not None
        child.stdout.readline()
        before_s = account.seconds()

        subprocess.run([sys.executable, "-c", GRANDCHILD], check=True)  # noqa: S603 - constant

        assert account.seconds() - before_s < BURNT_S / 2
    account.close()
