"""From a client that connects to a connection that is encrypted: bounded in time and in number.

The server's own protocol begins after the handshake, so that it never sees a client that cannot
speak TLS, has no certificate where one is needed, or connects and says nothing. Failures are counted
and not logged: whoever can reach the port can make as many as he likes.

We accept here, and not the loop's own server: that would neither tell of failures nor bound them.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final

from serving.edge.tls import ServerTls

PAUSE_S: Final = 0.5
"""Before accepting again, when the process has no descriptor left."""


class Handshakes:
    """Of one port. At most `most` at once; one more connection is closed without a word."""

    def __init__(
        self,
        tls: ServerTls,
        *,
        make: Callable[[], asyncio.Protocol],
        most: int,
        timeout_s: float,
        shutdown_s: float,
    ) -> None:
        """make: the protocol of a connection that is encrypted. shutdown_s: for the end of TLS."""
        self.tls = tls
        self.failed = 0
        self._make = make
        self._most = most
        self._timeout_s = timeout_s
        self._shutdown_s = shutdown_s
        self._listening: list[socket.socket] = []
        self._running: dict[asyncio.Task[None], socket.socket] = {}

    async def listen(self, *, host: str, port: int, reuse_port: bool, backlog: int) -> int:
        """Accepts connections; port 0 lets the kernel choose. Returns the port. Raises OSError."""
        loop = asyncio.get_running_loop()
        places = await loop.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, _, _, _, address in dict.fromkeys(places):
            bound = socket.create_server(
                (str(address[0]), int(address[1])),
                family=family,
                backlog=backlog,
                reuse_port=reuse_port,
            )
            bound.setblocking(False)
            self._listening.append(bound)
            loop.add_reader(bound, self._accept, bound)
        return int(self._listening[0].getsockname()[1])

    async def aclose(self) -> None:
        """Accepts no more, and ends the handshakes under way."""
        for bound in self._listening:
            asyncio.get_running_loop().remove_reader(bound)
            bound.close()
        self._listening.clear()
        for accepted in self._running.values():
            # Not cancelled: the loop's transport has the socket, and closes it when it ends.
            with contextlib.suppress(OSError):
                accepted.shutdown(socket.SHUT_RDWR)
        await asyncio.gather(*self._running, return_exceptions=True)

    def _accept(self, bound: socket.socket) -> None:
        try:
            accepted, _ = bound.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # Another worker was faster, or the client has gone.
        except OSError:
            self._pause(bound)
            return
        if len(self._running) >= self._most:
            self.failed += 1
            accepted.close()
            return
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = asyncio.get_running_loop().create_task(self._shake(accepted))
        self._running[task] = accepted
        task.add_done_callback(self._running.pop)

    def _pause(self, bound: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(bound)
        loop.call_later(PAUSE_S, self._resume, bound)

    def _resume(self, bound: socket.socket) -> None:
        if bound in self._listening:
            asyncio.get_running_loop().add_reader(bound, self._accept, bound)

    async def _shake(self, accepted: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make,
                accepted,
                ssl=self.tls.context,
                ssl_handshake_timeout=self._timeout_s,
                ssl_shutdown_timeout=self._shutdown_s,
            )
        except OSError:  # What ssl raises is one; so is what clients cause that leave or wait.
            self.failed += 1
