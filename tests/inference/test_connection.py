import socket
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest

from serving.core.batches import RowBatch, TensorBlock
from serving.inference.frames import PREFIX, Kind, Refusal, encode_batch, encode_hello
from tests.inference.peers import Peer, batch_of, eventually
from tests.inference.replicas import (
    LIMIT,
    VERSION,
    World,
    descriptors,
    running,
)
from tests.inference.runners import FunctionRunner, HeldRunner

# -- peers that must not be believed ---------------------------------------------------------------

WHOLE = encode_batch(1, batch_of(VERSION, 1))
NOISE = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
    "greeting": encode_hello(VERSION.digest),
    "too large": PREFIX.pack(b"SVF1", 1, Kind.INFER, 0, LIMIT + 1),
    "too short": PREFIX.pack(b"SVF1", 1, Kind.INFER, 0, 16) + bytes(16),
    "endless rows": WHOLE[:36] + struct.pack("<I", 2**32 - 1) + WHOLE[40:],
    "other version": WHOLE[:4] + b"\2" + WHOLE[5:],
}


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE.keys())
def test_malformed_bytes_close_only_their_connection(world: World, noise: bytes) -> None:
    """Whoever does not speak the format is hung up on; its neighbours are served."""
    world.listen(FunctionRunner(VERSION))
    good, bad = world.connect(), world.connect()
    bad.say(noise)
    assert bad.hung_up()

    good.ask(1, 1)

    assert good.answers() == {1: [2]}


def test_frame_for_another_artifact_is_refused(world: World) -> None:
    """Rows meant for another digest are never run."""
    runner = FunctionRunner(VERSION)
    world.listen(runner)
    peer = world.connect()
    peer.ask(1, 1, digest="cd" * 32)

    assert peer.refusal() == (1, Refusal.WRONG_MODEL)
    assert runner.batches == []


@pytest.mark.parametrize(
    "change",
    [
        lambda batch: replace(batch, rows=0, tensors=(TensorBlock("FP32", (2,), [b""]),)),
        lambda batch: replace(batch, tensors=()),
        lambda batch: replace(batch, tensors=batch.tensors * 2),
        lambda batch: replace(batch, tensors=(TensorBlock("INT32", (2,), [bytes(8)]),)),
        lambda batch: replace(batch, tensors=(TensorBlock("FP32", (3,), [bytes(12)]),)),
        lambda batch: replace(batch, tensors=(TensorBlock("FP32", (), [bytes(4)]),)),
    ],
    ids=["no rows", "no tensors", "two tensors", "other datatype", "other shape", "other rank"],
)
def test_rows_that_do_not_fit_are_refused(
    world: World, change: Callable[[RowBatch], RowBatch]
) -> None:
    """The model never sees a tensor of another form than it declares."""
    runner = FunctionRunner(VERSION)
    world.listen(runner)
    peer = world.connect()
    peer.send(1, change(batch_of(VERSION, 1)))

    assert peer.refusal() == (1, Refusal.NOT_UNDERSTOOD)
    assert runner.batches == []


def test_gateway_that_dies_with_frames_running_hurts_nobody(world: World, held: HeldRunner) -> None:
    """Answers for a closed connection are dropped (FT-03)."""
    world.listen(held)
    with Peer(world.path, VERSION) as dead:
        dead.ask(1, 1)
        running(held)
        dead.ask(2, 2)
    held.gate.open()
    alive = world.connect()
    alive.ask(3, 3)

    assert alive.answers() == {3: [6]}


def test_connections_that_leave_at_once_are_forgotten(world: World) -> None:
    """Connecting and going away, many times, costs nothing that stays."""
    world.listen(FunctionRunner(VERSION))
    world.connect()
    before = descriptors()
    for _ in range(30):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as passing:
            passing.connect(str(world.path))

    eventually(lambda: descriptors() == before)
