"""The control plane's thread: in order, bounded, and never the event loop's wait."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from serving.core.clock import ManualClock
from serving.errors import RegistryUnavailable
from serving.storage.worker import MOST_WAITING, Worker


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def worker(clock: ManualClock) -> AsyncIterator[Worker]:
    worker = Worker(clock, patience_s=1.0)
    yield worker
    worker.close()


async def test_work_is_done_in_order_by_one_thread(worker: Worker) -> None:
    """Results come back to whoever asked, from one thread that is not the loop's."""
    done = await asyncio.gather(*(worker.run(threading.get_ident) for _ in range(5)))

    assert len(set(done)) == 1
    assert done[0] != threading.get_ident()


async def test_an_error_is_its_callers(worker: Worker) -> None:
    """What work raises reaches the one who asked, and the next goes on."""

    def fail() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await worker.run(fail)

    assert await worker.run(lambda: 1) == 1


async def test_rg_13_what_waited_too_long_is_not_done(worker: Worker, clock: ManualClock) -> None:
    """Behind work that hangs, what waits is refused once nobody has patience any more."""
    gate, done = threading.Event(), []
    first = asyncio.ensure_future(worker.run(gate.wait))
    second = asyncio.ensure_future(worker.run(lambda: done.append(1)))
    await asyncio.sleep(0)
    clock.advance(2.0)
    gate.set()
    await first

    with pytest.raises(RegistryUnavailable, match="nothing was changed"):
        await second
    assert done == []


async def test_rg_13_the_queue_is_bounded(worker: Worker) -> None:
    """When it is full the next is refused at once."""
    gate = threading.Event()
    waiting = [asyncio.ensure_future(worker.run(gate.wait)) for _ in range(MOST_WAITING)]
    await asyncio.sleep(0)

    with pytest.raises(RegistryUnavailable):
        await worker.run(lambda: None)
    gate.set()
    await asyncio.gather(*waiting)

    assert await worker.run(lambda: 1) == 1


async def test_a_caller_who_left_disturbs_nobody(worker: Worker) -> None:
    """Work that has begun goes on, its result and its error are dropped."""
    gate = threading.Event()

    def fail() -> None:
        gate.wait()
        raise ValueError("nobody hears this")

    left = asyncio.ensure_future(worker.run(fail))
    await asyncio.sleep(0)
    left.cancel()
    gate.set()

    assert await worker.run(lambda: 1) == 1
    with pytest.raises(asyncio.CancelledError):
        await left
