"""The routes that administer access: exact bodies, and answers that can be acted on."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from serving.access.permissions import CONTROL
from serving.access.state import AccessState
from serving.core.clock import ManualClock
from serving.core.principals import Principal, Role
from serving.edge.admin.access import AccessRoutes
from serving.edge.http1.server import HttpServer
from serving.edge.routes import Headers, Router
from serving.port_settings import HttpSettings
from tests.desks import Desk

KEYS = "/v1/access/keys"
RULES = "/v1/access/rules"
REVOCATIONS = "/v1/access/revocations"
KEY = {"subject": "ci", "roles": ["caller"]}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path, ManualClock())


@pytest.fixture
async def client(desk: Desk) -> AsyncIterator[httpx.AsyncClient]:
    """Whoever names a role in the header has it: identification is not the matter here."""

    def identify(headers: Headers) -> Principal:
        roles = frozenset({Role(headers[b"role"].decode())})
        return desk.live.adopt(Principal("ada", roles))

    routes = AccessRoutes(desk.access, desk.keys).routes()
    server = HttpServer(
        Router(routes, identify=identify, permissions=CONTROL), limits=HttpSettings()
    )
    port = await server.listen(host="127.0.0.1", port=0)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}",
        headers={"role": "admin"},
        verify=False,  # noqa: S501 - no TLS here
    ) as client:
        yield client
    await server.aclose()


async def test_key_lives_from_order_to_revocation(client: httpx.AsyncClient, desk: Desk) -> None:
    """Made, listed, replaced, revoked; nobody on the way may keep an answer with a secret."""
    made = await client.post(KEYS, json=KEY)
    name = made.json()["key"]
    replaced = await client.post(f"{KEYS}/{name}/rotate")
    revoked = await client.delete(f"{KEYS}/{name}")
    listed = (await client.get(KEYS)).json()["keys"]

    assert [each.headers["cache-control"] for each in (made, replaced)] == ["no-store"] * 2
    assert desk.knows(replaced.json()["secret"])
    assert (revoked.status_code, desk.knows(made.json()["secret"])) == (200, False)
    assert [each["state"] for each in listed] == ["active", "revoked"]
    assert not {"secret", "digest"} & set(listed[0])


async def test_rules_and_revocations_live_from_order_to_end(client: httpx.AsyncClient) -> None:
    """Made, listed, explained, taken back."""
    order = {"effect": "allow", "subject": "bob", "role": "caller", "model": "fraud-*"}
    rule = (await client.post(RULES, json=order)).json()
    disabled = await client.post(REVOCATIONS, json={"kind": "subject", "value": "b/b"})
    query = {"subject": "bob", "action": "infer", "model": "fraud-cards", "roles": ""}
    explained = (await client.get("/v1/access/explain", params=query)).json()
    lists = [(await client.get(each)).json() for each in (RULES, REVOCATIONS)]
    ended = [
        (await client.delete(f"{RULES}/{rule['rule']}")).status_code,
        (await client.delete(f"{REVOCATIONS}/subject/b%2Fb")).status_code,
        (await client.delete(f"{REVOCATIONS}/subject/b%2Fb")).status_code,
        (await client.delete(f"{REVOCATIONS}/nothing/bob")).status_code,
    ]

    assert disabled.status_code == 200
    assert (explained["allowed"], explained["rule"]) == (True, rule["rule"])
    assert lists[0]["rules"] == [rule]
    assert lists[1]["revocations"][0]["made_by"] == "ada"
    assert ended == [200, 200, 404, 404]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (KEYS, KEY | {"owner_": "x"}),
        (KEYS, KEY | {"digest": "00"}),
        (KEYS, KEY | {"key": "0" * 12}),
        (KEYS, KEY | {"made_s": 1}),
        (KEYS, KEY | {"revoked_s": 0}),
        (RULES, {"effect": "deny", "subject": "a", "made_by": "somebody"}),
        (RULES, {"effect": "deny", "subject": "a", "rule": "r"}),
        (RULES, {"effect": "deny", "subject": "a", "approved": True}),
        (REVOCATIONS, {"kind": "subject", "value": "a", "made_by": "b"}),
        (f"{KEYS}/x/rotate", {"roles": ["admin"]}),
    ],
)
async def test_az_08_field_that_is_not_the_senders_is_refused_by_name(
    client: httpx.AsyncClient, desk: Desk, path: str, body: dict[str, Any]
) -> None:
    """What we set, or what there is none of, is never silently taken or dropped."""
    answer = await client.post(path, json=body)

    assert (answer.status_code, answer.json()["code"]) == (400, "unknown_or_read_only_field")
    assert desk.access.state == AccessState()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (KEYS, b""),
        (KEYS, b"[]"),
        (KEYS, b'{"subject": "a"}'),
        (KEYS, b'{"subject": "a", "roles": []}'),
        (KEYS, b'{"subject": "a", "roles": ["root"]}'),
        (KEYS, b'{"subject": "a", "roles": ["caller"], "ttl_s": 0}'),
        (KEYS, b'{"subject": "a", "roles": ["caller"], "ttl_s": 1e300}'),
        (KEYS, b'{"subject": "a", "roles": ["caller"], "models": []}'),
        (KEYS, b"\xff"),
        (KEYS, b"[" * 100_000),
        (RULES, b'{"effect": "maybe", "subject": "a"}'),
        (RULES, b'{"effect": "allow", "subject": ""}'),
        (REVOCATIONS, b'{"kind": "everything", "value": "a"}'),
        (REVOCATIONS, b'{"kind": "token", "value": "a", "since_s": -1}'),
    ],
)
async def test_body_that_is_no_order_is_refused(
    client: httpx.AsyncClient, desk: Desk, path: str, body: bytes
) -> None:
    """400, and nothing has changed."""
    answer = await client.post(path, content=body)

    assert answer.status_code == 400
    assert desk.access.state == AccessState()


@pytest.mark.parametrize(
    "query", ["", "subject=a", "action=fly&subject=a", "action=infer&subject=a&as=admin",
              "action=infer&subject=a&roles=root"],
)  # fmt: skip
async def test_question_that_is_none_is_refused(client: httpx.AsyncClient, query: str) -> None:
    """An auditor is told what was not understood instead of an answer to something else."""
    answer = await client.get(f"/v1/access/explain?{query}")

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_parameter")


@pytest.mark.parametrize(("role", "status"), [("auditor", 200), ("operator", 403)])
async def test_auditor_may_look_and_nobody_else_but_admins(
    client: httpx.AsyncClient, role: str, status: int
) -> None:
    """Who may do what is not for everybody to read, and for auditors not to change."""
    headers = {"role": role}
    looks = [await client.get(path, headers=headers) for path in (KEYS, RULES, REVOCATIONS)]
    changes = [
        await client.post(KEYS, json=KEY, headers=headers),
        await client.delete(f"{KEYS}/x", headers=headers),
        await client.get("/internal/access", headers=headers),
    ]

    assert [each.status_code for each in looks] == [status] * 3
    assert [each.status_code for each in changes] == [403] * 3


async def test_workers_poll_for_the_state_and_tell_last_uses(
    client: httpx.AsyncClient, desk: Desk
) -> None:
    """The internal half needs the trust that no role has; asked as one of ours it answers whole."""
    made = (await client.post(KEYS, json=KEY)).json()
    state = await desk.access.after(0, wait_s=0)
    desk.keys.note_uses({made["key"]: 5})

    assert msgspec.json.decode(msgspec.json.encode(state), type=AccessState) == state
    assert (await client.get(KEYS)).json()["keys"][0]["last_used_s"] == 5
