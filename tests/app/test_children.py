import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.app.children import Child, ChildPlan
from serving.core.clock import SystemClock

WAITING = "import time, sys; print('up', flush=True); time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + WAITING
FAILING = "raise SystemExit(3)"


class Deaths:
    """What a child's owner is told."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.told = asyncio.Event()

    def __call__(self, _child: Child, status: int) -> None:
        self.statuses.append(status)
        self.told.set()


@pytest.fixture
def deaths() -> Deaths:
    return Deaths()


@pytest.fixture
def child(
    tmp_path: Path, deaths: Deaths, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Child]:
    """A child that runs this Python code, as a module on a path of its own."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(code: str) -> Child:
        (tmp_path / "a_child.py").write_text(code)
        plan = ChildPlan("it", "a_child", (), tmp_path / "it.log", {"FROM_PLAN": "yes"})
        return Child(plan, exited=deaths, clock=SystemClock())

    return make


async def said(child: Child, text: str) -> None:
    """Returns once the child's log holds `text`."""
    await asyncio.to_thread(wait_for_text, child.plan.log, text)


def wait_for_text(log: Path, text: str) -> None:
    clock = SystemClock()
    end_ns = clock.monotonic_ns() + 10_000_000_000
    while not log.exists() or text not in log.read_text():
        assert clock.monotonic_ns() < end_ns, f"{text!r} never came"
        clock.sleep(0.01)


async def test_stopping_asks_and_waits(child: Callable[[str], Child], deaths: Deaths) -> None:
    """A child that ends on SIGTERM is not counted as dead."""
    it = child(WAITING)
    keeping = asyncio.create_task(it.keep())
    await said(it, "up")

    clean = await it.stop(grace_s=10)

    await asyncio.wait_for(keeping, 5)
    assert (clean, it.pid, deaths.statuses) == (True, None, [])


async def test_child_that_does_not_end_is_killed_after_the_grace(
    child: Callable[[str], Child],
) -> None:
    """The grace is an upper bound; the owner learns that force was needed."""
    it = child(STUBBORN)
    keeping = asyncio.create_task(it.keep())
    await said(it, "up")

    clean = await it.stop(grace_s=0.2)

    await asyncio.wait_for(keeping, 5)
    assert (clean, it.pid) == (False, None)


async def test_dead_child_is_started_again(child: Callable[[str], Child], deaths: Deaths) -> None:
    """A death is told with its signal, and another process takes the place."""
    it = child(WAITING)
    keeping = asyncio.create_task(it.keep())
    await said(it, "up")
    first = it.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)

    await said(it, "up\nup")
    second = it.pid

    await it.stop(grace_s=10)
    await keeping
    assert deaths.statuses == [-signal.SIGKILL]
    assert second not in (None, first)
    assert it.restarts == 1


async def test_stopping_ends_the_back_off(child: Callable[[str], Child], deaths: Deaths) -> None:
    """A child that waits for its next start is stopped at once."""
    it = child(FAILING)
    keeping = asyncio.create_task(it.keep())
    await asyncio.wait_for(deaths.told.wait(), 10)

    await it.stop(grace_s=10)

    await asyncio.wait_for(keeping, 0.4)
    assert deaths.statuses == [3]


async def test_death_before_the_end_is_final(child: Callable[[str], Child], deaths: Deaths) -> None:
    """Nothing is started again while everything else is being stopped."""
    it = child(WAITING)
    keeping = asyncio.create_task(it.keep())
    await said(it, "up")
    it.leave_dead()
    it.kill()

    await asyncio.wait_for(keeping, 10)
    assert (deaths.statuses, it.restarts) == ([], 0)


async def test_child_has_its_own_session_and_the_planned_environment(
    child: Callable[[str], Child],
) -> None:
    """Ctrl-C in the terminal does not reach it, and what the plan sets does."""
    it = child(
        "import os, time; print(os.getsid(0) == os.getpid(), os.environ['FROM_PLAN'], flush=True);"
        "time.sleep(60)"
    )
    keeping = asyncio.create_task(it.keep())

    await said(it, "True yes")

    await it.stop(grace_s=10)
    await keeping
