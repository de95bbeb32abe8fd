from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.inference.replicas import VERSION, World, poisonable
from tests.inference.runners import HeldRunner


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def held() -> HeldRunner:
    """A runner whose gate is closed: its first run waits there."""
    runner = HeldRunner(VERSION, poisonable)
    runner.gate.close()
    return runner
