"""In which order tests run, and which of the two workers runs them.

A run is a row of files: first those with a test on Ray, then those that start, fill and kill whole
instances (the longest first, by the time that they may take), then everything else. The first worker
takes files from the front of the row and the others from its back, until they meet. So there is one
shared Ray, which ends when its last test has; what starts instances runs beside what does not, as long
as there is any; a folder's shared instance is started once; and the last files are short ones, so that
the workers end together.
"""

from pathlib import Path
from typing import Any, Final

import pytest
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]  # it ships no types

TESTS: Final = Path(__file__).parent
OF_INSTANCES: Final = {TESTS / name for name in ("app", "faults", "flows", "loadtests")}
"""Folders whose tests start whole instances; elsewhere a folder shares one, or there is none."""
LIMIT_S: Final = 120.0
"""What a test may take when it does not say so itself (`pyproject.toml`)."""

_ON_RAY: Final = pytest.StashKey[set[Path]]()


class FromBothEnds(LoadFileScheduling):  # type: ignore[misc]  # for the same reason
    """Files in their order; each worker but the first takes them from the back."""

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        super().__init__(config, log)
        # By default xdist puts files with many tests first, and the order would be gone.
        config.option.loadscopereorder = False

    def _assign_work_unit(self, node: Any) -> None:
        if node is not self.nodes[0]:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)


def in_order(items: list[pytest.Item]) -> list[pytest.Item]:
    """All tests, file by file."""
    on_ray = {item.path for item in items if item.get_closest_marker("ray")}
    limits: dict[Path, float] = {}
    for item in items:
        item.config.stash[_ON_RAY] = on_ray
        limits[item.path] = max(_limit_s(item), limits.get(item.path, 0.0))

    def place(item: pytest.Item) -> tuple[int, float]:
        if item.path in on_ray:
            return (0, 0.0)
        return (1, -limits[item.path]) if item.path.parent in OF_INSTANCES else (2, 0.0)

    return sorted(items, key=place)


def is_on_ray(item: pytest.Item) -> bool:
    """Whether its file has tests on Ray."""
    return item.path in item.config.stash[_ON_RAY]


def _limit_s(item: pytest.Item) -> float:
    limit = item.get_closest_marker("timeout")
    return float(limit.args[0]) if limit else LIMIT_S
