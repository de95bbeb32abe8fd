"""One supervised process: started, started again when it dies, stopped with a grace.

    spawn ──▶ running ──exit──▶ back-off 0.5 s, 1 s, … 30 s ──▶ spawn
                 └── stop: SIGTERM, after the grace SIGKILL

A child that ran for a minute starts over with the shortest back-off. What it writes is appended to a
file; nothing of it reaches the terminal.
Each child has a session of its own, so that Ctrl-C reaches the supervisor alone.
"""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serving.app.descendants import end_with_parent
from serving.core.clock import Clock

FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 30.0
SETTLED_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class ChildPlan:
    """What to start: `python -m module arguments`. environment: added to this process' own.

    idle: it gets the time that nobody else wants.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    log: Path
    environment: Mapping[str, str]
    idle: bool = False


class Child:
    """A process that is kept running by `keep` until `stop`.

    exited: told the exit status of each death that nobody asked for, before the back-off.
    """

    def __init__(
        self, plan: ChildPlan, *, exited: Callable[["Child", int], None], clock: Clock
    ) -> None:
        self.plan = plan
        self.restarts = 0
        self._exited = exited
        self._clock = clock
        self._process: Process | None = None
        self._stopping = asyncio.Event()
        self._respawn = True

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def pid(self) -> int | None:
        """None while it is not running."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def keep(self) -> None:
        """Starts the process, again after each death, until `stop`."""
        wait_s = FIRST_WAIT_S
        while not self._stopping.is_set():
            started_ns = self._clock.monotonic_ns()
            self._process = await self._spawn()
            status = await self._process.wait()
            if self._stopping.is_set() or not self._respawn:
                return
            self._exited(self, status)
            if self._clock.monotonic_ns() - started_ns > SETTLED_S * 1e9:
                wait_s = FIRST_WAIT_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)
            wait_s = min(wait_s * 2, LONGEST_WAIT_S)
            self.restarts += 1

    def leave_dead(self) -> None:
        """From now on a death is final: the whole instance is about to stop."""
        self._respawn = False

    async def stop(self, *, grace_s: float) -> bool:
        """SIGTERM, then SIGKILL after `grace_s`; says whether SIGTERM was enough."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return True
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), grace_s)
        except TimeoutError:
            self.kill()
            await process.wait()
            return False
        return True

    def kill(self) -> None:
        """SIGKILL now. Unless it is stopping, the process is then started again."""
        pid = self.pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def _spawn(self) -> Process:
        with self.plan.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # The working directory is no place to import from.
                "-m",
                self.plan.module,
                *self.plan.arguments,
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.plan.environment},
                start_new_session=True,
                preexec_fn=_begin_idle if self.plan.idle else end_with_parent,
            )


def _begin_idle() -> None:
    """In the child, before its program: the lowest priority there is, inherited by all its threads."""
    end_with_parent()
    with contextlib.suppress(OSError):  # A sandbox may forbid it; then it shares as everybody does.
        os.nice(19)
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
