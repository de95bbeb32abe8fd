"""Every process below this one, also those whose parent has died: found, ended, reaped.

Ray starts processes that start processes. As a subreaper (Linux) this process becomes the parent of
whatever is orphaned below it, so nothing of a session can get away; and each child is told to end
when this process dies without a word. Where the kernel cannot do that, both are left out.
"""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Final

_SET_PARENT_DEATH_SIGNAL: Final = 1
_SET_CHILD_SUBREAPER: Final = 36
_LIBC: Final = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def become_subreaper() -> None:
    """Orphans below this process become its children."""
    if _LIBC is not None:
        _LIBC.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_with_parent() -> None:
    """SIGTERM for this process when its parent ends. For the child, between fork and exec."""
    if _LIBC is not None:
        _LIBC.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)


def children(pid: int) -> list[int]:
    """Direct children that exist now, zombies included; empty where the kernel does not tell.

    Whoever ends meanwhile, `pid` or one of its threads, has none.
    """
    found: list[int] = []
    threads: list[str] = []
    with contextlib.suppress(OSError):
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - a glob fails for what is gone
    for thread in threads:
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/task/{thread}/children").read_text()
            found += [int(child) for child in text.split()]
    return found


def descendants(pid: int, *, spared: Collection[int] = ()) -> list[int]:
    """All processes below `pid`, parents first, without those in `spared` and all below them."""
    found: list[int] = []
    for child in children(pid):
        if child not in spared:
            found += [child, *descendants(child, spared=spared)]
    return found


def kill_descendants(*, spared: Collection[int] = ()) -> list[int]:
    """SIGKILL for everything below this process but `spared` and what is below them."""
    found = descendants(os.getpid(), spared=spared)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return found


def reap_adopted(*, own: Collection[int]) -> None:
    """Collects orphans that have ended. own: children somebody else waits for."""
    for pid in children(os.getpid()):
        if pid not in own:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
