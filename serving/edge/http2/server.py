"""The HTTP/2 server of the gRPC port: accepts, counts and times connections.

What is guaranteed to the application: a well-formed head, the body in order and no more of it than there
is room for, `Receiver.gone` when the client leaves first. What becomes of a connection is a state
table: `serving.edge.http2.connection`. Cleartext with prior knowledge, or TLS that agrees on `h2`;
there is no upgrade from HTTP/1.1.

No timer exists per connection or stream: one sweep compares ticks, as in `serving.edge.http1.server`.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from serving.edge.handshake import Handshakes
from serving.edge.http2.connection import Http2Connection
from serving.edge.http2.frames import SWEEP_S
from serving.edge.http2.streams import Application
from serving.edge.tls import ServerTls
from serving.errors import ConnectionsFull, Draining, ServingError

FOLLOW_TICKS: Final = round(1 / SWEEP_S)
"""From one look at the files of a certificate to the next."""
_ABORT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Http2Limits:
    """What connections and their streams may do. window_bytes: of a stream's body, on its way or not
    consumed yet, at least the 65,535 that clients may send before they know; a connection has that of
    `windows_per_connection` streams. The others are settings of the port."""

    max_header_list_bytes: int = 32 * 1024
    max_streams: int = 1024
    max_connections: int = 10_000
    backlog: int = 1024
    window_bytes: int = 1024 * 1024
    windows_per_connection: int = 4
    head_timeout_s: float = 5.0
    body_timeout_s: float = 30.0
    min_body_bytes_per_s: int = 1024
    rate_grace_s: float = 3.0
    write_timeout_s: float = 30.0
    idle_timeout_s: float = 300.0
    keepalive_s: float = 60.0
    keepalive_timeout_s: float = 20.0
    min_ping_interval_s: float = 10.0


class Http2Server:
    """Listens, keeps count, sweeps deadlines. Started by `listen`, ended by `aclose`."""

    loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        application: Application,
        *,
        limits: Http2Limits,
        refused: Callable[[ServingError], None] | None = None,
    ) -> None:
        self.application = application
        self.limits = limits
        self.tick = 0
        self.draining = False
        self.refused: Callable[[ServingError], None] = refused or (lambda _error: None)
        self._connections: set[Http2Connection] = set()
        self._server: asyncio.Server | None = None
        self._handshakes: Handshakes | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._all_gone: asyncio.Event | None = None

    @property
    def connections(self) -> int:
        return len(self._connections)

    @property
    def tls(self) -> ServerTls | None:
        return self._handshakes.tls if self._handshakes is not None else None

    @property
    def failed_handshakes(self) -> int:
        return self._handshakes.failed if self._handshakes is not None else 0

    async def listen(
        self, *, host: str, port: int, reuse_port: bool = False, tls: ServerTls | None = None
    ) -> int:
        """Accepts TCP connections; port 0 lets the kernel choose. Returns the port. Raises OSError.

        tls: None for plain text; else it follows its files from now on.
        """
        self.loop = asyncio.get_running_loop()
        limits = self.limits
        self._sweeper = self.loop.call_later(SWEEP_S, self._sweep)
        if tls is not None:
            self._handshakes = Handshakes(
                tls,
                make=lambda: Http2Connection(self),
                most=limits.backlog,
                timeout_s=limits.head_timeout_s,
                shutdown_s=limits.write_timeout_s,
            )
            return await self._handshakes.listen(
                host=host, port=port, reuse_port=reuse_port, backlog=limits.backlog
            )
        self._server = await self.loop.create_server(
            lambda: Http2Connection(self),
            host,
            port,
            reuse_port=reuse_port or None,
            backlog=limits.backlog,
        )
        bound: socket.socket = self._server.sockets[0]
        return int(bound.getsockname()[1])

    async def aclose(self, *, drain_s: float = 0.0) -> None:
        """Accepts no more, lets open streams end for at most `drain_s`, then cuts the rest. Harmless
        when repeated."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        if self._handshakes is not None:
            await self._handshakes.aclose()
        for connection in list(self._connections):
            connection.drain()
        await self._wait_until_gone(drain_s)
        for connection in list(self._connections):
            connection.abort()
        await self._wait_until_gone(_ABORT_S)
        if self._sweeper is not None:
            self._sweeper.cancel()

    # -- what connections tell ---------------------------------------------------------------------

    def admit(self, connection: Http2Connection) -> ServingError | None:
        """Counts one more connection. Returns why it must be refused, if it must."""
        self._connections.add(connection)
        if self.draining:
            return Draining("this server is going down; connect again")
        if len(self._connections) > self.limits.max_connections:
            return ConnectionsFull("too many connections; retry later")
        return None

    def forget(self, connection: Http2Connection) -> None:
        self._connections.discard(connection)
        if self._all_gone is not None and not self._connections:
            self._all_gone.set()

    # -- inside ------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        self._sweeper = self.loop.call_later(SWEEP_S, self._sweep)
        self.tick += 1
        for connection in list(self._connections):
            connection.sweep_safely(self.tick)
        if self.tls is not None and self.tick % FOLLOW_TICKS == 0:
            self.tls.follow()

    async def _wait_until_gone(self, timeout_s: float) -> None:
        if self._connections:
            self._all_gone = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._all_gone.wait()
