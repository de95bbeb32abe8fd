"""The metrics port: what every process exports, and how the processes themselves are doing."""

from collections.abc import Sequence

from serving.access.permissions import METRICS
from serving.app.children import Child
from serving.app.descriptors import within_descriptors
from serving.app.introspection import Introspection
from serving.app.ports import read_ports
from serving.edge.http1.server import HttpServer
from serving.edge.routes import Reply, Request, Route, Router
from serving.edge.tls import tls_of
from serving.errors import AddressInUse
from serving.settings import Settings
from serving.telemetry.exposition import merge_expositions
from serving.telemetry.families import PROCESS_RESTARTS, PROCESS_UP
from serving.telemetry.metrics import MetricFamilies


class MetricsPort:
    """Answers `GET /metrics`. A process that does not answer in time is missing from the answer."""

    def __init__(
        self, settings: Settings, *, sockets: Introspection, children: Sequence[Child]
    ) -> None:
        self._settings = settings.metrics
        self._sockets = sockets
        self._children = children
        self._families = MetricFamilies()
        self._families.read(
            PROCESS_UP, lambda: {(child.name,): float(child.pid is not None) for child in children}
        )
        self._families.read(
            PROCESS_RESTARTS, lambda: {(child.name,): child.restarts for child in children}
        )
        self.router = Router(
            [Route("GET", "/metrics", self._metrics, is_open=True)], permissions=METRICS
        )
        self._server = HttpServer(self.router, limits=within_descriptors(settings.http))
        read_ports(self._families, {"metrics": self._server})

    async def listen(self) -> None:
        """Raises AddressInUse."""
        host, port = self._settings.host, self._settings.port
        try:
            await self._server.listen(
                host=host, port=port, tls=tls_of(self._settings, port="metrics")
            )
        except OSError as error:
            raise AddressInUse(
                f"metrics.port {port} on {host} cannot be used: {error.strerror}"
            ) from error

    async def aclose(self) -> None:
        await self._server.aclose()

    async def _metrics(self, request: Request) -> Reply:
        accept = request.headers.get(b"accept", b"")
        own, content_type = self._families.render(accept)
        texts = await self._sockets.get_all("/metrics", accept=accept.decode("latin-1"))
        merged = merge_expositions({"supervisor": own.decode(), **texts})
        return Reply(200, merged, content_type)
