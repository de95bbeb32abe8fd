"""Governance and audit over the control port: who may come, what they get, and in which form."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.access.permissions import CONTROL
from serving.audit.desk import AuditDesk
from serving.core.principals import Principal, Role
from serving.edge.admin.audit import AuditRoutes
from serving.edge.admin.governance import GovernanceRoutes
from serving.edge.http1.server import HttpServer
from serving.edge.routes import Headers, Router
from serving.governance_settings import WebhookSettings
from serving.port_settings import HttpSettings
from serving.storage.worker import Worker
from tests.governance.offices import Office
from tests.registries import digest_of

WHERE = "/v1/approvals"
ASKED = {"model": "fraud", "version": "1", "reason": "retrained"}
AGREED = {"decision": "approve", "digest": digest_of("1"), "reason": "read"}


@pytest.fixture
def office(tmp_path: Path) -> Office:
    office = Office(tmp_path, webhooks=WebhookSettings(allow=("127.0.0.1",), plain_text=True))
    office.validate()
    return office


@pytest.fixture
async def client(office: Office) -> AsyncIterator[httpx.AsyncClient]:
    """Whoever names a subject and a role in the headers is that: identification is not the matter."""

    def identify(headers: Headers) -> Principal:
        roles = frozenset({Role(headers[b"role"].decode())})
        return Principal(headers[b"subject"].decode(), roles)

    worker = Worker(office.clock)
    routes = [
        *GovernanceRoutes(office.desk, worker).routes(),
        *AuditRoutes(AuditDesk(office.database), worker).routes(),
    ]
    server = HttpServer(
        Router(routes, identify=identify, permissions=CONTROL), limits=HttpSettings()
    )
    port = await server.listen(host="127.0.0.1", port=0)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}",
        verify=False,  # noqa: S501 - no TLS here
    ) as client:
        yield client
    await server.aclose()
    worker.close()


def as_(subject: str, role: str, **more: str) -> dict[str, str]:
    return {"subject": subject, "role": role, **more}


async def test_request_is_decided_over_http(client: httpx.AsyncClient) -> None:
    """Asked, seen, discussed, agreed to; the trail says from where and under which request id."""
    asked = await client.post(WHERE, json=ASKED, headers=as_("alice", "developer"))
    path = f"{WHERE}/{asked.json()['id']}"
    said = await client.post(
        f"{path}/comments", json={"text": "which data?"}, headers=as_("grace", "approver")
    )
    who = as_("grace", "approver") | {"X-Request-Id": "r-42"}
    agreed = await client.post(f"{path}/decisions", json=AGREED, headers=who)
    view = (await client.get(path, headers=as_("ivan", "auditor"))).json()
    listed = (await client.get(f"{WHERE}?state=approved", headers=as_("ivan", "auditor"))).json()
    trail = await client.get(
        "/v1/audit/events?name=governance:approval:given", headers=as_("ivan", "auditor")
    )

    assert [each.status_code for each in (asked, said, agreed)] == [200] * 3
    assert agreed.json()["state"] == "approved"
    assert (view["standing"]["satisfied"], view["comments"][0]["text"]) == (True, "which data?")
    assert [each["id"] for each in listed["requests"]] == [asked.json()["id"]]
    (event,) = trail.json()["events"]
    assert (event["actor"], event["source"], event["request_id"]) == ("grace", "127.0.0.1", "r-42")


@pytest.mark.parametrize(
    ("call", "body", "who", "refusal"),
    [
        (f"POST {WHERE}", ASKED, as_("carl", "caller"), (404, "model_not_found")),
        (f"POST {WHERE}", ASKED, as_("grace", "approver"), (403, "forbidden")),
        (f"POST {WHERE}", ASKED | {"state": "approved"}, as_("alice", "developer"), (400, "unknown_or_read_only_field")),
        (f"POST {WHERE}", ASKED | {"digest": "0" * 64}, as_("alice", "developer"), (409, "digest_changed")),
        (f"POST {WHERE}", ASKED | {"reason": ""}, as_("alice", "developer"), (400, "invalid_request")),
        (f"POST {WHERE}", ASKED | {"version": "9"}, as_("alice", "developer"), (404, "not_found")),
        (f"GET {WHERE}?state=lost", None, as_("ivan", "auditor"), (400, "invalid_parameter")),
        (f"GET {WHERE}/unknown", None, as_("ivan", "auditor"), (404, "not_found")),
        (f"POST {WHERE}/unknown/decisions", AGREED, as_("grace", "approver"), (404, "not_found")),
        ("POST /v1/overrides", ASKED | {"digest": digest_of("1")}, as_("grace", "approver"),
         (403, "forbidden")),
        ("GET /v1/webhooks", None, as_("alice", "developer"), (403, "forbidden")),
        ("POST /v1/webhooks", {"url": "https://10.0.0.1/"}, as_("ada", "admin"), (400, "invalid_parameter")),
        ("POST /v1/webhooks", {"url": "https://x.example/"}, as_("ivan", "auditor"), (403, "forbidden")),
        ("GET /v1/audit/events", None, as_("alice", "developer"), (403, "forbidden")),
        ("GET /v1/audit/events?limit=0", None, as_("ivan", "auditor"), (400, "invalid_parameter")),
        ("GET /v1/audit/events?limit=x", None, as_("ivan", "auditor"), (400, "invalid_parameter")),
        ("GET /v1/models/fraud/versions/1/evidence", None, as_("carl", "caller"), (403, "forbidden")),
    ],
)  # fmt: skip
async def test_what_may_not_be_is_refused_by_its_code(
    client: httpx.AsyncClient, call: str, *, body: Any, who: dict[str, str], refusal: Any
) -> None:
    """Each role has its part, and each mistake its name."""
    method, _, path = call.partition(" ")

    answer = await client.request(method, path, json=body, headers=who)

    assert (answer.status_code, answer.json()["code"]) == refusal


async def test_rg_04_own_approval_is_403_over_http(client: httpx.AsyncClient) -> None:
    """With a code of its own, so that nobody takes it for a missing role."""
    asked = await client.post(WHERE, json=ASKED, headers=as_("alice", "developer"))
    path = f"{WHERE}/{asked.json()['id']}/decisions"

    answer = await client.post(path, json=AGREED, headers=as_("alice", "approver"))

    assert (answer.status_code, answer.json()["code"]) == (403, "separation_of_duties")


async def test_rg_07_second_word_is_409_over_http(client: httpx.AsyncClient) -> None:
    """A decided request takes no other; a repeated order with its key is answered the same."""
    asked = await client.post(WHERE, json=ASKED, headers=as_("alice", "developer"))
    path = f"{WHERE}/{asked.json()['id']}/decisions"
    who = as_("grace", "approver") | {"Idempotency-Key": "k"}
    first = await client.post(path, json=AGREED, headers=who)
    second = await client.post(path, json=AGREED, headers=who)
    late = await client.post(path, json=AGREED, headers=as_("heidi", "approver"))

    assert first.json() == second.json()
    assert second.headers["idempotency-replayed"] == "true"
    assert (late.status_code, late.json()["code"]) == (409, "request_closed")


async def test_secret_of_a_webhook_is_shown_once(client: httpx.AsyncClient) -> None:
    """Nobody on the way may keep that answer, and no list has it."""
    order = {"url": "http://127.0.0.1:9/", "events": ["governance:request:*"]}
    made = await client.post("/v1/webhooks", json=order, headers=as_("ada", "admin"))
    where = f"/v1/webhooks/{made.json()['webhook']['id']}"
    tested = await client.post(f"{where}/test", headers=as_("ada", "admin"))
    listed = await client.get("/v1/webhooks", headers=as_("ada", "admin"))
    removed = await client.delete(where, headers=as_("ada", "admin"))

    assert made.headers["cache-control"] == "no-store"
    assert made.json()["secret"].startswith("whsec_")
    assert "secret" not in listed.text
    assert listed.json()["webhooks"][0]["waiting"] == 1
    assert [each.status_code for each in (tested, removed)] == [200, 200]


async def test_trail_is_read_page_by_page(client: httpx.AsyncClient) -> None:
    """Newest first; each page says where the next begins."""
    first = (await client.get("/v1/audit/events?limit=2", headers=as_("ivan", "auditor"))).json()
    rest = await client.get(
        f"/v1/audit/events?before={first['next']}", headers=as_("ivan", "auditor")
    )

    positions = [each["position"] for each in (*first["events"], *rest.json()["events"])]
    assert positions == sorted(positions, reverse=True)
    assert (positions[-1], rest.json()["next"]) == (0, -1)
