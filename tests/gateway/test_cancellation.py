"""The batcher's cancellation matrix, through a real channel and a real replica loop (FT-17)."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from serving.core.clock import SystemClock
from serving.core.predictions import Fate
from serving.core.tensors import Array
from serving.errors import ModelFailed
from serving.gateway_settings import ChannelSettings
from serving.inference.channel import Channel
from serving.inference.listener import ReplicaListener
from serving.inference.places import UnixPlace
from tests.gateway.stand import DOUBLER, Client, Stand, a_snapshot
from tests.inference.runners import PATIENCE_S, HeldRunner, double
from tests.plans import an_endpoint

VALUES = (1.0, 2.0, 3.0)

Model = Callable[[Sequence[Array]], list[Array]]


def raise_error(_inputs: Sequence[Array]) -> list[Array]:
    raise ModelFailed("it always does")


def drop_a_row(inputs: Sequence[Array]) -> list[Array]:
    return [double(inputs)[0][:-1]]


ANSWERS: list[tuple[Model, Fate]] = [
    (double, Fate.OK),
    (raise_error, Fate.MODEL_ERROR),
    (drop_a_row, Fate.INVALID_OUTPUT),
]


class Replica:
    """A replica loop in a thread, and the gateway's channel to it."""

    def __init__(self, folder: Path, stand: Stand) -> None:
        self.runner = HeldRunner(DOUBLER)
        self._stand = stand
        self._settled = asyncio.Event()
        path = folder / "replica.sock"
        self._listener = ReplicaListener(
            self.runner,
            replica="r1",
            place=UnixPlace(path),
            channel=ChannelSettings(),
            run_timeout_s=PATIENCE_S,
            clock=SystemClock(),
        )
        self._listener.start()
        self.channel = Channel(
            replace(an_endpoint("r1"), address=f"unix:{path}"),
            DOUBLER,
            settings=ChannelSettings(),
            clock=stand.clock,
            changed=lambda _channel: self._settled.set(),
        )

    async def connect(self) -> None:
        """Opens the channel and waits for the greeting."""
        self._settled.clear()
        await self.channel.connect()
        await self._until(lambda: self.channel.ready)
        self._stand.queue().links.append(self.channel)

    async def send(self) -> None:
        """Lets the frame go and waits until it runs."""
        self.runner.gate.close()
        self._stand.queue().wake()
        self._stand.turns.run()
        assert await asyncio.to_thread(self.runner.gate.entered.wait, PATIENCE_S)

    async def answer(self) -> None:
        """Lets the run end and waits for the answer."""
        self.runner.gate.open()
        await self._until(lambda: not self.channel.outstanding_rows)

    async def aclose(self) -> None:
        self.channel.abort()
        await asyncio.to_thread(partial(self._listener.stop, drain_s=1))

    async def _until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not what():
                self._settled.clear()
                await self._settled.wait()


@pytest.fixture
async def replica(tmp_path: Path, stand: Stand) -> AsyncIterator[Replica]:
    replica = Replica(tmp_path, stand)
    yield replica
    await replica.aclose()


@pytest.mark.parametrize(("model", "fate"), ANSWERS, ids=["answers", "raises", "drops a row"])
@pytest.mark.parametrize("when", ["before forming", "while running", "after the result"])
@pytest.mark.parametrize("gone", [0, 1, 2], ids=["first", "middle", "last"])
async def test_caller_that_leaves_concerns_nobody_else(
    *, stand: Stand, replica: Replica, gone: int, when: str, model: Model, fate: Fate
) -> None:
    """Neighbours get their own answer or their own error; one record each; nothing is left over."""
    stand.pipeline.apply(a_snapshot(DOUBLER, shadows=()))
    clients = [stand.client(value) for value in VALUES]
    replica.runner.function = model
    stand.log.held = True
    await replica.connect()
    for client in clients:
        stand.pipeline.infer(client)

    for moment in ("before forming", "while running", "after the result"):
        if moment == "while running":
            await replica.send()
        elif moment == "after the result":
            await replica.answer()
        if moment == when:
            clients[gone].go_away()
    stand.log.commit()

    left = clients.pop(gone)
    answers = [client.answers for client in clients]
    own = [[[2 * value] * 2] for index, value in enumerate(VALUES) if index != gone]
    assert answers == (own if fate is Fate.OK else [[], []])
    assert [client.heard for client in clients] == [1, 1]
    assert left.heard == (1 if when == "after the result" else 0)
    assert fates_of(stand, left) == [fate if when == "after the result" else Fate.CLIENT_GONE]
    assert [fates_of(stand, client) for client in clients] == [[fate], [fate]]
    assert (stand.pipeline.admission.in_flight, stand.queue().queued_rows) == (0, 0)
    assert (stand.queue().idle, len(stand.turns.due)) == (True, 0)


def fates_of(stand: Stand, client: Client) -> list[Fate]:
    """The fates in the log of one client's request."""
    assert client.call is not None
    sequence = client.call.sequence
    return [record.fate for record in stand.log.records if record.sequence == sequence]
