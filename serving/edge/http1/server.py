"""The HTTP/1.1 server; every port of the product but that of gRPC runs on it.

What is guaranteed to the application: a complete, bounded body, exactly one call per request, and
`Responder.watch` when the client goes away first. What becomes of a connection is a state table:
`serving.edge.http1.connection`. The head is found by its blank line and parsed by llhttp once per
distinct head: `serving.edge.http1.heads`. Connections are accepted, counted and swept by
`serving.edge.connections`.

A client certificate that TLS verified is part of each head that comes on the connection: such connections
share a memory of heads of their own (`HttpServer.heads_of`), so that requests pay nothing for it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from serving.edge.connections import LINGER_S, SWEEP_S, PortConnections
from serving.edge.guesses import Guesses, source_of
from serving.edge.http1.connection import Application, Connection, State
from serving.edge.http1.heads import HeadCache
from serving.edge.tls import ServerTls
from serving.errors import Overloaded, ServingError
from serving.port_settings import HttpSettings

DRAIN_IDLE_S: Final = 0.5
"""While draining, a connection that was used more recently gets its next request answered: under
load that request is on its way, and closing would fail it."""


class HttpServer:
    """A port and what its connections share. Started by `listen`, ended by `aclose`."""

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
        self.port = PortConnections(limits)
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
        self._buffered_bytes = 0
        self._certified: WeakValueDictionary[bytes, HeadCache] = WeakValueDictionary()

    @property
    def connections(self) -> int:
        return self.port.count

    @property
    def tls(self) -> ServerTls | None:
        return self.port.tls

    @property
    def failed_handshakes(self) -> int:
        return self.port.failed_handshakes

    def wait_for_guess(self, peer: object) -> float:
        """How long the answer to a refused credential of this peer waits; seconds."""
        if self.port.draining:
            return 0.0
        return self.guesses.wait_s(source_of(peer), self.port.tick * SWEEP_S)

    async def listen(
        self, *, host: str, port: int, reuse_port: bool = False, tls: ServerTls | None = None
    ) -> int:
        """Accepts TCP connections; port 0 lets the kernel choose. Returns the port. Raises OSError.

        tls: None for plain text; else it follows its files from now on.
        """
        return await self.port.listen(
            lambda: Connection(self), host=host, port=port, reuse_port=reuse_port, tls=tls
        )

    async def listen_unix(self, path: Path) -> None:
        """Accepts connections on a Unix socket that only this user may open."""
        await self.port.listen_unix(lambda: Connection(self), path)

    async def aclose(self, *, drain_s: float = 0.0) -> None:
        """Stops accepting, lets running requests finish for at most `drain_s`, then cuts the rest."""
        self.deadlines_s[State.IDLE] = min(DRAIN_IDLE_S, self.limits.idle_timeout_s)
        await self.port.aclose(drain_s=drain_s)

    # -- what connections tell ---------------------------------------------------------------------

    def heads_of(self, certificate: bytes | None) -> HeadCache:
        """The memory of heads for connections of clients that showed `certificate`."""
        if certificate is None:
            return self.heads
        heads = self._certified.get(certificate)
        if heads is None:
            heads = self._certified[certificate] = HeadCache(self.limits, certificate)
        return heads

    def buffer(self, count: int) -> None:
        """Counts bytes of unfinished bodies in memory. Raises Overloaded when they are too many.

        Refused and not left waiting: bodies that wait for each other's memory would all be late.
        """
        if self._buffered_bytes + count > self.limits.max_buffered_bytes:
            raise Overloaded("too many request bodies are being received; retry later")
        self._buffered_bytes += count

    def unbuffer(self, count: int) -> None:
        self._buffered_bytes -= count
