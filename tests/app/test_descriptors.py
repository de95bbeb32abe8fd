"""What a process may open is a fact of the process: each case has one of its own."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
soft, hard = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from serving.app.descriptors import within_descriptors
from serving.port_settings import HttpSettings
limits = within_descriptors(HttpSettings(max_connections=500))
print(limits.max_connections, *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "connections"),
    [(256, 1000, 500), (756, 756, 500), (755, 755, 499), (300, 300, 44), (100, 100, 1)],
)
def test_connections_fit_the_open_files(soft: int, hard: int, connections: int) -> None:
    """The soft limit is raised as far as it goes, and connections leave room for everything else."""
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", PROGRAM, str(soft), str(hard)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert f"{connections} {hard} {hard}" in done.stdout
