"""Child processes of the benchmark: started, waited for, ended with all they started.

A child has a session of its own, so that Ctrl-C reaches the benchmark alone, and gets SIGTERM from
the kernel when the benchmark dies. Its output goes to two files. Nothing is ever ended by name.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from loadtests.cpu import Account, open_account
from serving.app.descendants import end_with_parent
from serving.core.clock import SystemClock

LOOPBACK: Final = "127.0.0.1"
LOOK_S: Final = 0.05
KILL_S: Final = 5.0
MAX_QUOTED: Final = 2000

_clock: Final = SystemClock()


class ChildFailed(Exception):
    """A child did not start, did not answer, or did not end as it should."""


class Child:
    """A running child. `output` is what it writes to standard output."""

    def __init__(
        self, name: str, popen: subprocess.Popen[bytes], *, account: Account, folder: Path
    ) -> None:
        self.name = name
        self.account = account
        self.output = folder / f"{name}.out"
        self.errors = folder / f"{name}.err"
        self._popen = popen

    def wait_for(self, marker: str, *, limit_s: float) -> str:
        """The first complete line of its output with `marker` in it. Raises ChildFailed."""
        end_ns = _clock.monotonic_ns() + round(limit_s * 1e9)
        while True:
            ended = self._popen.poll()
            for line in self.output.read_text().splitlines(keepends=True):
                if marker in line and line.endswith("\n"):
                    return line.rstrip()
            if ended is not None:
                raise ChildFailed(f"{self.name} ended with status {ended}: {self.last_words()}")
            if _clock.monotonic_ns() > end_ns:
                raise ChildFailed(f"{self.name} was not up in {limit_s:g} s: {self.last_words()}")
            _clock.sleep(LOOK_S)

    def last_words(self) -> str:
        """The end of what it wrote, for a message."""
        return (self.errors.read_text() or self.output.read_text())[-MAX_QUOTED:].strip()

    def end(self, *, grace_s: float) -> str:
        """SIGTERM, after the grace SIGKILL for all of it; says what went wrong, or nothing."""
        with contextlib.suppress(ProcessLookupError):
            self._popen.terminate()
        try:
            status = self._popen.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._kill()
            self._popen.wait(KILL_S)
            return f"{self.name} was still running {grace_s:g} s after SIGTERM, and was killed"
        left = self._kill()
        if left:
            return f"{self.name} left processes behind, which were killed: {left}"
        return f"{self.name} ended with status {status}: {self.last_words()}" if status else ""

    def _kill(self) -> list[int]:
        """Kills what is left of the tree until nothing is; returns what there was at first."""
        found = first = _alive(self.account.pids())
        end_ns = _clock.monotonic_ns() + round(KILL_S * 1e9)
        while found and _clock.monotonic_ns() < end_ns:
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            _clock.sleep(LOOK_S)
            found = _alive(self.account.pids())
        return first


@contextmanager
def running(
    command: Sequence[str],
    *,
    name: str,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    grace_s: float = 10.0,
) -> Iterator[Child]:
    """The child as long as the block runs. Raises ChildFailed when it does not end cleanly then.

    environment: all of it, None means this process' own. folder: for its output.
    """
    account = open_account(name)

    def enter() -> None:
        account.join()
        end_with_parent()

    with (folder / f"{name}.out").open("wb") as out, (folder / f"{name}.err").open("wb") as err:
        popen = subprocess.Popen(  # noqa: S603 - the command line is the benchmark's own
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment,
            start_new_session=True,
            preexec_fn=enter,  # noqa: PLW1509 - there are no threads here
        )
    account.watch(popen.pid)
    child = Child(name, popen, account=account, folder=folder)
    problem = ""
    try:
        yield child
    finally:
        problem = child.end(grace_s=grace_s)
        account.close()
    if problem:
        raise ChildFailed(problem)


def _alive(pids: Sequence[int]) -> list[int]:
    """Those that are no zombies."""
    return [pid for pid in pids if _state(pid) not in ("", "Z", "X")]


def _state(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""
