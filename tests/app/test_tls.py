"""TLS through the whole product: mapped principals on both wires, and an instance that has no door
without it."""

import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]  # it ships no types
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton  # type: ignore[import-untyped]  # it ships no types

from serving.access.authority import LocalAuthority
from serving.core.clock import SystemClock
from serving.core.principals import Role
from tests.edge.certificates import Authority
from tests.edge.grpc.wire import INFER, SERVICE, encoded, refusal_of, rows, started
from tests.instances import ROW, START_S, Instance
from tests.places import PATIENCE_S, InProcess, a_row, eventually_async, wait_until

RULES = [
    {"subject": "batch-*", "roles": ["caller"], "models": ["doubler"], "tenant": ""},
    {"subject": "boss", "roles": ["operator"]},
]
STREAM = f"{SERVICE}/ModelStreamInfer"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


class Clients:
    """An authority, the server's pair, and pairs of clients by name."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.server = self.authority.issue("server")

    def files(self, **more: Any) -> dict[str, Any]:
        certificate, key = self.server
        ca = {"client_ca": self.authority.file, **more}
        return {"certificate": certificate, "key": key, **ca}

    def context(self, name: str | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.authority.file))
        if name is not None:
            certificate, key = self.authority.issue(name)
            context.load_cert_chain(certificate, key)
        return context

    def credentials(self, name: str) -> Any:
        certificate, key = self.authority.issue(name)
        return grpc.ssl_channel_credentials(
            self.authority.certificate, key.read_bytes(), certificate.read_bytes()
        )


@pytest.fixture
def clients(tmp_path: Path) -> Clients:
    return Clients(tmp_path)


async def ask(
    place: InProcess, context: ssl.SSLContext, *, model: str = "doubler", **headers: str
) -> httpx.Response:
    url = f"https://127.0.0.1:{place.settings.http.port}"
    async with httpx.AsyncClient(
        base_url=url, verify=context, headers=headers, timeout=PATIENCE_S
    ) as client:
        return await client.post(f"/v2/models/{model}/infer", json=a_row(1, 2))


def caller_of(place: InProcess, answer: httpx.Response) -> str | None:
    record = place.place.record(answer.headers["serving-prediction-id"])
    return None if record is None else record.principal


async def test_a_certificate_is_a_principal_on_http(tmp_path: Path, clients: Clients) -> None:
    """Its common name is recorded; rules give roles and models; nobody else comes in without one."""
    http = clients.files(client_certificates="optional")
    access = {"certificates": RULES}
    async with started(tmp_path / "i", http=http, access=access) as place:
        mapped = await ask(place, clients.context("batch-7"))
        other_model = await ask(place, clients.context("batch-7"), model="twin")
        unmapped = await ask(place, clients.context("mallory"))
        nobody = await ask(place, clients.context(None))
        token = place.place.authorization("ada")
        beside = await ask(place, clients.context("batch-7"), **token)
        alone = await ask(place, clients.context(None), **token)
        await place.aclose()
        recorded = [caller_of(place, each) for each in (mapped, beside, alone)]

    codes = [each.status_code for each in (mapped, other_model, unmapped, nobody, beside, alone)]
    assert codes == [200, 403, 401, 401, 200, 200]
    assert recorded == ["batch-7", "ada", "ada"]


async def test_a_token_may_be_bound_to_the_certificate_beside_it(
    tmp_path: Path, clients: Clients
) -> None:
    """With the setting, a stolen token is worth nothing on another client's connection."""
    access = {"certificates": RULES, "certificate_binds_token": True}
    async with started(tmp_path / "i", http=clients.files(), access=access) as place:
        mine, stolen = [
            await ask(place, clients.context("ada"), **place.place.authorization(subject))
            for subject in ("ada", "bob")
        ]
        codes = mine.status_code, stolen.status_code
        refused = await place.place.metric("serving_token_refusals_total", reason="certificate")

    assert codes == (200, 401)
    assert refused == 1


async def end_of(address: str, credentials: Any, path: str) -> str:
    """How a call without a token ends: OK, its status, or the code of the stream's one answer."""
    message = b"\x0a\x07doubler" if path.endswith("Metadata") else encoded(rows(1))
    async with grpc.aio.secure_channel(address, credentials) as channel:
        try:
            if path == STREAM:
                (answer,) = [each async for each in channel.stream_stream(path)([message])]
                return "unauthenticated" if b"unauthenticated" in answer else "OK"
            await channel.unary_unary(path)(message, timeout=PATIENCE_S)
        except grpc.aio.AioRpcError as error:
            return str(refusal_of(error).status)
    return "OK"


async def test_a_certificate_is_a_principal_on_grpc(tmp_path: Path, clients: Clients) -> None:
    """One call, facts, a stream and reflection; whoever no rule names is refused at the gate."""
    access = {"certificates": RULES}
    async with started(tmp_path / "i", grpc=clients.files(), access=access) as place:
        address = f"127.0.0.1:{place.settings.grpc.port}"
        ends = [
            await end_of(address, clients.credentials(name), path)
            for name in ("batch-7", "mallory")
            for path in (INFER, STREAM, f"{SERVICE}/ModelMetadata", REFLECTION)
        ]
        await place.aclose()
        recorded = {record.principal for record in place.place.records()}

    assert ends == ["OK"] * 4 + ["UNAUTHENTICATED"] * 4
    assert recorded == {"batch-7"}


async def test_ft_21_grpc_certificate_is_replaced_without_a_start(
    tmp_path: Path, clients: Clients
) -> None:
    """Clients that trust only the new authority get in; a channel that was open goes on."""
    files = {"certificate": clients.server[0], "key": clients.server[1]}
    async with started(tmp_path / "i", grpc=files) as place:
        address = f"127.0.0.1:{place.settings.grpc.port}"
        metadata = [("authorization", place.place.authorization()["Authorization"])]

        async def answered(channel: Any) -> bool:
            try:
                await channel.unary_unary(INFER)(
                    encoded(rows(1)), metadata=metadata, timeout=PATIENCE_S / 4
                )
            except grpc.aio.AioRpcError:
                return False
            return True

        old = grpc.ssl_channel_credentials(clients.authority.certificate)
        async with grpc.aio.secure_channel(address, old) as open_before:
            assert await answered(open_before)
            another = Authority(tmp_path, "another")
            another.issue("server")
            new = grpc.ssl_channel_credentials(another.certificate)

            async def with_the_new_one() -> bool:
                async with grpc.aio.secure_channel(address, new) as channel:
                    return await answered(channel)

            await eventually_async(with_the_new_one)
            assert await answered(open_before)


# -- an instance -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """Every port with TLS; the control port and gRPC only for clients with a certificate."""
    folder = tmp_path_factory.mktemp("tls")
    (folder / "data").mkdir(mode=0o700)
    authority = LocalAuthority(folder / "data" / "tls", SystemClock())
    certificate, key = map(str, authority.server())
    authority.client("batch")
    pair = {"certificate": certificate, "key": key}
    asking = {**pair, "client_ca": str(authority.ca_file)}
    with Instance(
        folder,
        http={**asking, "client_certificates": "optional"},
        grpc=asking,
        control=asking,
        metrics=pair,
        access={"certificates": [{"subject": "batch", "roles": ["caller", "auditor"]}]},
    ) as running:
        running.ready = running.expect("ready")
        yield running


def serving(instance: Instance, *words: str) -> Any:
    """What a verb of the command prints, as JSON."""
    command = [sys.executable, "-m", "serving", *words, "--json", "--config", str(instance.config)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - ours
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def secure(instance: Instance, *, client: bool = True) -> ssl.SSLContext:
    folder = instance.data_dir / "tls"
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    if client:
        context.load_cert_chain(folder / "client-batch.pem", folder / "client-batch.key")
    return context


def patient(instance: Instance, *, client: bool = True) -> httpx.Client:
    return httpx.Client(verify=secure(instance, client=client), timeout=PATIENCE_S)


def test_an_instance_with_tls_on_every_port_works(instance: Instance) -> None:
    """Replicas take leases, gateways follow, orders are taken: all over TLS with certificates."""
    assert instance.ready["inference"].startswith("https://")
    assert instance.ready["control"].startswith("https://")
    assert f"--cacert {instance.data_dir / 'tls' / 'server.pem'}" in instance.ready["try_command"]
    status = serving(instance, "status")
    made = serving(instance, "key", "create", "--subject", "ci", "--role", "caller")

    def key_works() -> bool:
        url = f"{instance.ready['inference']}/models"
        with patient(instance, client=False) as client:
            return client.get(url, headers={"X-Api-Key": made["secret"]}).status_code == 200

    wait_until(key_works)
    assert "ready" in json.dumps(status)


def test_no_port_of_it_speaks_plain_text(instance: Instance) -> None:
    """Nothing is answered before a handshake, and on the control port nothing without a client."""
    for url in (instance.url, instance.metrics_url, instance.control_url):
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url}/metrics")
    stranger = secure(instance, client=False)
    with pytest.raises(httpx.TransportError):
        httpx.get(instance.control_url.replace("http", "https"), verify=stranger)


def test_control_port_knows_people_by_their_certificates(instance: Instance) -> None:
    """An auditor's certificate reads the status; it does not take part as our own processes do."""
    url = instance.control_url.replace("http", "https")
    with patient(instance) as client:
        codes = [
            client.get(f"{url}{path}").status_code for path in ("/v1/status", "/internal/snapshot")
        ]

    assert codes == [200, 403]


def test_tritonclient_speaks_to_it_with_certificates(instance: Instance) -> None:
    """The protocol's usual client, by its own options for TLS."""
    folder = instance.data_dir / "tls"
    with triton.InferenceServerClient(
        instance.grpc_address,
        ssl=True,
        root_certificates=str(folder / "ca.pem"),
        private_key=str(folder / "client-batch.key"),
        certificate_chain=str(folder / "client-batch.pem"),
    ) as client:
        tensor = triton.InferInput("input", [1, len(ROW)], "FP32")
        tensor.set_data_from_numpy(np.array([ROW], dtype=np.float32))
        answer = client.infer("census-employment", [tensor])

    assert answer.as_numpy("probabilities").shape == (1, 2)


def test_ft_21_metrics_tell_when_certificates_end(instance: Instance) -> None:
    """Each port with a certificate, from the process that has it."""
    url = instance.metrics_url.replace("http", "https")
    with patient(instance, client=False) as client:
        text = client.get(f"{url}/metrics").text

    for process, port in (
        ("gateway-0", "http"), ("gateway-0", "grpc"), ("control", "control"), ("supervisor", "metrics"),
    ):  # fmt: skip
        name = "serving_certificate_expiry_timestamp_seconds"
        assert f'{name}{{process="{process}",port="{port}"}} 1.' in text
    assert 'serving_tls_handshake_failures_total{process="control",port="control"}' in text


def test_ft_21_an_instance_goes_on_after_its_certificate_was_replaced(instance: Instance) -> None:
    """Own processes trust the file, so they follow it: what is ordered afterwards is known."""
    folder = instance.data_dir / "tls"
    for name in ("server.pem", "server.key"):
        (folder / name).unlink()
    LocalAuthority(folder, SystemClock()).server()
    token = instance.token(Role.CALLER)

    def order() -> bool:
        command = [sys.executable, "-m", "serving", "token", "revoke", "-", "--config"]
        done = subprocess.run(  # noqa: S603 - ours
            [*command, str(instance.config)], check=False, input=token, text=True,
            capture_output=True,
        )  # fmt: skip
        return done.returncode == 0

    def refused() -> bool:
        with patient(instance, client=False) as client:
            answer = client.get(
                f"{instance.ready['inference']}/models",
                headers={"Authorization": f"Bearer {token}"},
            )
        return answer.status_code == 401

    assert not refused()
    wait_until(order, within_s=START_S)
    wait_until(refused)


@pytest.mark.parametrize("group", ["http", "metrics"])
def test_ft_21_a_key_of_another_certificate_ends_the_start(group: str, tmp_path: Path) -> None:
    """With the name of the port and of the files, and without waiting until it times out."""
    authority = Authority(tmp_path)
    (certificate, _), (_, key) = authority.issue("server"), authority.issue("other")
    files: dict[str, Any] = {group: {"certificate": str(certificate), "key": str(key)}}
    with Instance(tmp_path, **files) as wrong:
        complaint = wrong.complaint()

    assert wrong.process.returncode == 2
    assert f"{group}: {certificate} and {key} are no certificate with its" in complaint


def test_plain_text_off_loopback_ends_the_start(tmp_path: Path) -> None:
    """Nothing is started, and the reason says what to do."""
    with Instance(tmp_path, control={"host": "0.0.0.0"}) as open_to_all:  # noqa: S104 - refused
        complaint = open_to_all.complaint()

    assert open_to_all.process.returncode == 2
    assert "plain_text: true" in complaint
