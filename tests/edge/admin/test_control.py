import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from serving.access.issuer import LocalIssuer
from serving.access.permissions import CONTROL
from serving.access.tokens import Authenticator
from serving.core.clock import SystemClock
from serving.core.principals import Role
from serving.core.traffic import Snapshot
from serving.edge.admin.control import ControlRoutes, introspection_routes
from serving.edge.admin.queries import MAX_WAIT_S
from serving.edge.http1.server import HttpServer
from serving.edge.routes import Router
from serving.inference.registration import PhaseReport, Renewal
from serving.port_settings import HttpSettings
from serving.settings import AccessSettings
from tests.plans import a_renewal, an_endpoint

SECRET = secrets.token_hex(32)
INTERNAL = {"Authorization": f"Bearer {SECRET}"}
SNAPSHOT = Snapshot(5, endpoints=(an_endpoint("a"),))


class NotedPlane:
    """A control plane that keeps what it is told; epoch 5 is the newest."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    async def snapshot(self, after: int, *, wait_s: float) -> Snapshot | None:
        self.calls.append((after, wait_s))
        return SNAPSHOT if after < 5 else None

    def renew(self, renewal: Renewal) -> float:
        self.calls.append(renewal)
        return 10.0

    def leave(self, replica: str) -> None:
        self.calls.append(replica)

    def report_phase(self, report: PhaseReport) -> None:
        self.calls.append(report)

    def status(self) -> Any:
        return {"epoch": 5}


@pytest.fixture
def plane() -> NotedPlane:
    return NotedPlane()


@pytest.fixture
def issuer(tmp_path: Path) -> LocalIssuer:
    return LocalIssuer.open(tmp_path / "keys", AccessSettings(), SystemClock())


@pytest.fixture
async def client(plane: NotedPlane, issuer: LocalIssuer) -> AsyncIterator[httpx.AsyncClient]:
    """A caller of the control port."""
    routes = ControlRoutes(
        plane,
        authentication=Authenticator([issuer.trusted], AccessSettings()),
        secret=SECRET,
        clock=SystemClock(),
    )
    router = Router(routes.routes(), identify=routes.identify, permissions=CONTROL)
    server = HttpServer(router, limits=HttpSettings())
    port = await server.listen(host="127.0.0.1", port=0)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", verify=False) as client:  # noqa: S501 - no TLS here
        yield client
    await server.aclose()


async def test_newer_snapshot_is_answered_whole(
    client: httpx.AsyncClient, plane: NotedPlane
) -> None:
    """200 with the snapshot as JSON; epoch and wait are handed on."""
    answer = await client.get("/internal/snapshot?after=4&wait_s=20", headers=INTERNAL)

    assert answer.status_code == 200
    assert msgspec.json.decode(answer.content, type=Snapshot) == SNAPSHOT
    assert plane.calls == [(4, 20)]


async def test_no_news_is_no_content(client: httpx.AsyncClient, plane: NotedPlane) -> None:
    """204 when the wait ended without a change; nobody can wait longer than the limit."""
    answer = await client.get("/internal/snapshot?after=5&wait_s=86400", headers=INTERNAL)

    assert answer.status_code == 204
    assert plane.calls == [(5, MAX_WAIT_S)]


@pytest.mark.parametrize("query", ["after=x", "after=-1", "wait_s=nan", "after=1e30"])
async def test_numbers_that_make_no_sense_are_refused(
    client: httpx.AsyncClient, query: str
) -> None:
    """A query is judged before anything waits."""
    answer = await client.get(f"/internal/snapshot?{query}", headers=INTERNAL)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_parameter")


async def test_renewal_is_answered_with_the_length_of_the_lease(
    client: httpx.AsyncClient, plane: NotedPlane
) -> None:
    """A replica learns how long it may stay silent."""
    body = msgspec.json.encode(a_renewal("a"))

    answer = await client.put("/internal/endpoints/a", content=body, headers=INTERNAL)

    assert (answer.status_code, answer.json()) == (200, {"lease_s": 10.0})
    assert [a_renewal("a")] == plane.calls


async def test_renewal_for_another_replica_is_refused(client: httpx.AsyncClient) -> None:
    """Path and body must name the same replica."""
    body = msgspec.json.encode(a_renewal("a"))

    answer = await client.put("/internal/endpoints/b", content=body, headers=INTERNAL)

    assert answer.status_code == 400


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff", b'{"endpoint": 1}'])
async def test_renewal_that_cannot_be_understood_is_refused(
    client: httpx.AsyncClient, plane: NotedPlane, body: bytes
) -> None:
    """Nothing half-understood reaches the leases."""
    answer = await client.put("/internal/endpoints/a", content=body, headers=INTERNAL)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert plane.calls == []


async def test_replica_can_leave_and_tell_its_phase(
    client: httpx.AsyncClient, plane: NotedPlane
) -> None:
    """DELETE ends the lease; a phase report is passed on."""
    report = PhaseReport("doubler", "1", "loading")
    answers = [
        await client.put(
            "/internal/phases/a", content=msgspec.json.encode(report), headers=INTERNAL
        ),
        await client.delete("/internal/endpoints/a", headers=INTERNAL),
    ]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert [report, "a"] == plane.calls


@pytest.mark.parametrize(
    "route",
    [
        "GET /internal/snapshot",
        "PUT /internal/endpoints/a",
        "DELETE /internal/endpoints/a",
        "PUT /internal/phases/a",
        "GET /v1/status",
    ],
)
async def test_every_route_is_closed_to_strangers_and_callers(
    client: httpx.AsyncClient, issuer: LocalIssuer, plane: NotedPlane, route: str
) -> None:
    """No credential and a wrong secret are 401, a caller's token is 403."""
    method, path = route.split()
    caller = issuer.issue(subject="me", roles=[Role.CALLER])
    wrong = [{}, {"Authorization": f"Bearer {secrets.token_hex(32)}"}]

    strangers = [(await client.request(method, path, headers=each)).status_code for each in wrong]
    answer = await client.request(method, path, headers={"Authorization": f"Bearer {caller}"})

    assert strangers == [401, 401]
    assert answer.status_code == 403
    assert plane.calls == []


async def test_operators_token_opens_the_status_only(
    client: httpx.AsyncClient, issuer: LocalIssuer
) -> None:
    """People see how things stand; leases and snapshots are for our own processes."""
    headers = {"Authorization": f"Bearer {issuer.issue(subject='me', roles=[Role.OPERATOR])}"}

    status = await client.get("/v1/status", headers=headers)
    snapshot = await client.get("/internal/snapshot", headers=headers)

    assert (status.status_code, status.json(), snapshot.status_code) == (200, {"epoch": 5}, 403)


async def test_own_processes_may_read_the_status(client: httpx.AsyncClient) -> None:
    """The internal secret opens everything on this port."""
    answer = await client.get("/v1/status", headers=INTERNAL)

    assert answer.status_code == 200


async def test_introspection_socket_is_private_and_asks_for_nothing(tmp_path: Path) -> None:
    """Whoever can open the socket is this user; status and metrics are there without a token."""
    path = tmp_path / "it.sock"
    routes = introspection_routes(
        status=lambda: {"ready": True}, metrics=lambda accept: (b"up 1\n", f"text/{len(accept)}")
    )
    server = HttpServer(Router(routes), limits=HttpSettings())
    await server.listen_unix(path)
    transport = httpx.AsyncHTTPTransport(uds=str(path), verify=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        status = await client.get("/status")
        metrics = await client.get("/metrics", headers={"Accept": "abc"})
        other = await client.get("/v1/status")
    await server.aclose()

    assert json.loads(status.content) == {"ready": True}
    assert (metrics.content, metrics.headers["content-type"]) == (b"up 1\n", "text/3")
    assert other.status_code == 404
