import socket

from loadtests.ports import FIRST, LAST, free_port, free_ports


def test_ports_differ_from_one_another_and_from_earlier_ones() -> None:
    """Nobody is given what another is about to bind."""
    assert len({*free_ports(8), *free_ports(8)}) == 16


def test_port_in_use_is_not_given() -> None:
    """Whoever listens keeps the port to himself, for as many as are asked for."""
    with socket.create_server(("127.0.0.1", free_port())) as server:
        every = {free_port() for _ in range(FIRST, LAST + 1)}

        assert server.getsockname()[1] not in every
