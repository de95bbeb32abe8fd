"""The connections of one port, by themselves: what each wire makes of them is tested with its server."""

import asyncio
import socket

import pytest

from serving.edge.connections import PortConnections
from serving.errors import ConnectionsFull, Draining
from serving.port_settings import HttpSettings


class Noted:
    """A connection that keeps what its port tells it."""

    def __init__(self, port: PortConnections, *, fails: bool = False) -> None:
        self.told: list[int | str] = []
        self._port = port
        self._fails = fails
        self.refusal = port.admit(self, asyncio.Transport())

    def sweep(self, tick: int) -> None:
        self.told.append(tick)
        if self._fails:
            raise ValueError("a bug")

    def drain(self) -> None:
        self.told.append("drain")

    def abort(self) -> None:
        self.told.append("abort")
        self._port.forget(self)


def a_port(**limits: int) -> PortConnections:
    return PortConnections(HttpSettings.model_validate(limits))


def test_a_connection_that_fails_in_a_sweep_ends_alone() -> None:
    """It is cut off; the others are swept, in this sweep and the next."""
    port = a_port()
    connections = [Noted(port), Noted(port, fails=True), Noted(port)]

    port.sweep()
    port.sweep()

    assert [each.told for each in connections] == [[1, 2], [1, "abort"], [1, 2]]


async def test_what_does_not_end_by_itself_is_cut() -> None:
    """Going down, each connection is told so, and cut off when its time is over."""
    port = a_port()
    connection = Noted(port)

    await port.aclose(drain_s=0)

    assert (connection.told, port.count) == (["drain", "abort"], 0)
    assert isinstance(Noted(port).refusal, Draining)


def test_one_connection_too_many_is_refused_and_counted() -> None:
    """It is there until it has been told so; then there is room again."""
    port = a_port(max_connections=1)
    first, second = Noted(port), Noted(port)
    counted = port.count
    port.forget(second)

    port.forget(first)

    assert (first.refusal, type(second.refusal), counted) == (None, ConnectionsFull, 2)
    assert Noted(port).refusal is None


async def test_nothing_runs_for_an_address_that_is_taken() -> None:
    """The error is the caller's; there is nothing to close, and closing harms nothing."""
    port = a_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            await port.listen(
                asyncio.Protocol, host="127.0.0.1", port=number, reuse_port=False, tls=None
            )

    await port.aclose(drain_s=0)
    assert port.tick == 0
