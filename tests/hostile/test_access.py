"""Who gets in where, asked from outside of a real instance with two gateway workers.

The sweep goes through the whole table of permissions, with every kind of caller there is; what each
may do comes from the oracle of tests/access and not from the product.
"""

import base64
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import grpc  # type: ignore[import-untyped]  # it ships no types
import httpx
import pytest

from serving.access.issuer import LocalIssuer
from serving.access.permissions import (
    CONTROL,
    GRPC,
    INFERENCE,
    METRICS,
    Door,
    Permission,
    RouteName,
)
from serving.app.directory import DataDirectory
from serving.core.clock import ManualClock, SystemClock
from serving.core.principals import Role
from serving.settings import AccessSettings
from tests.access.oracle import MAY
from tests.catalogue import write_models
from tests.edge.wire import Client, request
from tests.instances import Instance
from tests.places import a_row, wait_until

WORKERS: Final = 2
DAY_S: Final = 86_400
SETTLED_S: Final = 1.0
"""Within which every worker knows of a change."""

ARGUMENTS: Final = {
    "{model}": "doubler",
    "{version}": "1",
    "{replica}": "r",
    "{key}": "0",
    "{rule}": "0",
    "{kind}": "token",
    "{value}": "0",
}
TABLES: Final = {"http": INFERENCE, "control": CONTROL, "metrics": METRICS}
ROUTES: Final = [
    (port, *route, needs) for port, table in TABLES.items() for route, needs in table.items()
]
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
UNSAFE: Final = ("DELETE", "PATCH", "PUT", "POST")


class House:
    """The instance, and credentials of all kinds."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.urls = {
            "http": instance.url,
            "control": instance.control_url,
            "metrics": instance.metrics_url,
        }
        self.directory = DataDirectory.at(instance.data_dir)
        self.anybody = httpx.Client(verify=False)  # noqa: S501 - there is no TLS
        self.client = httpx.Client(
            verify=False,  # noqa: S501 - neither is there here
            headers={"Authorization": f"Bearer {self.token(Role.ADMIN, subject='root')}"},
            base_url=instance.control_url,
        )

    def token(self, *roles: Role, subject: str = "tester", age_s: float = 0.0) -> str:
        clock = ManualClock(wall_ns=SystemClock().wall_ns() - round(age_s * 1e9))
        issuer = LocalIssuer.open(self.directory.keys, AccessSettings(), clock)
        return issuer.issue(subject=subject, roles=roles)

    def ask(self, port: str, method: str, path: str, **options: Any) -> httpx.Response:
        for name, value in ARGUMENTS.items():
            path = path.replace(name, value)
        return self.anybody.request(method, self.urls[port] + path, **options)

    def as_role(self, role: Role) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(role)}"}

    def change(self, method: str, path: str, **body: object) -> Any:
        """As the administrator; raises when it is refused."""
        answer = self.client.request(method, path, content=json.dumps(body) if body else None)
        answer.raise_for_status()
        return answer.json()

    def key(self, **fields: object) -> dict[str, Any]:
        """A new API key, known to all workers."""
        order = {"subject": "machine", "roles": ["caller"]} | fields
        made: dict[str, Any] = self.change("POST", "/v1/access/keys", **order)
        self.settle()
        return made

    def infer(self, headers: dict[str, str], model: str = "doubler") -> httpx.Response:
        """On a connection of its own, so that any worker may be the one that is asked."""
        url = f"{self.instance.url}/v2/models/{model}/infer"
        return httpx.post(url, json=a_row(1.0), headers=headers, verify=False)  # noqa: S501 - no TLS

    def logged(self, word: str) -> list[dict[str, Any]]:
        """Lines of the workers' logs with this word."""
        files = [self.directory.process_log(f"gateway-{index}") for index in range(WORKERS)]
        lines = b"".join(file.read_bytes() for file in files).splitlines()
        return [json.loads(line) for line in lines if word.encode() in line]

    def settle(self) -> float:
        """Waits until every worker has the state of the control process; seconds that it took."""
        begun = time.monotonic()
        epoch = json.loads(self.directory.access_file.read_bytes())["epoch"]
        wait_until(lambda: all(each >= epoch for each in self.epochs()))
        return time.monotonic() - begun

    def epochs(self) -> list[int]:
        """Of the access state in each worker."""
        found = []
        for index in range(WORKERS):
            with Client(self.directory.gateway_socket(index)) as client:
                status = client.send(request("GET", "/status")).receive().json()
                found.append(status["access_epoch"])
        return found


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """`twin` belongs to tenant acme, `doubler` to nobody."""
    folder = tmp_path_factory.mktemp("access")
    with Instance(
        folder,
        deployments=[
            {"model": "doubler", "stable": "1"},
            {"model": "twin", "stable": "1", "tenant": "acme"},
        ],
        models_dir=write_models(folder / "models"),
        http={"workers": WORKERS},
    ) as instance:
        instance.expect("ready")
        made = House(instance)
        yield made
        made.client.close()
        made.anybody.close()
        assert instance.stop() == 0


# -- every route -----------------------------------------------------------------------------------


def expected(needs: Permission, role: Role) -> bool:
    """Whether the oracle lets somebody with one role through."""
    return needs in (Door.OPEN, Door.KNOWN) or (role.value, str(needs)) in MAY


@pytest.mark.parametrize(("port", "method", "path", "needs"), ROUTES)
def test_az_01_route_lets_in_whom_the_table_says(
    house: House, *, port: str, method: str, path: str, needs: Permission
) -> None:
    """Anonymous, expired and unknown callers are 401, each role is what the oracle says (P16)."""
    strangers = [{}, {"Authorization": f"Bearer {house.token(Role.ADMIN, age_s=2 * DAY_S)}"}]
    strangers += [{"X-Api-Key": f"svk_{'0' * 12}_{'0' * 64}"}, {"Authorization": "Bearer x"}]

    refused = {house.ask(port, method, path, headers=each).status_code == 401 for each in strangers}
    statuses = {
        role: house.ask(port, method, path, headers=house.as_role(role)).status_code
        for role in Role
    }

    assert refused == {needs is not Door.OPEN}
    assert {role for role, status in statuses.items() if status == 403} == {
        role for role in Role if not expected(needs, role)
    }
    assert 401 not in statuses.values()
    assert not [status for status in statuses.values() if status in (500, 502)]


async def test_az_01_grpc_methods_let_in_whom_the_table_says(house: House) -> None:
    """The same over gRPC: UNAUTHENTICATED for strangers, PERMISSION_DENIED by role."""
    name = b"\x0a\x07doubler"  # Field 1: the model's name, in every message that has one.
    async with grpc.aio.insecure_channel(house.instance.grpc_address) as channel:

        async def ask(path: str, token: str | None) -> str:
            metadata = (("authorization", f"Bearer {token}"),) if token else ()
            try:
                await channel.unary_unary(path)(name, metadata=metadata, timeout=5)
            except grpc.aio.AioRpcError as error:
                return str(error.code().name)
            return "OK"

        for path, needs in GRPC.items():
            if path.endswith(("/Watch", "/ModelStreamInfer")) or ".reflection." in path:
                continue  # They answer message by message: tests/edge/test_permissions.py.
            stranger = await ask(path, None)
            answers = {role: await ask(path, house.token(role)) for role in Role}

            assert (stranger == "UNAUTHENTICATED") is (needs is not Door.OPEN), path
            denied = {role for role, code in answers.items() if code == "PERMISSION_DENIED"}
            assert denied == {role for role in Role if not expected(needs, role)}, path
            assert "UNAUTHENTICATED" not in answers.values()


@pytest.mark.parametrize("port", TABLES)
def test_az_02_other_methods_change_nothing(house: House, port: str) -> None:
    """No method and no override makes a route do what the table does not list."""
    before = house.directory.access_file.exists(), house.epochs()
    table: dict[RouteName, Permission] = dict(TABLES[port])
    headers = house.as_role(Role.ADMIN)

    statuses = set()
    for path in {path for _, path in table}:
        for method in METHODS:
            if (method, path) not in table:
                statuses.add(house.ask(port, method, path, headers=headers).status_code)
        for override in UNSAFE:
            spoofed = headers | {"X-HTTP-Method-Override": override, "X-HTTP-Method": override}
            house.ask(port, "GET", path, headers=spoofed)

    assert statuses <= {400, 404, 405}
    assert (house.directory.access_file.exists(), house.epochs()) == before


def test_az_03_what_a_proxy_would_say_identifies_nobody(house: House) -> None:
    """Forwarding headers neither let a stranger in nor lead elsewhere."""
    spoofed = {
        "X-Forwarded-User": "root",
        "X-Forwarded-For": "127.0.0.1",
        "X-Real-IP": "127.0.0.1",
        "X-Original-URL": "/v2/health/live",
        "X-Rewrite-URL": "/v2/health/live",
        "X-Remote-User": "root",
    }

    strangers = [
        house.ask("http", "GET", "/v2", headers=spoofed),
        house.ask("control", "GET", "/v1/access/keys", headers=spoofed),
    ]
    caller = house.ask("control", "GET", "/v1/status", headers=spoofed | house.as_role(Role.CALLER))

    assert [each.status_code for each in strangers] == [401, 401]
    assert caller.status_code == 403


@pytest.mark.parametrize(("port", "path"), [("http", "/v2"), ("control", "/v1/status")])
def test_az_05_upgrade_without_a_credential_is_refused_before_it_is_one(
    house: House, port: str, path: str
) -> None:
    """401 and no switch of protocols."""
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }

    answer = house.ask(port, "GET", path, headers=upgrade)

    assert answer.status_code == 401


# -- another tenant's model ------------------------------------------------------------------------


def test_az_06_another_tenants_model_is_nowhere(house: House) -> None:
    """Read, list, search, infer: 404 as for a name of nothing; lists and counts do not hold it."""
    stranger = {"X-Api-Key": house.key(tenant="apex")["secret"]}
    member = {"X-Api-Key": house.key(tenant="acme")["secret"]}
    paths = ["", "/ready", "/config", "/stats", "/versions/1"]

    def told(headers: dict[str, str], model: str) -> list[tuple[int, str]]:
        answers = [
            house.ask("http", "GET", f"/v2/models/{model}{path}", headers=headers) for path in paths
        ]
        answers.append(house.infer(headers, model))
        return [(each.status_code, each.json().get("error", "")) for each in answers]

    assert told(stranger, "twin") == told(stranger, "no-such-model")
    assert {status for status, _ in told(stranger, "twin")} == {404}
    assert {status for status, _ in told(member, "twin")} == {200}
    for method, path in (
        ("GET", "/v2/models"),
        ("GET", "/v2/models/stats"),
        ("POST", "/v2/repository/index"),
    ):
        assert "twin" not in house.ask("http", method, path, headers=stranger).text
        assert "twin" in house.ask("http", method, path, headers=member).text


# -- API keys --------------------------------------------------------------------------------------


def test_key_is_taken_in_three_ways(house: House) -> None:
    """`X-Api-Key`, and `Authorization` with either scheme."""
    secret = house.key()["secret"]
    ways = [
        {"X-Api-Key": secret},
        {"Authorization": f"ApiKey {secret}"},
        {"Authorization": f"apikey {secret}"},
        {"Authorization": f"Bearer {secret}"},
    ]

    assert [house.infer(headers).status_code for headers in ways] == [200] * 4


def test_az_11_nearly_a_key_is_none_and_none_is_ever_logged(house: House) -> None:
    """Wrong, cut, off by one, other case, in the URL: 401, and no trace of any in a file."""
    secret = house.key()["secret"]
    head, _, tail = secret.rpartition("_")
    wrong = [head, f"{head}_", f"{head}_{'0' * 64}", secret[:-1], secret.upper(), f"{secret}0"]
    url = f"{house.instance.url}/v2/models/doubler/infer"

    refused = [house.infer({"X-Api-Key": each}).status_code for each in wrong]
    in_url = [
        httpx.post(url, params={name: secret}, json=a_row(1.0), headers=headers).status_code
        for name in ("api_key", "key", "access_token")
        for headers in ({}, {"X-Api-Key": secret})
    ]

    assert set(refused + in_url) == {401}
    assert house.infer({"X-Api-Key": secret}).status_code == 200
    files = [file for file in house.instance.data_dir.rglob("*") if file.is_file()]
    assert len(files) > 10
    assert not [file for file in files if tail.encode() in file.read_bytes()]


def test_az_13_rotated_key_counts_beside_the_new_one(house: House) -> None:
    """200 and 200 within the overlap; without one the old key is 401 at once."""
    old = house.key()
    new = house.change("POST", f"/v1/access/keys/{old['key']}/rotate", overlap_s=60)
    house.settle()
    both = [house.infer({"X-Api-Key": each["secret"]}).status_code for each in (old, new)]

    last = house.change("POST", f"/v1/access/keys/{new['key']}/rotate", overlap_s=0)
    house.settle()

    after = [house.infer({"X-Api-Key": each["secret"]}).status_code for each in (new, last)]
    assert (both, after) == ([200, 200], [401, 200])


@pytest.mark.parametrize(("port", "path"), [("http", "/v2"), ("control", "/v1/status")])
def test_az_14_two_credentials_are_refused(house: House, port: str, path: str) -> None:
    """A key and a token in one request are 400, though both are good."""
    two = {"X-Api-Key": house.key(roles=["operator"])["secret"]} | house.as_role(Role.OPERATOR)

    answer = house.ask(port, "GET", path, headers=two)
    inference = house.infer(two)

    codes = [(each.status_code, each.json()["code"]) for each in (answer, inference)]
    assert codes == [(400, "ambiguous_credentials")] * 2


# -- revocation ------------------------------------------------------------------------------------


def revoke(house: House, kind: str, value: str) -> None:
    house.change("POST", "/v1/access/revocations", kind=kind, value=value)


def jti_of(token: str) -> str:
    """What a token says of itself, unverified."""
    claims: dict[str, str] = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    return claims["jti"]


Ending = Callable[[House, dict[str, Any]], None]
ENDINGS: Final[dict[str, Ending]] = {
    "key": lambda house, made: house.change("DELETE", f"/v1/access/keys/{made['key']}"),
    "owner": lambda house, made: revoke(house, "subject", made["owner"]),
    "subject": lambda house, made: revoke(house, "subject", made["subject"]),
    "issued before": lambda house, made: revoke(house, "issued_before", made["subject"]),
}


@pytest.mark.parametrize("how", ENDINGS)
def test_az_13_ended_key_is_refused_by_every_worker_within_a_second(house: House, how: str) -> None:
    """Revoked, owner disabled, holder disabled, issued too early: 401 everywhere, soon (P18)."""
    name = how.replace(" ", "-")
    fields = {"subject": f"holder-{name}", "owner": f"owner-{name}"}
    made = house.key(**fields) | fields
    headers = {"X-Api-Key": made["secret"]}
    before = {house.infer(headers).status_code for _ in range(10)}

    ENDINGS[how](house, made)
    took_s = house.settle()

    assert before == {200}
    assert {house.infer(headers).status_code for _ in range(10)} == {401}
    assert took_s < SETTLED_S


@pytest.mark.parametrize("how", ["token", "subject", "issued_before"])
def test_p18_ended_token_is_refused_by_every_worker_within_a_second(house: House, how: str) -> None:
    """By its id, by its subject, by when it was issued; another subject's goes on."""
    subject = f"bearer-{how}"
    token = house.token(Role.CALLER, subject=subject)
    headers = {"Authorization": f"Bearer {token}"}
    before = {house.infer(headers).status_code for _ in range(10)}

    revoke(house, how, jti_of(token) if how == "token" else subject)
    took_s = house.settle()

    assert before == {200}
    assert {house.infer(headers).status_code for _ in range(10)} == {401}
    assert house.infer(house.as_role(Role.CALLER)).status_code == 200
    assert took_s < SETTLED_S


def test_az_09_rule_is_in_force_everywhere_within_a_second(house: House) -> None:
    """A denial refuses and its end permits again; the log names the rule and its epoch."""
    headers = {"Authorization": f"Bearer {house.token(Role.CALLER, subject='intern')}"}
    before = house.infer(headers).status_code

    rule = house.change("POST", "/v1/access/rules", effect="deny", subject="int*", model="doub*")[
        "rule"
    ]
    took_s = house.settle()
    during = {house.infer(headers).status_code for _ in range(10)}
    # A flood of other denials may have used up this second's lines.
    wait_until(lambda: house.infer(headers).status_code == 403 and house.logged(rule))
    (line, *_) = house.logged(rule)
    house.change("DELETE", f"/v1/access/rules/{rule}")
    house.settle()

    assert (before, during, house.infer(headers).status_code) == (200, {403}, 200)
    assert took_s < SETTLED_S
    assert (line["event"], line["subject"], line["ground"]) == ("access denied", "intern", "denied")
    assert line["epoch"] > 0


def test_worker_that_starts_alone_knows_what_was_revoked(house: House) -> None:
    """The last state lies beside each worker, private, so that control may be away."""
    house.key()

    copies = [house.directory.gateway_access(index) for index in range(WORKERS)]

    state = json.loads(house.directory.access_file.read_bytes())
    wait_until(
        lambda: all(json.loads(copy.read_bytes())["epoch"] == state["epoch"] for copy in copies)
    )
    assert {copy.stat().st_mode & 0o777 for copy in copies} == {0o600}
