"""How many requests of a caller are inside: never one too many, and nothing left behind."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.gateway.concurrency import ROWS, Concurrency


@given(steps=st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 1)), max_size=60))
def test_the_count_is_that_of_a_plain_sum(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, bool, int]]
) -> None:
    """Three workers let two callers in and out; who may enter is what a plain counter says."""
    path = tmp_path_factory.mktemp("inside") / "c"
    workers = [Concurrency.open(path, workers=3, index=index) for index in range(3)]
    inside = {(worker, caller): 0 for worker in range(3) for caller in range(2)}
    for worker, enters, caller in steps:
        key = workers[worker].key(f"caller {caller}")
        total = sum(inside[each, caller] for each in range(3))
        if enters:
            assert workers[worker].enter(key, 4) == (total < 4)
            inside[worker, caller] += total < 4
        elif inside[worker, caller]:
            workers[worker].leave(key)
            inside[worker, caller] -= 1
    for each in workers:
        each.close()


def test_what_a_dead_worker_had_counted_goes_with_it(tmp_path: Path) -> None:
    """A worker that starts again has nothing inside; the others keep what they have."""
    one = Concurrency.open(tmp_path / "c", workers=2, index=0)
    other = Concurrency.open(tmp_path / "c", workers=2, index=1)
    key = one.key("someone")
    assert one.enter(key, 2)
    assert other.enter(key, 2)
    assert not one.enter(key, 2)

    again = Concurrency.open(tmp_path / "c", workers=2, index=0)

    assert again.enter(key, 2)
    assert not other.enter(key, 2)


def test_a_crowd_of_names_lets_nobody_in_twice(tmp_path: Path) -> None:
    """More callers inside than the file has rows: no limit is exceeded, the file does not grow."""
    concurrency = Concurrency.open(tmp_path / "c", workers=1, index=0)
    size = (tmp_path / "c").stat().st_size
    full = concurrency.key("full")
    assert concurrency.enter(full, 1)
    for number in range(2 * ROWS):
        concurrency.enter(concurrency.key(f"caller {number}"), 1)

    assert not concurrency.enter(full, 1)
    assert (tmp_path / "c").stat().st_size == size


_CROWD = """
import sys, pathlib
from serving.gateway.concurrency import Concurrency
concurrency = Concurrency.open(pathlib.Path(sys.argv[1]), workers=4, index=int(sys.argv[2]))
key = concurrency.key("someone")
print("ready", flush=True)
sys.stdin.readline()
print(sum(concurrency.enter(key, 1000) for _ in range(500)))
"""


def test_four_processes_at_once_admit_exactly_the_limit(tmp_path: Path) -> None:
    """2,000 attempts at once from four processes: 1,000 get in."""
    command = [sys.executable, "-c", _CROWD, str(tmp_path / "c")]
    processes = [
        subprocess.Popen(  # noqa: S603 -- our own interpreter
            [*command, str(index)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for index in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    admitted = [int(process.communicate("go\n", timeout=100)[0]) for process in processes]

    assert sum(admitted) == 1000
