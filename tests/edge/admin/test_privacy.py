"""The routes that protect data subjects, over the real acts on real files."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from serving.access.permissions import CONTROL
from serving.audit.spool import Spool
from serving.control.privacy import SubjectProtection
from serving.core.clock import ManualClock
from serving.core.principals import Principal, Role
from serving.edge.admin.privacy import PrivacyRoutes
from serving.edge.http1.server import HttpServer
from serving.edge.routes import Headers, Router
from serving.port_settings import HttpSettings

ERASURES = "/v1/privacy/erasures"
HOLDS = "/v1/privacy/holds"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Whoever names a role in the header has it: identification is not the matter here."""

    def identify(headers: Headers) -> Principal:
        return Principal("ada", frozenset({Role(headers[b"role"].decode())}))

    protection = SubjectProtection(
        tmp_path, spool=Spool(tmp_path / "audit"), copies=(), clock=ManualClock()
    )
    router = Router(PrivacyRoutes(protection).routes(), identify=identify, permissions=CONTROL)
    server = HttpServer(router, limits=HttpSettings())
    port = await server.listen(host="127.0.0.1", port=0)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}",
        headers={"role": "admin"},
        verify=False,  # noqa: S501 - no TLS here
    ) as client:
        yield client
    await server.aclose()


async def test_a_hold_lives_from_order_to_release(client: httpx.AsyncClient) -> None:
    """Placed, listed, in the way of an erasure, released; then the erasure goes through."""
    order = {"subject": "ada", "reason": "case 1"}
    placed = await client.post(HOLDS, json=order)
    refused = await client.post(ERASURES, json={"subject": "ada"})
    listed = await client.get(HOLDS)
    released = await client.post(f"{HOLDS}/release", json=order)
    erased = await client.post(ERASURES, json={"subject": "ada", "reason": "asked"})

    assert (placed.status_code, refused.status_code, released.status_code) == (200, 409, 200)
    assert (refused.json()["code"], "case 1" in refused.json()["error"]) == ("legal_hold", True)
    assert [each["reason"] for each in listed.json()["holds"]] == ["case 1"]
    assert (erased.json()["keys"], erased.json()["spared"]) == (0, [])
    assert "ada" not in (erased.text, listed.text)


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.ADMIN])
async def test_only_administrators_protect_subjects(client: httpx.AsyncClient, role: Role) -> None:
    """Nobody else may erase, hold or look."""
    headers = {"role": role.value}
    answers = [
        await client.post(ERASURES, json={"subject": "ada"}, headers=headers),
        await client.get(HOLDS, headers=headers),
    ]

    assert [each.status_code for each in answers] == [403, 403]


@pytest.mark.parametrize(
    ("path", "order"),
    [
        (ERASURES, {"subject": ""}),
        (ERASURES, {"subject": "x" * 257}),
        (ERASURES, {"subject": "ada", "when": "now"}),
        (HOLDS, {"reason": "case"}),
        (HOLDS, {"reason": "case", "model": "m", "subject": "ada"}),
        (HOLDS, {"reason": " ", "model": "m"}),
    ],
)
async def test_an_order_that_is_none_is_refused(
    client: httpx.AsyncClient, path: str, order: dict[str, str]
) -> None:
    """Bodies hold exactly what their sender decides."""
    assert (await client.post(path, json=order)).status_code == 400
