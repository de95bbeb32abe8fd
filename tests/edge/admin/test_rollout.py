"""Rollouts over the control port: who may turn them, what they get, and a rollback without a registry."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from serving.access.permissions import CONTROL
from serving.control.rollout_desk import RolloutDesk, answered
from serving.core.calls import Answer, Call
from serving.core.principals import Principal, Role
from serving.edge.admin.rollout import RolloutRoutes, reason_in
from serving.edge.http1.server import HttpServer
from serving.edge.routes import Headers, Router
from serving.governance.rollout_book import Rollout
from serving.governance.rollout_states import Turn
from serving.port_settings import HttpSettings
from serving.storage.worker import Worker
from tests.rollouts import RolloutStand

PATH = "/v1/rollouts/fraud"
ORDER = {"candidate": "2", "plan": {"steps": [{"weight": 0.1, "hold_s": 60}]}, "reason": "better"}
OPERATOR = {"subject": "ivan", "role": "operator"}


class Port:
    """The routes over a real registry. known: what a conductor would roll back without it."""

    def __init__(self, folder: Path) -> None:
        self.stand = RolloutStand(folder)
        self.known: Rollout | None = None
        self.changes = 0
        self.reasons: list[str] = []
        self.desk = RolloutDesk(
            self.stand.database,
            self.stand.rollouts,
            self.stand.stand.operations,
            seen=lambda _model: None,
            unrecorded=lambda _rollout: False,
        )

    def changed(self) -> None:
        self.changes += 1

    def emergency(self, call: Call) -> Answer:
        self.reasons.append(reason_in(call))
        return answered(self.known)


@pytest.fixture
def port(tmp_path: Path) -> Port:
    return Port(tmp_path)


@pytest.fixture
async def client(port: Port) -> AsyncIterator[httpx.AsyncClient]:
    """Whoever names a subject and a role in the headers is that: identification is not the matter."""

    def identify(headers: Headers) -> Principal:
        return Principal(headers[b"subject"].decode(), frozenset({Role(headers[b"role"].decode())}))

    worker = Worker(port.stand.clock)
    routes = RolloutRoutes(
        port.desk, worker, changed=port.changed, emergency=port.emergency
    ).routes()
    server = HttpServer(
        Router(routes, identify=identify, permissions=CONTROL), limits=HttpSettings()
    )
    number = await server.listen(host="127.0.0.1", port=0)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{number}",
        headers=OPERATOR,
        verify=False,  # noqa: S501 - no TLS here
    ) as client:
        yield client
    await server.aclose()
    worker.close()
    port.stand.close()


async def test_rollout_is_started_turned_and_shown(port: Port, client: httpx.AsyncClient) -> None:
    """Every order is answered with the rollout as it is now; the conductor is told of each."""
    started = await client.post(PATH, json=ORDER)
    port.stand.turn(Turn.READY)
    paused = await client.post(f"{PATH}/pause", json={"reason": "lunch"})
    resumed = await client.post(f"{PATH}/resume", json={})
    promoted = await client.post(f"{PATH}/promote", json={"reason": "agreed"})
    back = await client.post(f"{PATH}/rollback", json={"reason": "complaints"})
    shown = (await client.get(PATH)).json()
    listed = (await client.get("/v1/rollouts", params={"limit": "5"})).json()
    history = (await client.get(f"{PATH}/history")).json()

    answers = [started, paused, resumed, promoted, back]
    assert [each.status_code for each in answers] == [200] * 5
    assert [each.json()["rollout"]["state"] for each in answers] == [
        "pending",
        "paused",
        "running",
        "promoting",
        "rolled_back",
    ]
    assert port.changes == 5
    assert (shown["rollout"]["reason"], shown["weight"]) == ("complaints", 0.0)
    assert [each["id"] for each in listed["rollouts"]] == [shown["rollout"]["id"]]
    turns = [each["turn"] for each in history["rollouts"][0]["history"]]
    assert turns == ["ready", "pause", "resume", "promote", "roll_back"]


async def test_what_is_refused_says_why(client: httpx.AsyncClient) -> None:
    """409 for a second rollout and a turn that is none, 400 for a plan that is none, 404 without any."""
    none = await client.get(PATH)
    nonsense = await client.post(PATH, json={**ORDER, "plan": {"steps": []}})
    unknown = await client.post(PATH, json={**ORDER, "weight": 3})
    await client.post(PATH, json=ORDER)
    second = await client.post(PATH, json=ORDER)
    resumed = await client.post(f"{PATH}/resume", json={})
    limit = await client.get("/v1/rollouts", params={"limit": "0"})

    found = [(each.status_code, each.json()["code"]) for each in (none, nonsense, unknown)]
    assert found == [
        (404, "not_found"),
        (400, "invalid_request"),
        (400, "unknown_or_read_only_field"),
    ]
    assert (second.status_code, second.json()["code"]) == (409, "already_exists")
    assert (resumed.status_code, resumed.json()["code"]) == (409, "transition_refused")
    assert "possible: rollback" in resumed.json()["error"]
    assert limit.status_code == 400


@pytest.mark.parametrize("role", ["developer", "approver", "auditor"])
async def test_only_operators_conduct(client: httpx.AsyncClient, role: str) -> None:
    """Others may look, where their role lets them see candidates."""
    await client.post(PATH, json=ORDER)
    other = {"subject": "eve", "role": role}
    refused = [
        (await client.post(f"{PATH}{verb}", json=ORDER if not verb else {}, headers=other))
        for verb in ("", "/pause", "/resume", "/promote", "/rollback")
    ]

    assert {each.status_code for each in refused} == {403}


async def test_order_that_is_sent_again_is_carried_out_once(client: httpx.AsyncClient) -> None:
    """The same key, the same answer."""
    headers = {"Idempotency-Key": "k-1"}
    first = await client.post(PATH, json=ORDER, headers=headers)
    again = await client.post(PATH, json=ORDER, headers=headers)

    assert (first.status_code, again.status_code) == (200, 200)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert first.json() == again.json()


async def test_rollback_without_a_registry_is_carried_out_all_the_same(
    port: Port, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """200 with `unrecorded` when it is known what to roll back, 503 when it is not; a pause waits."""
    await client.post(PATH, json=ORDER)
    known = port.stand.newest()
    (tmp_path / "registry.sqlite").rename(tmp_path / "away")
    nothing = await client.post(f"{PATH}/rollback", json={"reason": "now"})
    port.known = known
    done = await client.post(f"{PATH}/rollback", json={"reason": "now"})
    paused = await client.post(f"{PATH}/pause", json={})
    (tmp_path / "away").rename(tmp_path / "registry.sqlite")

    assert (nothing.status_code, paused.status_code) == (503, 503)
    assert (done.status_code, done.json()["unrecorded"]) == (200, True)
    assert port.reasons == ["now", "now"]
