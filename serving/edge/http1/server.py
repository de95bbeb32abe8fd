"""The HTTP/1.1 server: accepts, counts and times connections; every port of the product runs on it.

What is guaranteed to the application: a complete, bounded body, exactly one call per request, and
`Responder.watch` when the client goes away first. What becomes of a connection is a state table:
`serving.edge.http1.connection`. The head is found by its blank line and parsed by llhttp once per
distinct head: `serving.edge.http1.heads`.

No timer exists per connection: one sweep compares ticks with the deadline of each one's state, and
looks now and then whether the certificate has changed.

On a port with TLS the handshake comes first (`serving.edge.handshake`). A client certificate that it
verified is part of each head that comes on the connection: such connections share a memory of heads
of their own (`HttpServer.heads_of`), so that requests pay nothing for it.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from serving.edge.guesses import Guesses, source_of
from serving.edge.handshake import Handshakes
from serving.edge.http1.connection import LINGER_S, SWEEP_S, Application, Connection, State
from serving.edge.http1.heads import HeadCache
from serving.edge.tls import ServerTls
from serving.errors import ConnectionsFull, Draining, Overloaded, ServingError
from serving.port_settings import HttpSettings

DRAIN_IDLE_S: Final = 0.5
"""While draining, a connection that was used more recently gets its next request answered: under
load that request is on its way, and closing would fail it."""

FOLLOW_TICKS: Final = round(1 / SWEEP_S)
"""From one look at the files of a certificate to the next."""

_ABORT_S: Final = 1.0


def _bind_unix(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    path.chmod(0o600)
    return listening


class HttpServer:
    """Listens, keeps count, sweeps deadlines. Started by `listen`, ended by `aclose`."""

    loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        application: Application,
        *,
        limits: HttpSettings,
        refused: Callable[[ServingError], None] | None = None,
    ) -> None:
        self.application = application
        self.limits = limits
        self.heads = HeadCache(limits)
        self.tick = 0
        self.draining = False
        self.refused: Callable[[ServingError], None] = refused or (lambda _error: None)
        self.deadlines_s = {
            State.IDLE: limits.idle_timeout_s,
            State.HEAD: limits.head_timeout_s,
            State.BODY: limits.body_timeout_s,
            State.RUNNING: float("inf"),
            State.WRITING: limits.write_timeout_s,
            State.LINGER: LINGER_S,
            State.CLOSED: limits.write_timeout_s,
        }
        self.guesses = Guesses(per_s=limits.refusals_per_s, longest_s=limits.max_refusal_delay_s)
        self._connections: set[Connection] = set()
        self._buffered_bytes = 0
        self._servers: list[asyncio.Server] = []
        self._handshakes: Handshakes | None = None
        self._certified: WeakValueDictionary[bytes, HeadCache] = WeakValueDictionary()
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

    def wait_for_guess(self, peer: object) -> float:
        """How long the answer to a refused credential of this peer waits; seconds."""
        if self.draining:
            return 0.0
        return self.guesses.wait_s(source_of(peer), self.tick * SWEEP_S)

    async def listen(
        self, *, host: str, port: int, reuse_port: bool = False, tls: ServerTls | None = None
    ) -> int:
        """Accepts TCP connections; port 0 lets the kernel choose. Returns the port.

        tls: None for plain text; else it follows its files from now on.
        """
        self.loop = asyncio.get_running_loop()
        if tls is not None:
            return await self._listen_with(tls, host=host, port=port, reuse_port=reuse_port)
        server = await self.loop.create_server(
            lambda: Connection(self),
            host,
            port,
            reuse_port=reuse_port or None,
            backlog=self.limits.backlog,
        )
        self._started(server)
        bound: socket.socket = server.sockets[0]
        return int(bound.getsockname()[1])

    async def listen_unix(self, path: Path) -> None:
        """Accepts connections on a Unix socket that only this user may open."""
        self.loop = asyncio.get_running_loop()
        listening = _bind_unix(path)
        server = await self.loop.create_unix_server(lambda: Connection(self), sock=listening)
        self._started(server)

    async def aclose(self, *, drain_s: float = 0.0) -> None:
        """Stops accepting, lets running requests finish for at most `drain_s`, then cuts the rest."""
        self.draining = True
        self.deadlines_s[State.IDLE] = min(DRAIN_IDLE_S, self.limits.idle_timeout_s)
        for server in self._servers:
            server.close()
        if self._handshakes is not None:
            await self._handshakes.aclose()
        for connection in list(self._connections):
            connection.sweep(self.tick)
        await self._wait_until_gone(drain_s)
        for connection in list(self._connections):
            connection.abort()
        await self._wait_until_gone(_ABORT_S)
        if self._sweeper is not None:
            self._sweeper.cancel()

    # -- what connections tell ---------------------------------------------------------------------

    def heads_of(self, certificate: bytes | None) -> HeadCache:
        """The memory of heads for connections of clients that showed `certificate`."""
        if certificate is None:
            return self.heads
        heads = self._certified.get(certificate)
        if heads is None:
            heads = self._certified[certificate] = HeadCache(self.limits, certificate)
        return heads

    def admit(self, connection: Connection) -> ServingError | None:
        """Counts one more connection. Returns why it must be refused, if it must."""
        self._connections.add(connection)
        if self.draining:
            return Draining("this server is going down; connect again")
        if len(self._connections) > self.limits.max_connections:
            return ConnectionsFull("too many connections; retry later")
        return None

    def forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if self._all_gone is not None and not self._connections:
            self._all_gone.set()

    def buffer(self, count: int) -> None:
        """Counts bytes of unfinished bodies in memory. Raises Overloaded when they are too many.

        Refused and not left waiting: bodies that wait for each other's memory would all be late.
        """
        if self._buffered_bytes + count > self.limits.max_buffered_bytes:
            raise Overloaded("too many request bodies are being received; retry later")
        self._buffered_bytes += count

    def unbuffer(self, count: int) -> None:
        self._buffered_bytes -= count

    # -- inside ------------------------------------------------------------------------------------

    async def _listen_with(self, tls: ServerTls, *, host: str, port: int, reuse_port: bool) -> int:
        limits = self.limits
        self._handshakes = Handshakes(
            tls,
            make=lambda: Connection(self),
            most=limits.backlog,
            timeout_s=limits.head_timeout_s,
            shutdown_s=limits.write_timeout_s,
        )
        self._sweep_regularly()
        return await self._handshakes.listen(
            host=host, port=port, reuse_port=reuse_port, backlog=limits.backlog
        )

    def _started(self, server: asyncio.Server) -> None:
        self._servers.append(server)
        self._sweep_regularly()

    def _sweep_regularly(self) -> None:
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self.tick += 1
        for connection in list(self._connections):
            connection.sweep(self.tick)
        if self.tls is not None and self.tick % FOLLOW_TICKS == 0:
            self.tls.follow()
        self._sweeper = self.loop.call_later(SWEEP_S, self._sweep)

    async def _wait_until_gone(self, timeout_s: float) -> None:
        if self._connections:
            self._all_gone = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._all_gone.wait()
