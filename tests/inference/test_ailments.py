"""What becomes of batches, replicas and callers when a device has no memory, or is lost."""

import socket
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from serving.core.tensors import Array
from serving.errors import ModelFailed, ReplicaLost
from serving.inference.ailments import Ailment, ailment_of
from tests.inference.replicas import VERSION, World, running
from tests.inference.runners import FunctionRunner, HeldRunner, double

ILLEGAL = (
    "[ONNXRuntimeError] : 1 : FAIL : CUDA failure 700: an illegal memory access was encountered ; "
    "GPU=0 ; hostname=node ; expr=cudaStreamSynchronize(stream);"
)
NO_MEMORY = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv "
    "node. Failed to allocate memory for requested buffer of size 1073741824"
)


def failing(text: str, when: Callable[[Array], bool]) -> Callable[[Sequence[Array]], list[Array]]:
    """A model whose runtime fails with these words, as a session translates it."""

    def run(inputs: Sequence[Array]) -> list[Array]:
        if when(inputs[0]):
            raise ModelFailed("the run failed") from RuntimeError(text)
        return double(inputs)

    return run


@pytest.mark.parametrize(
    ("error", "ailment"),
    [
        (RuntimeError(ILLEGAL), Ailment.LOST),
        (RuntimeError("CUDA error 719: unspecified launch failure"), Ailment.LOST),
        (RuntimeError("CUDA failure 2: out of memory ; GPU=0"), Ailment.NO_MEMORY),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), Ailment.NO_MEMORY),
        (RuntimeError(NO_MEMORY), Ailment.NO_MEMORY),
        (MemoryError(), Ailment.NO_MEMORY),
        (RuntimeError("Got invalid dimensions for input: 700"), None),
        (ValueError("CUDA failure 2001"), None),
        (None, None),
    ],
)
def test_ailment_is_told_from_the_words(error: Exception | None, ailment: Ailment | None) -> None:
    """Only words that are known to mean a device are believed; numbers alone are not."""
    assert ailment_of(error) is ailment


def test_ft_10_batch_without_memory_is_tried_in_halves(world: World) -> None:
    """What does not fit as a whole is answered by two smaller runs, and nobody hears of it."""
    held = HeldRunner(VERSION, failing(NO_MEMORY, lambda rows: len(rows) > 8))
    held.gate.close()
    world.listen(held)
    peer = world.connect()
    peer.ask(100, 0)
    running(held)
    for value in range(1, 17):
        peer.ask(value, value)

    held.gate.open()
    answers = peer.answers(17)

    assert answers == {100: [0]} | {value: [2 * value] for value in range(1, 17)}
    assert [len(batch) for batch in held.batches] == [1, 16, 8, 8]


def test_ft_10_rows_that_find_no_memory_in_halves_are_nobodys_guilt(world: World) -> None:
    """One more try, then the callers are told to come again: the model did not fail on their rows."""
    runner = FunctionRunner(VERSION, failing(NO_MEMORY, lambda rows: len(rows) > 1))
    world.listen(runner)
    peer = world.connect()

    peer.ask(1, *range(8))

    assert peer.answers() == {1: ["NO_MEMORY"] * 8}
    assert [len(batch) for batch in runner.batches] == [8, 4, 4]
    peer.ask(2, 5)
    assert peer.answers() == {2: [10]}


def test_ft_10_replica_without_memory_for_anything_is_replaced(world: World) -> None:
    """When even a sample row finds none, batch after batch, Serve is told to start another."""
    listener = world.listen(FunctionRunner(VERSION, failing(NO_MEMORY, lambda _rows: True)))
    peer = world.connect()
    for number in range(1, 6):
        peer.ask(number, number)
        assert peer.answers() == {number: ["NO_MEMORY"]}

    assert peer.hung_up()
    with pytest.raises(ReplicaLost):
        listener.check()


def test_ft_11_lost_device_gets_no_second_request(world: World) -> None:
    """The replica hangs up without an answer, takes nobody in again, and is not healthy at once."""
    runner = FunctionRunner(VERSION, failing(ILLEGAL, lambda rows: bool(np.any(rows == 7))))
    listener = world.listen(runner)
    peer = world.connect()
    peer.ask(1, 1)
    assert peer.answers() == {1: [2]}

    peer.ask(2, 1, 2, 7, 4)

    assert peer.hung_up()
    assert [len(batch) for batch in runner.batches] == [1, 4]
    with pytest.raises(ReplicaLost, match="device is lost"):
        listener.check()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.connect(str(world.path))
        assert stranger.recv(1) == b""
    assert len(runner.batches) == 2
