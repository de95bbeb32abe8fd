"""How much of the memory that may be used is in use: by this container's limit, and on the machine.

What the kernel would end processes for. Of a cgroup (version 2 or 1) it is what is used but for files
that can be dropped, over the limit; of the machine what is not available, over all there is. The
larger of the two; a cgroup without a limit has none.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

CGROUPS: Final = Path("/sys/fs/cgroup")
MEMBERSHIP: Final = Path("/proc/self/cgroup")
MEMINFO: Final = Path("/proc/meminfo")

_FILES: Final = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Limit, use and, in `memory.stat`, what can be dropped; of version 2, then of version 1."""


def used_share(
    *, cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP, meminfo: Path = MEMINFO
) -> float:
    """Between 0 and 1; 0 where nothing tells."""
    shares = [
        _share_of(folder, *names) for folder in _folders(cgroups, membership) for names in _FILES
    ]
    return max([*shares, _share_of_machine(meminfo)])


def _folders(cgroups: Path, membership: Path) -> Iterator[Path]:
    """Where the limits of this process may stand."""
    yield cgroups
    yield cgroups / "memory"
    with contextlib.suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if path != "/" and controllers in ("", "memory"):
                yield cgroups / controllers / path.lstrip("/")


def _share_of(folder: Path, limit: str, use: str, droppable: str) -> float:
    try:
        limit_bytes = int((folder / limit).read_text())
        used_bytes = int((folder / use).read_text())
        dropped = _numbers(folder / "memory.stat").get(droppable, 0)
    except (OSError, ValueError):  # There is no such cgroup, or it has no limit.
        return 0.0
    return max(used_bytes - dropped, 0) / limit_bytes if limit_bytes else 0.0


def _share_of_machine(meminfo: Path) -> float:
    with contextlib.suppress(OSError):
        numbers = _numbers(meminfo)
        total = numbers.get("MemTotal", 0)
        if total:
            return 1 - numbers.get("MemAvailable", total) / total
    return 0.0


def _numbers(path: Path) -> dict[str, int]:
    """Names and numbers of a file with one of each a line."""
    fields = (line.replace(":", " ").split() for line in path.read_text().splitlines())
    return {each[0]: int(each[1]) for each in fields if len(each) > 1 and each[1].isdigit()}
