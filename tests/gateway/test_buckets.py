"""Buckets that several workers draw from: never too much, nothing lost, no way to a fresh one."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.gateway.buckets import PLACES, Buckets, Rate

SECOND_NS = 1_000_000_000
RATE = Rate(per_s=10.0, burst=5.0)


@given(
    steps=st.lists(
        st.tuples(st.integers(0, SECOND_NS), st.floats(-20, 20, allow_nan=False)), max_size=30
    )
)
def test_a_bucket_holds_what_its_history_says(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, float]]
) -> None:
    """Against a plain sum: refilled by time, capped at the burst, in debt when overdrawn."""
    buckets = Buckets.open(tmp_path_factory.mktemp("quota") / "buckets")
    key = buckets.key("someone")
    now_ns, expected = SECOND_NS, RATE.burst
    for wait_ns, amount in steps:
        now_ns += wait_ns
        expected = min(expected + wait_ns / 1e9 * RATE.per_s, RATE.burst)
        if amount >= 0:
            drawn = buckets.draw(key, amount, rate=RATE, now_ns=now_ns)
            assert drawn == pytest.approx(max(0.0, min(amount, expected)), abs=1e-6)
            expected -= drawn
        else:
            held = buckets.put(key, amount, rate=RATE, now_ns=now_ns)
            expected += amount
            assert held == pytest.approx(expected, abs=1e-6)
    buckets.close()


def test_two_workers_see_one_bucket(tmp_path: Path) -> None:
    """What one worker drew is gone for the other; what it gives back is there again."""
    one, other = Buckets.open(tmp_path / "b"), Buckets.open(tmp_path / "b")
    key = one.key("someone")
    assert other.key("someone") == key

    assert one.draw(key, 4.0, rate=RATE, now_ns=SECOND_NS) == 4.0
    assert other.draw(key, 4.0, rate=RATE, now_ns=SECOND_NS) == 1.0
    assert other.draw(key, 4.0, rate=RATE, now_ns=SECOND_NS) == 0.0
    one.put(key, 3.0, rate=RATE, now_ns=SECOND_NS)
    assert other.draw(key, 4.0, rate=RATE, now_ns=SECOND_NS) == pytest.approx(3.0)
    one.close()
    other.close()


def test_rl_04_a_flood_of_names_gives_nobody_a_fresh_bucket(tmp_path: Path) -> None:
    """The file does not grow, and a drained bucket stays drained while others crowd in."""
    buckets = Buckets.open(tmp_path / "b")
    size = (tmp_path / "b").stat().st_size
    offender = buckets.key("offender")
    buckets.put(offender, -1000.0, rate=RATE, now_ns=SECOND_NS)
    for number in range(2 * PLACES):
        buckets.draw(buckets.key(f"caller {number}"), 0.5, rate=RATE, now_ns=SECOND_NS)

    assert buckets.draw(offender, 1.0, rate=RATE, now_ns=2 * SECOND_NS) == 0.0
    assert (tmp_path / "b").stat().st_size == size
    buckets.close()


_DRAIN = """
import sys, pathlib
from serving.core.clock import SystemClock
from serving.gateway.buckets import Buckets, Rate
buckets, clock = Buckets.open(pathlib.Path(sys.argv[1])), SystemClock()
key, drawn = buckets.key("someone"), 0.0
for _ in range(4000):
    drawn += buckets.draw(key, 1.0, rate=Rate(0.001, 5000.0), now_ns=clock.monotonic_ns())
print(drawn)
"""


def test_processes_that_draw_at_once_never_get_too_much(tmp_path: Path) -> None:
    """Four processes in a race take exactly what the bucket held."""
    children = [
        subprocess.Popen(  # noqa: S603 -- our own program
            [sys.executable, "-c", _DRAIN, str(tmp_path / "b")], stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    drawn = sum(float(child.communicate(timeout=100)[0]) for child in children)

    assert drawn == pytest.approx(5000.0, abs=0.1)


def test_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    """Bytes of something else do not become anybody's quota."""
    (tmp_path / "b").write_bytes(b"something else" * 100)

    buckets = Buckets.open(tmp_path / "b")

    assert buckets.draw(buckets.key("x"), 9.0, rate=RATE, now_ns=SECOND_NS) == RATE.burst
    buckets.close()


@given(steps=st.lists(st.tuples(st.integers(0, SECOND_NS), st.floats(-20, 20)), max_size=20))
def test_what_is_told_without_a_lock_is_what_is_there(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, float]]
) -> None:
    """`held` says after every step what a change of nothing under the lock would say."""
    buckets = Buckets.open(tmp_path_factory.mktemp("quota") / "buckets")
    key, now_ns = buckets.key("someone"), SECOND_NS
    assert buckets.held(key, rate=RATE, now_ns=now_ns) == RATE.burst
    for wait_ns, amount in steps:
        now_ns += wait_ns
        buckets.put(key, amount, rate=RATE, now_ns=now_ns)
        told = buckets.held(key, rate=RATE, now_ns=now_ns)
        assert told == buckets.put(key, 0.0, rate=RATE, now_ns=now_ns)
    buckets.close()
