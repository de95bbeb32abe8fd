"""The registry's part of a control port on a real socket, in front of a real database."""

import contextlib
from collections.abc import AsyncIterator

from serving.access.permissions import CONTROL
from serving.core.clock import SystemClock
from serving.core.principals import Principal, Role
from serving.edge.admin.registry import RegistryRoutes
from serving.edge.http1.server import HttpServer
from serving.edge.routes import Headers, Router
from serving.port_settings import HttpSettings
from serving.storage.worker import Worker
from tests.registries import RegistryStand


def identify(headers: Headers) -> Principal:
    """Whoever says `Bearer NAME ROLE… [@TENANT]` is that: identification is not the matter here."""
    _, name, *rest = headers[b"authorization"].decode().split()
    roles = frozenset(Role(word) for word in rest if not word.startswith("@"))
    tenant = next((word[1:] for word in rest if word.startswith("@")), "")
    return Principal(name, roles, tenant=tenant)


@contextlib.asynccontextmanager
async def control_port(stand: RegistryStand) -> AsyncIterator[str]:
    """Its URL."""
    worker = Worker(SystemClock())
    routes = RegistryRoutes(stand.desk, worker).routes()
    router = Router(routes, identify=identify, permissions=CONTROL)
    server = HttpServer(router, limits=HttpSettings())
    port = await server.listen(host="127.0.0.1", port=0)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.aclose()
        worker.close()
