"""The HTTP/2 server of the gRPC port.

What is guaranteed to the application: a well-formed head, the body in order and no more of it than there
is room for, `Receiver.gone` when the client leaves first. What becomes of a connection is a state
table: `serving.edge.http2.connection`. Cleartext with prior knowledge, or TLS that agrees on `h2`;
there is no upgrade from HTTP/1.1. Connections are accepted, counted and swept by
`serving.edge.connections`; no timer exists per stream, either.
"""

from collections.abc import Callable
from dataclasses import dataclass

from serving.edge.connections import PortConnections
from serving.edge.http2.connection import Http2Connection
from serving.edge.http2.streams import Application
from serving.edge.tls import ServerTls
from serving.errors import ServingError


@dataclass(frozen=True, slots=True)
class Http2Limits:
    """What connections and their streams may do. window_bytes: of a stream's body, on its way or not
    consumed yet, at least the 65,535 that clients may send before they know; a connection has that of
    `windows_per_connection` streams. The others are settings of the port, which say what they mean."""

    max_header_list_bytes: int
    max_streams: int
    max_connections: int
    backlog: int
    window_bytes: int
    head_timeout_s: float
    body_timeout_s: float
    min_body_bytes_per_s: int
    write_timeout_s: float
    idle_timeout_s: float
    keepalive_s: float
    keepalive_timeout_s: float
    min_ping_interval_s: float
    windows_per_connection: int = 4


class Http2Server:
    """A port and what its connections share. Started by `listen`, ended by `aclose`."""

    def __init__(
        self,
        application: Application,
        *,
        limits: Http2Limits,
        refused: Callable[[ServingError], None] | None = None,
    ) -> None:
        self.application = application
        self.limits = limits
        self.port = PortConnections(limits)
        self.refused: Callable[[ServingError], None] = refused or (lambda _error: None)

    @property
    def connections(self) -> int:
        return self.port.count

    @property
    def tls(self) -> ServerTls | None:
        return self.port.tls

    @property
    def failed_handshakes(self) -> int:
        return self.port.failed_handshakes

    async def listen(
        self, *, host: str, port: int, reuse_port: bool = False, tls: ServerTls | None = None
    ) -> int:
        """Accepts TCP connections; port 0 lets the kernel choose. Returns the port. Raises OSError.

        tls: None for plain text; else it follows its files from now on.
        """
        return await self.port.listen(
            lambda: Http2Connection(self), host=host, port=port, reuse_port=reuse_port, tls=tls
        )

    async def aclose(self, *, drain_s: float = 0.0) -> None:
        """Accepts no more, lets open streams end for at most `drain_s`, then cuts the rest. Harmless
        when repeated."""
        await self.port.aclose(drain_s=drain_s)
