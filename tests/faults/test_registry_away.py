"""P20: the registry's database is away and inference does not notice."""

import asyncio
import signal
from collections.abc import Iterator

import httpx
import pytest

from serving.core.principals import Role
from tests.databases import Postgres
from tests.instances import ANSWER_S, Instance

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

AWAY_S = 3.0
FACTS = {"owner": "ada"}


@pytest.fixture(scope="module")
def server(postgres_server: Postgres) -> Iterator[Postgres]:
    """Runs again at the end, whatever a failed test left."""
    yield postgres_server
    if postgres_server.process is None:
        postgres_server.start()
    postgres_server.thaw()


@pytest.fixture(scope="module")
def instance(server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    registry = server.database().model_dump(mode="json") | {"timeout_s": 3.0}
    with Instance(tmp_path_factory.mktemp("away"), registry=registry) as instance:
        instance.expect("ready")
        yield instance
        assert instance.stop() == 0


async def infer_for(instance: Instance, seconds: float) -> set[int]:
    """Statuses of inferences, one after the other."""
    found: set[int] = set()
    end_s = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < end_s:
        answer = await asyncio.to_thread(instance.infer)
        found.add(answer.status_code)
    return found


def register(instance: Instance, name: str) -> httpx.Response:
    return httpx.post(
        f"{instance.control_url}/v1/models",
        json={"name": name, "facts": FACTS},
        headers={
            "Authorization": f"Bearer {instance.token(Role.DEVELOPER)}",
            "Idempotency-Key": name,
        },
        timeout=ANSWER_S,
    )


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_p20_rg_13_serving_goes_on_without_the_database(
    instance: Instance, server: Postgres, how: str
) -> None:
    """No inference fails; orders are 503 with a time to come back, made once when it is back."""
    before = await asyncio.to_thread(register, instance, f"before-{how}")
    if how == "killed":
        server.stop(signal.SIGKILL)
    else:
        server.freeze()
    serving = asyncio.create_task(infer_for(instance, AWAY_S))
    refused = await asyncio.to_thread(register, instance, f"during-{how}")
    statuses = await serving
    if how == "killed":
        server.start()
    else:
        server.thaw()
    after = await asyncio.to_thread(register, instance, f"during-{how}")

    assert (before.status_code, after.status_code, statuses) == (200, 200, {200})
    assert (refused.status_code, refused.json()["code"]) == (503, "registry_unavailable")
    assert int(refused.headers["Retry-After"]) >= 1
    assert await infer_for(instance, 0.2) == {200}
