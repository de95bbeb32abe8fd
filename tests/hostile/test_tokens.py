"""Forged, stale and odd tokens at the real ports of a worker whose issuer is an organisation's own.

Every case of RELIABILITY 5.3 is told in `tests/access` against the verifier; here a sample of each
group goes over the wire, to see that what is refused there is refused here, in the same words, and
that nothing of it is recorded or disturbs a caller with a good token.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]  # it ships no types
import httpx
import pytest

from serving.access.apikeys import digest_of, new_secret, read_pepper
from serving.access.state import AccessState, ApiKey
from serving.core.clock import SystemClock
from serving.core.principals import Role
from tests.access.conftest import REMOVED
from tests.access.key_server import KeyServer, status
from tests.access.signers import AUDIENCE, ISSUER, Signer, key_set
from tests.places import InProcess, a_row, eventually

SIGNER, STRANGER = Signer("ES256"), Signer("ES256", number=1)
INFER = "/v2/models/doubler/infer"


@pytest.fixture
def key_server() -> Iterator[KeyServer]:
    with KeyServer().running() as server:
        server.publish(key_set(SIGNER))
        yield server


async def start(folder: Path, server: KeyServer, **changes: Any) -> InProcess:
    issuer = {"name": ISSUER, "audiences": [AUDIENCE], "jwks_url": server.url} | changes
    worker = InProcess(folder, access={"issuers": [issuer], "local_issuer": True})
    await worker.start()
    return worker


@pytest.fixture
async def worker(tmp_path: Path, key_server: KeyServer) -> AsyncIterator[InProcess]:
    worker = await start(tmp_path, key_server)
    yield worker
    await worker.aclose()


def token(
    signer: Signer = SIGNER, claims: dict[str, Any] | str | None = None, **header: Any
) -> str:
    """As `Signer.token`, at the real time."""
    now_s = SystemClock().wall_ns() // 1_000_000_000
    if isinstance(claims, str):
        return signer.token(claims, **header).decode()
    said = {"iat": now_s, "exp": now_s + 600} | (claims or {})
    return signer.token(said, **header).decode()


def bad_tokens() -> dict[str, str]:
    good = token()
    head, payload, signature = good.removeprefix("Bearer ").split(".")
    return {
        "01 none": token(alg="none"),
        "01 no signature": f"Bearer {head}.{payload}.",
        "03 another algorithm": token(Signer("RS256")),
        "04 mislabelled": token(alg="RS256"),
        "07 no kid": token(kid=REMOVED),
        "07 path as kid": token(kid="../../dev/null"),
        "09 its own key": token(STRANGER, jwk=STRANGER.jwk(), jku="http://127.0.0.1:9/"),
        "10 crit": token(crit=["exp"]),
        "11 audience": token(claims={"aud": [AUDIENCE]}),
        "11 issuer": token(claims={"iss": ISSUER + "x"}),
        "12 expired": token(claims={"iat": 1_000_000_000, "exp": 1_000_000_600}),
        "12 for ever": token(claims={"exp": 2**40}),
        "13 not yet": token(claims={"nbf": 2**39}),
        "14 twice": token(claims='{"sub": "a", "sub": "b"}'),
        "15 a list": token(claims="[]"),
        "16 subject": token(claims={"sub": "a\n"}),
        "17 type": token(typ="JWT"),
        "18 padding": good + "=",
        "18 a part more": good + ".e30",
        "18 a part less": f"Bearer {head}.{payload}",
        "18 a turned bit": good[:-8] + ("A" if good[-8] != "A" else "B") + good[-7:],
        "18 another payload": f"Bearer {head}.{head}.{signature}",
        "20 roles": token(claims={"roles": "operator"}),
        "25 unknown kid": token(kid="random"),
        "30 another key": token(STRANGER),
        "basic": "Basic " + good.removeprefix("Bearer "),
        "no scheme": good.removeprefix("Bearer "),
        "empty": "Bearer",
    }


async def test_jw_01_to_jw_30_at_the_http_port(worker: InProcess) -> None:
    """Each is a 401 of the same words; none is recorded; a good token works before and after."""
    bodies = set()
    async with httpx.AsyncClient(base_url=worker.place.url) as client:
        for authorization in (token(), *bad_tokens().values(), token()):
            answer = await client.post(
                INFER, json=a_row(1.0), headers={"Authorization": authorization}
            )
            bodies.add((answer.status_code, answer.json().get("code"), answer.json().get("error")))

    assert sorted(each[:2] for each in bodies) == [(200, None), (401, "unauthenticated")]
    assert {each.principal for each in worker.place.records()} == {"alice"}
    assert worker.worker.authenticator.statistics().refused == len(bad_tokens())


async def test_jw_01_to_jw_30_at_the_grpc_port(worker: InProcess) -> None:
    """Each is UNAUTHENTICATED, on a call that a good token may make."""
    target = f"127.0.0.1:{worker.settings.grpc.port}"
    async with grpc.aio.insecure_channel(target) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ServerMetadata")
        await call(b"", metadata=(("authorization", token()),))
        for name, authorization in bad_tokens().items():
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await call(b"", metadata=(("authorization", authorization),))
            assert (name, refusal.value.code()) == (name, grpc.StatusCode.UNAUTHENTICATED)


@pytest.mark.parametrize(("size", "expected"), [(8 * 1024 + 1, 401), (8_000_000, 431)])
async def test_jw_22_an_overlong_token(worker: InProcess, size: int, expected: int) -> None:
    """Over the limit of tokens it is a 401; over that of all headers the connection says 431."""
    async with httpx.AsyncClient(base_url=worker.place.url) as client:
        try:
            answer = await client.get("/v2", headers={"Authorization": "Bearer " + "a" * size})
        except httpx.WriteError:  # The answer was sent before all of the header was taken.
            assert expected == 431
        else:
            assert answer.status_code == expected
        assert (await client.get("/v2", headers={"Authorization": token()})).status_code == 200


async def test_jw_19_the_local_issuer_and_another_side_by_side(worker: InProcess) -> None:
    """Each is believed for its own tokens; what one says is no word of the other."""
    local = worker.place.authorization("ops", Role.OPERATOR)["Authorization"]
    async with httpx.AsyncClient(base_url=worker.place.url) as client:
        for authorization, expected in (
            (local, 200),
            (token(), 200),
            (token(claims={"iss": "serving-local"}), 401),
        ):
            answer = await client.get("/v2", headers={"Authorization": authorization})
            assert answer.status_code == expected


def with_api_key(worker: InProcess) -> dict[str, str]:
    """A header with the API key of a machine that the worker knows from now on."""
    identifier, secret = new_secret()
    known = ApiKey(
        key=identifier,
        digest=digest_of(secret.encode(), read_pepper(worker.directory.keys)),
        subject="ci",
        roles=(Role.CALLER,),
        expires_s=2**39,
    )
    worker.worker.apply_access(AccessState(epoch=1, keys=(known,)))
    return {"X-Api-Key": secret}


@pytest.mark.parametrize("away", ["silent", "broken"])
async def test_jw_28_an_issuer_that_is_away_at_the_start(
    tmp_path: Path, key_server: KeyServer, away: str
) -> None:
    """The worker serves others, those with API keys and local tokens, says that it is degraded, and
    cannot judge these tokens: 503."""
    key_server.answer = key_server.silence if away == "silent" else status(500)
    worker = await start(tmp_path, key_server, fetch_timeout_s=0.2, cool_down_s=0.1)
    url, local, api_key = worker.place.url, worker.place.authorization(), with_api_key(worker)
    try:
        async with httpx.AsyncClient(base_url=url) as client:
            answer = await client.get("/v2", headers={"Authorization": token()})
            assert (answer.status_code, answer.json()["code"]) == (503, "auth_unavailable")
            assert "retry-after" in answer.headers
            assert (await client.get("/v2", headers=local)).status_code == 200
            predicted = await client.post(INFER, json=a_row(1.0), headers=api_key)
            assert predicted.status_code == 200
            assert (await client.get("/v2/health/ready")).status_code == 200
        (trouble,) = worker.worker.issuers.troubles()
        assert trouble.startswith(f"issuer {ISSUER}: {key_server.url}")
        assert await worker.place.metric("serving_issuer_key_failures_total", issuer=ISSUER) >= 1
        assert worker.worker.issuers.status()[0].keys == 0

        key_server.publish(key_set(SIGNER))
        await eventually(lambda: not worker.worker.issuers.troubles())
        async with httpx.AsyncClient(base_url=url) as client:
            answer = await client.get("/v2", headers={"Authorization": token()})
            assert answer.status_code == 200
        assert await worker.place.metric("serving_issuer_keys_age_seconds", issuer=ISSUER) < 60
    finally:
        await worker.aclose()


async def test_p19_a_request_never_waits_for_the_issuer(
    worker: InProcess, key_server: KeyServer
) -> None:
    """While the issuer hangs, known callers, new tokens of known keys and junk are answered."""
    key_server.answer = key_server.silence
    async with httpx.AsyncClient(base_url=worker.place.url, timeout=2.0) as client:
        for authorization, expected in (
            (token(), 200),
            (token(kid="unknown"), 401),
            (token(claims={"jti": "2"}), 200),
            (token(STRANGER), 401),
        ):
            answer = await client.get("/v2", headers={"Authorization": authorization})
            assert answer.status_code == expected
