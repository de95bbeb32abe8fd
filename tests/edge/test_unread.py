"""What a client leaves unread, by the kernel's figures: over real connections."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from serving.edge.unread import UnreadBytes
from tests.places import wait_until


class Connected(asyncio.Transport):
    """What is asked of a transport: its socket."""

    def __init__(self, end: socket.socket | None) -> None:
        super().__init__({"socket": end})


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A server's end, which does not block, and its client's, whose buffer is small."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listening.getsockname())
        server, _ = listening.accept()
        with server:
            server.setblocking(False)
            yield server, client


def fill(server: socket.socket) -> None:
    """Writes until the kernel takes no more."""
    try:
        while server.send(bytes(65536)):
            continue
    except BlockingIOError:
        return


def test_a_client_that_reads_nothing_is_waited_for(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """From the first look that found its buffer full."""
    server, _ = ends
    unread = UnreadBytes(Connected(server))
    fill(server)
    wait_until(lambda: unread.waited_ticks(0) == unread.waited_ticks(1) - 1)

    assert [unread.waited_ticks(tick) for tick in (10, 20)] == [10, 20]


def test_a_client_that_reads_is_not_late(ends: tuple[socket.socket, socket.socket]) -> None:
    """Whatever still waits: the time begins anew with each byte it takes."""
    server, client = ends
    unread = UnreadBytes(Connected(server))
    fill(server)
    wait_until(lambda: unread.waited_ticks(0) == unread.waited_ticks(1) - 1)

    client.recv(65536)

    wait_until(lambda: bool(client.recv(65536)) and unread.waited_ticks(10) == 0)


def test_nothing_is_unread_where_nothing_waits(ends: tuple[socket.socket, socket.socket]) -> None:
    """A client that has all of its answers may be silent for as long as it likes."""
    server, client = ends
    unread = UnreadBytes(Connected(server))
    server.send(b"answer")
    assert client.recv(6) == b"answer"

    assert [unread.waited_ticks(tick) for tick in (0, 100, 200)] == [0, 0, 0]


def test_a_connection_that_has_gone_leaves_nothing(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """Its end is told elsewhere; nor is anything known of a transport without a socket."""
    server, _ = ends
    unread, unknown = UnreadBytes(Connected(server)), UnreadBytes(Connected(None))
    fill(server)
    server.close()

    assert (unread.waited_ticks(100), unknown.waited_ticks(100)) == (0, 0)
