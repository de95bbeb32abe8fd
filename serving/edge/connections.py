"""The connections of one port: listened for, counted, swept, and let go at the end.

No timer exists per connection: one sweep tells each connection the tick, which it compares with the
deadline of its state, and looks now and then whether the certificate has changed. Whatever a connection
makes of that happens to it alone. One connection more than there may be is told so by the protocol of
the port (`admit`); so is one that comes while the port goes down.

On a port with TLS the handshake comes first (`serving.edge.handshake`), and whether a client takes its
answers is asked of the kernel (`serving.edge.unread`).
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import structlog

from serving.edge.handshake import Handshakes
from serving.edge.tls import ServerTls
from serving.edge.unread import UnreadBytes
from serving.errors import ConnectionsFull, Draining, ServingError

logger = structlog.get_logger()

SWEEP_S: Final = 0.25
"""A tick: from one look at all connections to the next."""
LINGER_S: Final = 2.0
"""How long a client may read why its connection ends, before it is closed."""
RATE_GRACE_S: Final = 3.0
"""How long a body may take before its rate counts: a packet that was lost costs a second or three."""

FOLLOW_TICKS: Final = round(1 / SWEEP_S)
"""From one look at the files of a certificate to the next."""

_ABORT_S: Final = 1.0

Make = Callable[[], asyncio.Protocol]
"""Makes the protocol of a connection that was accepted, and is encrypted where the port has TLS."""


class PortLimits(Protocol):
    """What a port's settings say of its connections."""

    @property
    def max_connections(self) -> int: ...
    @property
    def backlog(self) -> int: ...
    @property
    def head_timeout_s(self) -> float: ...
    @property
    def write_timeout_s(self) -> float: ...


class PortConnection(Protocol):
    """A connection, as its port sees it."""

    def sweep(self, tick: int) -> None:
        """Applies the deadlines. `tick` counts `SWEEP_S`."""

    def drain(self) -> None:
        """The port goes down: closes as soon as nothing is under way."""

    def abort(self) -> None:
        """Closes now, whatever was written."""


class PortConnections:
    """Listens, keeps count, sweeps deadlines. Started by `listen`, ended by `aclose`."""

    loop: asyncio.AbstractEventLoop

    def __init__(self, limits: PortLimits) -> None:
        self.tick = 0
        self.draining = False
        self._limits = limits
        self._open: dict[PortConnection, UnreadBytes | None] = {}
        self._servers: list[asyncio.Server] = []
        self._handshakes: Handshakes | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._all_gone: asyncio.Event | None = None

    @property
    def count(self) -> int:
        return len(self._open)

    @property
    def tls(self) -> ServerTls | None:
        return self._handshakes.tls if self._handshakes is not None else None

    @property
    def failed_handshakes(self) -> int:
        return self._handshakes.failed if self._handshakes is not None else 0

    async def listen(
        self, make: Make, *, host: str, port: int, reuse_port: bool, tls: ServerTls | None
    ) -> int:
        """Accepts TCP connections; port 0 lets the kernel choose. Returns the port. Raises OSError.

        tls: None for plain text; else it follows its files from now on.
        """
        self.loop = asyncio.get_running_loop()
        backlog = self._limits.backlog
        if tls is not None:
            self._handshakes = self._shaking(make, tls)
            bound_port = await self._handshakes.listen(
                host=host, port=port, reuse_port=reuse_port, backlog=backlog
            )
        else:
            server = await self.loop.create_server(
                make, host, port, reuse_port=reuse_port or None, backlog=backlog
            )
            self._servers.append(server)
            bound: socket.socket = server.sockets[0]
            bound_port = int(bound.getsockname()[1])
        self._sweep_regularly()
        return bound_port

    async def listen_unix(self, make: Make, path: Path) -> None:
        """Accepts connections on a Unix socket that only this user may open."""
        self.loop = asyncio.get_running_loop()
        self._servers.append(await self.loop.create_unix_server(make, sock=_bind_unix(path)))
        self._sweep_regularly()

    async def aclose(self, *, drain_s: float) -> None:
        """Accepts no more, lets what is under way end for at most `drain_s`, then cuts the rest.
        Harmless when repeated."""
        self.draining = True
        for server in self._servers:
            server.close()
        if self._handshakes is not None:
            await self._handshakes.aclose()
        for connection in list(self._open):
            connection.drain()
        await self._wait_until_gone(drain_s)
        for connection in list(self._open):
            connection.abort()
        await self._wait_until_gone(_ABORT_S)
        if self._sweeper is not None:
            self._sweeper.cancel()

    def sweep(self) -> None:
        """Another tick."""
        self.tick += 1
        for connection in list(self._open):
            try:
                connection.sweep(self.tick)
            except Exception as error:
                logger.exception("connection failed", error=repr(error))
                connection.abort()
        if self.tls is not None and self.tick % FOLLOW_TICKS == 0:
            self.tls.follow()
            self._cut_who_do_not_read()

    # -- what connections tell ---------------------------------------------------------------------

    def admit(
        self, connection: PortConnection, transport: asyncio.BaseTransport
    ) -> ServingError | None:
        """Counts one more connection. Returns why it must be refused, if it must."""
        self._open[connection] = None if self.tls is None else UnreadBytes(transport)
        if self.draining:
            return Draining("this server is going down; connect again")
        if len(self._open) > self._limits.max_connections:
            return ConnectionsFull("too many connections; retry later")
        return None

    def forget(self, connection: PortConnection) -> None:
        self._open.pop(connection, None)
        if self._all_gone is not None and not self._open:
            self._all_gone.set()

    # -- inside ------------------------------------------------------------------------------------

    def _cut_who_do_not_read(self) -> None:
        most_ticks = self._limits.write_timeout_s / SWEEP_S
        for connection, unread in list(self._open.items()):
            if unread is not None and unread.waited_ticks(self.tick) > most_ticks:
                connection.abort()

    def _shaking(self, make: Make, tls: ServerTls) -> Handshakes:
        limits = self._limits
        return Handshakes(
            tls,
            make=make,
            most=limits.backlog,
            timeout_s=limits.head_timeout_s,
            shutdown_s=limits.write_timeout_s,
        )

    def _sweep_regularly(self) -> None:
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(SWEEP_S, self._sweep_again)

    def _sweep_again(self) -> None:
        self._sweeper = self.loop.call_later(SWEEP_S, self._sweep_again)
        self.sweep()

    async def _wait_until_gone(self, timeout_s: float) -> None:
        if self._open:
            self._all_gone = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._all_gone.wait()


def _bind_unix(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    path.chmod(0o600)
    return listening
