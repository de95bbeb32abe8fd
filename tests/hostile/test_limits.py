"""The limits that only the whole product has, at the limit, one over, and ten times over.

Those of a head are in tests/edge/http1/test_server.py, on the same server.
"""

import threading

import pytest

from serving.access.issuer import LocalIssuer
from serving.core.clock import SystemClock
from serving.core.principals import Role
from serving.port_settings import HttpSettings
from serving.settings import AccessSettings
from tests.edge.wire import assert_problem, request
from tests.hostile.cases import Case
from tests.hostile.product import SHORT, Product

TOKEN_BYTES = AccessSettings().max_token_bytes
BODY_BYTES = HttpSettings().max_body_bytes


def token_of(product: Product, *, at_least: int) -> str:
    """A valid token of that length, or one more: base64 does not have every length."""
    generous = AccessSettings(max_token_bytes=2 * at_least)
    issuer = LocalIssuer.open(product.data_dir / "keys", generous, SystemClock())

    def issue(more: int) -> str:
        return issuer.issue(subject="a", roles=[Role.CALLER], models=["m" * more])

    more = (at_least - len(issue(0))) * 3 // 4
    while len(issue(more)) < at_least:
        more += 1
    return issue(more)


@pytest.mark.parametrize("length", [TOKEN_BYTES - 2, TOKEN_BYTES + 1, 3 * TOKEN_BYTES])
def test_token_has_a_limit(case: Case, length: int) -> None:
    """An over-long token gets 401 before anything of it is looked at, were it ever so valid."""
    token = token_of(case.product, at_least=length)

    answer = case.ask_one(request("GET", "/v2/models/m", f"Authorization: Bearer {token}"))

    assert answer.status == (403 if len(token) <= TOKEN_BYTES else 401)


def test_token_ten_times_too_long_does_not_fit_a_head(case: Case) -> None:
    """Beyond the limit of the whole head it is no matter of tokens any more."""
    token = "a" * (10 * TOKEN_BYTES)

    (answer,) = case.ask(request("GET", "/v2", f"Authorization: Bearer {token}"))

    assert_problem(answer, 431, "headers_too_large")


def padded(case: Case, length: int) -> tuple[bytes, bytes]:
    """Head and body of a valid request whose body has that length."""
    head, _, body = case.product.wide_inference().partition(b"\r\n\r\n")
    json_bytes = body.index(b"]}") + 2
    text, tensors = body[:json_bytes], body[json_bytes:]
    missing = length - len(body)
    lines = head.decode("ascii").replace(
        f"Content-Length: {len(body)}", f"Content-Length: {length}"
    )
    lines = lines.replace(
        f"-Content-Length: {json_bytes}", f"-Content-Length: {json_bytes + missing}"
    )
    return lines.encode() + b"\r\n\r\n", text[:-1] + b" " * missing + text[-1:] + tensors


@pytest.mark.parametrize("framing", ["sized", "chunked"])
@pytest.mark.parametrize("length", [BODY_BYTES, BODY_BYTES + 1], ids=["at the limit", "one over"])
def test_body_has_a_limit(case: Case, framing: str, length: int) -> None:
    """The largest body is served and answered alike; one byte more gets 413, however it is framed."""
    head, body = padded(case, length)
    if framing == "chunked":
        head = head.replace(
            f"\r\nContent-Length: {length}".encode(), b"\r\nTransfer-Encoding: chunked"
        )
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (length, body)
    with case.connect() as connection:
        connection.send(head, body)

        answer = connection.receive()

    assert answer.status == (200 if length == BODY_BYTES else 413)
    assert length > BODY_BYTES or len(answer.body) > 63 * 65536 * 4


def test_body_ten_times_too_long_is_refused_readably(case: Case) -> None:
    """A client that sends 160 MiB before it reads gets its 413 and no reset; nothing is kept."""
    with case.connect() as connection:
        connection.send(request("POST", "/v2", f"Content-Length: {10 * BODY_BYTES}"))
        for _ in range(160):
            connection.send(bytes(1 << 20))

        assert_problem(connection.receive(), 413, "body_too_large")
        assert connection.has_ended()


@pytest.mark.parametrize("phase", ["head", "body"])
@pytest.mark.parametrize("share", [0.5, 1.6])
def test_time_has_a_limit(case: Case, phase: str, share: float) -> None:
    """Half the time that a head or body may take is enough; more than it gets 408."""
    raw = case.product.inference()
    end = raw.index(b"\r\n\r\n") + (1 if phase == "head" else 5)
    with case.connect() as connection:
        connection.send(raw[:end])
        limit_s = SHORT["head_timeout_s"] if phase == "head" else 1.1
        threading.Event().wait(limit_s * share)
        if share < 1:
            connection.send(raw[end:])

        answer = connection.receive()

    assert answer.status == (200 if share < 1 else 408)
