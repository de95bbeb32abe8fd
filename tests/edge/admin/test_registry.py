"""The registry's routes: refusals with their statuses, orders that can be repeated, bounded waits."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.access.permissions import CONTROL
from serving.app.control_types import TYPES
from serving.edge.admin.openapi import OPERATIONS, describe
from serving.edge.routes import Reply, Route
from serving.errors import RegistryUnavailable
from serving.storage.database import Database
from serving.storage_settings import RegistrySettings
from tests.controlport import control_port
from tests.registries import DEFINITION, RegistryStand, digest_of

MODEL = {"name": "fraud", "facts": {"owner": "ada"}}
VERSION = {"version": "1", "digest": digest_of("1"), "definition": DEFINITION}
ADA = {"Authorization": "Bearer ada developer operator approver"}
TESS = {"Authorization": "Bearer tess developer operator @acme"}
OTTO = {"Authorization": "Bearer otto auditor"}
CARL = {"Authorization": "Bearer carl caller"}


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[RegistryStand]:
    database = Database.open(RegistrySettings(timeout_s=0.2), tmp_path)
    yield RegistryStand(database)
    database.close()


@pytest.fixture
async def client(stand: RegistryStand) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        control_port(stand) as url,
        httpx.AsyncClient(base_url=url, headers=ADA, verify=False) as client,  # noqa: S501 - no TLS
    ):
        yield client


def code(answer: httpx.Response) -> tuple[int, str]:
    problem: dict[str, Any] = answer.json()
    assert set(problem) == {"error", "code", "request_id"}
    return answer.status_code, problem["code"]


async def test_a_model_lives_from_registration_to_retirement(client: httpx.AsyncClient) -> None:
    """Every route of the registry, in the order in which a team uses them."""
    version = "/v1/models/fraud/versions/1"
    made = await client.post("/v1/models", json=MODEL)
    changed = await client.put(
        "/v1/models/fraud",
        json={"owner": "ada", "purpose": "Finds fraud."},
        headers={"If-Match": '"1"'},
    )
    registered = await client.post("/v1/models/fraud/versions", json=VERSION)
    for step in ("validate", "approve", "deprecate", "retire"):
        body = {"step": step, "reason": "as planned"}
        stepped = await client.post(f"{version}/state", json=body)
        assert stepped.status_code == 200, stepped.text
    alias = await client.put("/v1/models/fraud/aliases/champion", json={"version": "1"})
    named = await client.get("/v1/models/fraud/versions/champion")
    aliases = await client.get("/v1/models/fraud/aliases")
    removed = await client.delete("/v1/models/fraud/aliases/champion")
    found = await client.get("/v1/models", params={"text": "fraud"})
    history = await client.get("/v1/models/fraud/history")
    card = await client.get(f"{version}/card", params={"format": "markdown"})
    bom = await client.get(f"{version}/bom")

    assert (made.json()["revision"], changed.json()["revision"]) == (1, 2)
    assert (registered.json()["state"], named.json()["state"]) == ("registered", "retired")
    assert (alias.json()["version"], removed.status_code) == ("1", 200)
    assert [each["alias"] for each in aliases.json()["aliases"]] == ["champion"]
    assert [each["name"] for each in found.json()["models"]] == ["fraud"]
    assert len(history.json()["events"]) == 9
    assert card.headers["content-type"].startswith("text/markdown")
    assert bom.json()["specVersion"] == "1.6"


async def test_az_06_another_tenants_model_is_404_on_every_route(
    client: httpx.AsyncClient,
) -> None:
    """To read, to list, to change: as if there were none, and no list or count tells of it."""
    await client.post("/v1/models", json=MODEL, headers=TESS)
    await client.post("/v1/models/fraud/versions", json=VERSION, headers=TESS)
    own = (await client.get("/v1/models", headers=TESS)).json()["models"]

    for path in ("", "/history", "/versions", "/versions/1", "/aliases", "/versions/1/card"):
        answer = await client.get(f"/v1/models/fraud{path}")
        nothing = await client.get(f"/v1/models/none{path}")
        assert code(answer) == code(nothing) == (404, "model_not_found")
        assert answer.json()["error"] == nothing.json()["error"]
    orders = [
        await client.put("/v1/models/fraud", json={"owner": "x"}),
        await client.post("/v1/models/fraud/versions", json=VERSION | {"version": "2"}),
        await client.post("/v1/models/fraud/versions/1/state", json={"step": "validate"}),
        await client.put("/v1/models/fraud/aliases/a", json={"version": "1"}),
    ]

    assert [code(answer) for answer in orders] == [(404, "model_not_found")] * 4
    assert (await client.get("/v1/models")).json() == {"models": [], "next": ""}
    assert [(each["name"], each["tenant"]) for each in own] == [("fraud", "acme")]


async def test_refusals_have_their_statuses(client: httpx.AsyncClient) -> None:
    """Each kind of mistake has its own code, and each code its status."""
    await client.post("/v1/models", json=MODEL)
    post, put = client.post, client.put

    assert code(await post("/v1/models", json=MODEL)) == (409, "already_exists")
    assert code(await post("/v1/models", json=MODEL | {"tenant": "x"})) == (
        400,
        "unknown_or_read_only_field",
    )
    assert code(await post("/v1/models", json=MODEL | {"name": "../x"})) == (
        400,
        "invalid_parameter",
    )
    assert code(await post("/v1/models", content=b"{")) == (400, "invalid_request")
    stale = await put("/v1/models/fraud", json={"owner": "x"}, headers={"If-Match": '"7"'})
    assert code(stale) == (409, "revision_conflict")
    odd = await put("/v1/models/fraud", json={"owner": "x"}, headers={"If-Match": "x"})
    assert code(odd) == (400, "invalid_parameter")
    assert code(await client.get("/v1/models/fraud/versions/9")) == (404, "not_found")
    assert code(await post("/v1/models", json=MODEL, headers=OTTO)) == (403, "forbidden")
    assert code(await client.get("/v1/models/fraud", headers=CARL))[0] in (403, 404)
    listed = await client.get("/v1/models", headers=CARL)
    assert listed.json()["models"] == []


async def test_rg_01_paths_with_traversal_reach_nothing(client: httpx.AsyncClient) -> None:
    """An encoded slash is part of a name, and no model has such a name."""
    for name in ("..%2F..%2Fetc", "a%2Fb", "a%23b", "a%3Fb", "http:%2F%2Fx", "%00", "A"):
        answer = await client.get(f"/v1/models/{name}")
        assert answer.status_code in (400, 404)


async def test_rg_03_an_order_can_be_repeated(client: httpx.AsyncClient) -> None:
    """The same key gives the same answer and says so; with another body it is 409."""
    headers = {"Idempotency-Key": "one"}
    first = await client.post("/v1/models", json=MODEL, headers=headers)
    second = await client.post("/v1/models", json=MODEL, headers=headers)
    other = await client.post("/v1/models", json=MODEL | {"name": "x"}, headers=headers)

    assert (first.status_code, second.content) == (200, first.content)
    assert second.headers["Idempotency-Replayed"] == "true"
    assert code(other) == (409, "idempotency_key_reused")
    long = await client.post("/v1/models", json=MODEL, headers={"Idempotency-Key": "k" * 256})
    assert code(long) == (400, "invalid_parameter")


async def test_rg_14_a_registry_that_is_away_is_503(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """With Retry-After, for questions and orders; once it is back, so is the registry."""
    file = tmp_path / "registry.sqlite"
    file.rename(tmp_path / "away")

    asked = await client.get("/v1/models")
    ordered = await client.post("/v1/models", json=MODEL)
    (tmp_path / "away").rename(file)

    assert code(asked) == code(ordered) == (503, "registry_unavailable")
    assert int(asked.headers["Retry-After"]) >= 1
    assert (await client.post("/v1/models", json=MODEL)).status_code == 200
    assert RegistryUnavailable.retry


def test_every_route_of_the_control_port_is_described() -> None:
    """The document has each route once, but for those between our own processes, and no other."""

    def nothing(_request: object) -> Reply:
        return Reply(200)

    routes = [Route(method, path, nothing) for method, path in CONTROL]
    document = describe(routes, TYPES)

    described = {
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method in methods
    }
    public = {f"{m} {p}" for m, p in CONTROL if not p.startswith("/internal/")}
    assert described == public == set(OPERATIONS)
    names = [each.name for each in OPERATIONS.values()]
    assert len(names) == len(set(names))


def test_a_described_body_is_the_one_that_is_taken() -> None:
    """Schemas follow from the types that decode: unknown members are ruled out there too."""
    document = describe([Route("POST", "/v1/models", lambda _request: Reply(200))], TYPES)

    order = document["components"]["schemas"]["ModelOrder"]
    assert (order["required"], order["additionalProperties"]) == (["name", "facts"], False)
    answers = document["paths"]["/v1/models"]["post"]["responses"]
    assert {"200", "409", "503"} <= set(answers)
    assert "Retry-After" in answers["503"]["headers"]
