import os
from pathlib import Path

from loadtests.servers import floor
from loadtests.watching import Watch, resident_bytes
from serving.core.clock import SystemClock
from tests.places import wait_until


def test_memory_of_this_process_is_told() -> None:
    """Resident bytes, and nothing of a process that is gone."""
    assert resident_bytes(os.getpid()) > 1_000_000
    assert resident_bytes(2**22 + 1) == 0


def test_cpu_and_growth_of_a_server_are_told(tmp_path: Path) -> None:
    """An idle server uses next to nothing, and does not grow."""
    clock = SystemClock()
    with floor("bare", tmp_path) as server, Watch(server.account) as watch:
        start_ns = clock.monotonic_ns()
        wait_until(lambda: clock.monotonic_ns() - start_ns > 300_000_000)

    assert 0 <= watch.cpu_s(0, 0.3) < 0.3
    assert 0 <= watch.growth_bytes < 64 * 2**20
