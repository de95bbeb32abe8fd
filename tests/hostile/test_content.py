"""HT-26 to HT-30: what is sent in bulk, or under another name, costs nothing."""

import subprocess
import sys
from collections import Counter

import orjson
import pytest

from tests.edge.wire import assert_problem, request
from tests.hostile.cases import Case
from tests.hostile.crowds import SteadyCaller, affordable
from tests.hostile.messages import head
from tests.hostile.product import INFER
from tests.places import a_row

BODY = orjson.dumps(a_row(1.0))
PARSERS = {"multipart", "python_multipart", "cgi", "bentoml", "cloudpickle", "dill", "joblib"}
BUSY_S = 0.05
FLOOD_S = 3
FLOOD_PER_S = 5_000


@pytest.fixture(scope="module")
def worker_modules() -> set[str]:
    """What a gateway worker has imported when it starts."""
    listing = "import sys, serving.app.worker; print(*sys.modules)"
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-P", "-c", listing], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "media",
    [
        *("application/x-pickle", "application/vnd.bentoml+pickle", "multipart/form-data"),
        *("application/x-www-form-urlencoded", "application/json; charset=utf-16", "text/plain"),
    ],
)
def test_ht_26_other_media_types_are_refused(
    case: Case, worker_modules: set[str], media: str
) -> None:
    """Anything but JSON in UTF-8 and binary tensors gets 415; a worker holds no parser for it."""
    raw = request("POST", INFER, case.product.authorization, f"Content-Type: {media}", body=BODY)

    assert_problem(case.ask_one(raw), 415, "unsupported_media_type")
    assert not PARSERS & worker_modules


@pytest.mark.parametrize("length", [16 * 1024 * 1024 + 1, 160 * 1024 * 1024])
def test_ht_27_oversize_promise_gets_no_100(case: Case, length: int) -> None:
    """`Expect: 100-continue` with too large a length gets 413 without being told to go on."""
    (answer,) = case.ask(head("Expect: 100-continue", f"Content-Length: {length}"))

    assert_problem(answer, 413, "body_too_large")


def test_ht_28_ranges_cost_nothing(case: Case) -> None:
    """A Range header is no request for parts: a full answer, or 431 when it is too long."""
    ranges = "Range: bytes=" + ",".join(f"{n}-" for n in range(10_000))
    used_s = case.product.cpu_s()

    fits = case.ask_one(request("GET", "/v2/health/live", ranges[:8000]))
    whole = case.ask_one(request("GET", "/v2/health/live", ranges))

    assert (fits.status, fits.json()) == (200, {"live": True})
    assert_problem(whole, 431, "headers_too_large")
    assert case.product.cpu_s() - used_s < 2 * BUSY_S


@pytest.mark.parametrize("kind", ["many", "huge"])
def test_ht_29_monstrous_heads_are_refused_at_once(case: Case, kind: str) -> None:
    """Ten thousand headers, or one of 20 MB, get 431 within 50 ms of processor time."""
    start = b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n"
    raw = start + {"many": b"X: y\r\n" * 10_000 + b"\r\n", "huge": b"X: " + b"y" * 20_000_000}[kind]
    with case.connect() as connection:
        connection.send(raw[:40_000])
        used_s = case.product.cpu_s()
        assert connection.has_answer(within_s=5)
        assert case.product.cpu_s() - used_s < BUSY_S
        connection.send(raw[40_000:])

        assert_problem(connection.receive(), 431, "headers_too_large")
        assert connection.has_ended()


@pytest.mark.faults
def test_ht_30_flood_of_connections_spares_the_others(case: Case) -> None:
    """Five thousand new connections a second: the excess gets 503, a caller beside them nothing."""
    count = affordable(FLOOD_S * FLOOD_PER_S)
    command = [
        sys.executable,
        "-m",
        "tests.hostile.flood",
        str(case.port),
        str(count),
        str(FLOOD_PER_S),
    ]
    with SteadyCaller(case) as caller:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    told = orjson.loads(done.stdout)

    assert told["silent"] + told["refused"] == count
    assert caller.p99_s < 0.5
    case.ledger.unheard = Counter({"too_many_connections": told["refused"]})
