"""CPU seconds, user and system, of a process and everything it starts.

Where one can be made, a cgroup of its own counts (v1 cpuacct, else v2): the process joins it before
it executes anything, so children that detached, died or were reaped by others are in it too, to the
nanosecond or microsecond. Elsewhere the tree below the process is summed over /proc, reaped children
included, in clock ticks (10 ms); what left the tree is missing then. `kind` says which it was.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from serving.app.descendants import descendants

MOUNTS: Final = Path("/proc/self/mountinfo")
MEMBERSHIP: Final = Path("/proc/self/cgroup")
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_CPU_FIELDS: Final = slice(11, 15)
"""utime, stime, cutime, cstime, counted behind the command's closing parenthesis."""


class Account(Protocol):
    """What a tree of processes has used. `join` runs in the root between fork and exec."""

    @property
    def kind(self) -> str: ...
    def join(self) -> None: ...
    def watch(self, pid: int) -> None: ...
    def seconds(self) -> float:
        """Since the start; only differences within the life of the tree mean something."""

    def pids(self) -> list[int]:
        """What is left of the tree now; zombies may be among them."""

    def close(self) -> None: ...


class CgroupAccount:
    """A cgroup made by `open_account`, removed by `close`."""

    def __init__(self, folder: Path, *, kind: str) -> None:
        self.kind = kind
        self._folder = folder

    def join(self) -> None:
        (self._folder / "cgroup.procs").write_text("0")

    def watch(self, pid: int) -> None:
        """Needs nothing: members are known by having joined."""

    def seconds(self) -> float:
        if self.kind == "cgroup v1":
            return int((self._folder / "cpuacct.usage").read_text()) / 1e9
        for line in (self._folder / "cpu.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "usage_usec":
                return int(value) / 1e6
        raise OSError(f"{self._folder}/cpu.stat does not tell usage_usec")

    def pids(self) -> list[int]:
        try:
            return [int(pid) for pid in (self._folder / "cgroup.procs").read_text().split()]
        except FileNotFoundError:  # Closed: it could only be removed because it was empty.
            return []

    def close(self) -> None:
        with contextlib.suppress(OSError):  # A zombie holds it; an empty cgroup costs nothing.
            self._folder.rmdir()


class TreeAccount:
    """The sum over /proc of a process and all below it."""

    kind = "/proc"

    def __init__(self) -> None:
        self._pid: int | None = None

    def join(self) -> None:
        """Needs nothing: the tree is found from its root."""

    def watch(self, pid: int) -> None:
        self._pid = pid

    def seconds(self) -> float:
        return sum(_ticks(pid) for pid in self.pids()) / TICKS_PER_S

    def pids(self) -> list[int]:
        if self._pid is None or not Path(f"/proc/{self._pid}").exists():
            return []
        return [self._pid, *descendants(self._pid)]

    def close(self) -> None:
        self._pid = None


def open_account(name: str) -> Account:
    """An account for one tree, a cgroup if this user may make one."""
    for controller, kind in (("cpuacct", "cgroup v1"), ("", "cgroup v2")):
        for parent in _own_cgroups(controller):
            folder = parent / f"serving-benchmark-{os.getpid()}-{name}"
            account = CgroupAccount(folder, kind=kind)
            with contextlib.suppress(OSError, ValueError):
                folder.mkdir()
                account.seconds()
                return account
    return TreeAccount()


def _own_cgroups(controller: str) -> Iterator[Path]:
    """This process' folder in the hierarchy of that controller; "" is version 2's."""
    with contextlib.suppress(OSError):
        memberships = [line.split(":", 2) for line in MEMBERSHIP.read_text().splitlines()]
        own = {name: path for _, names, path in memberships for name in names.split(",")}
        for line in MOUNTS.read_text().splitlines():
            place, _, source = line.partition(" - ")
            root, mounted_at = place.split()[3:5]
            kind, _, options = source.split()[:3]
            wanted = controller in options.split(",") if controller else kind == "cgroup2"
            if kind.startswith("cgroup") and wanted and controller in own:
                yield Path(mounted_at) / os.path.relpath(own[controller], root)


def _ticks(pid: int) -> int:
    with contextlib.suppress(OSError):  # It has ended meanwhile; its parent has its time.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(field) for field in fields[_CPU_FIELDS])
    return 0
