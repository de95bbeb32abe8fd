"""HT-12 to HT-16: a path is judged once, by what it says; nothing else chooses a route."""

import orjson
import pytest

from tests.edge.wire import Client, assert_problem, request
from tests.hostile.cases import Case
from tests.hostile.product import INFER
from tests.places import a_row

JSON = "Content-Type: application/json"
BODY = orjson.dumps(a_row(1.0))
MODEL = "/v2/models/doubler"
PROTECTED = (
    *("/v2", MODEL, f"{MODEL}/ready", f"{MODEL}/config", f"{MODEL}/stats", "/v2/models/stats"),
    *(f"{MODEL}/versions/1", f"{MODEL}/versions/1/ready", "/v2/repository/index"),
    *(INFER, f"{MODEL}/versions/1/infer"),
)


def variants(path: str) -> list[str]:
    """The same path to a reader who is not exact."""
    return [
        *(path, path + "/", path + "//", "/" + path, path.upper(), path.title(), path + "/."),
        *(path + "?", path + ";x=1", path + "%20", path + "%00", path + "%2F", path + ".json"),
        *(path.replace("/v2", "/V2"), path.replace("/v2", "/./v2"), path.replace("v2", "%762")),
        *("/v2/health/live/.." + path.removeprefix("/v2"), "/v2/health/live%2f.." + path),
    ]


@pytest.mark.parametrize(
    "target",
    [
        *(INFER + end for end in ("%00", "%2F", "/", ";x=1", "\\", "%20", "/..", "%C0%AE")),
        *("/v2/models/%2e%2e%2fdoubler/infer", "/v2/models%2Fdoubler/infer", "/" + INFER),
        *(
            "/v2/models/x/../doubler/infer",
            "/v2/models//doubler/infer",
            "/v2/models/\\doubler/infer",
        ),
        *("/v2/health/live/../.." + INFER, "/v2/models/doubler;x=1/infer", "/v2%2Fmodels/doubler"),
        *("/v2/models/%ef%bc%8e%ef%bc%8e/infer", "/" + "a" * 1_000_000, "/v2/models/\xff/infer"),
    ],
    ids=lambda target: target[-60:],
)
def test_ht_12_only_the_exact_path_is_a_route(case: Case, target: str) -> None:
    """Escapes, dots, doubled slashes and endless targets reach no handler, even with a token."""
    raw = request("POST", target, case.product.authorization, JSON, "Connection: close", body=BODY)

    (answer,) = case.ask(raw)

    assert answer.status in (400, 404, 414)


@pytest.mark.parametrize("host", ["a/?x=", "here/v2/health/live?", "here#"])
def test_ht_13_host_does_not_choose_the_route(case: Case, host: str) -> None:
    """A Host that looks like a path never opens a protected one, on the inference or control port."""
    for target in (*PROTECTED, "/internal/snapshot"):
        assert case.ask_one(request("GET", target, host=host)).status in (400, 401)
    for target in ("/v1/status", "/internal/snapshot"):
        with Client(case.product.control_port) as client:
            assert client.send(request("GET", target, host=host)).receive().status in (400, 401)


@pytest.mark.parametrize("target", ["http://other" + INFER, "HTTP://here" + INFER, "https://a@b/"])
def test_ht_14_absolute_targets_are_refused(case: Case, target: str) -> None:
    """A target with a host of its own is refused, whoever asks."""
    token = case.product.authorization
    for raw in (request("POST", target, body=BODY), request("POST", target, token, body=BODY)):
        (answer,) = case.ask(raw + case.product.inference())
        assert_problem(answer, 400, "invalid_message")


@pytest.mark.parametrize("target", ["@evil", "here@evil", "v2", "*", "here:80", "?a=b", "\\v2", ""])
def test_ht_15_target_begins_with_a_slash(case: Case, target: str) -> None:
    """Anything but a path is refused."""
    (answer,) = case.ask(request("GET", target) + case.product.inference())

    assert_problem(answer, 400, "invalid_message")


@pytest.mark.parametrize("path", PROTECTED)
def test_ht_16_variants_of_protected_paths_tell_strangers_nothing(case: Case, path: str) -> None:
    """Whoever brings no token gets 401 in the same words for every variant of every protected path."""
    with case.connect() as connection:
        for target in variants(path):
            for method in ("GET", "POST"):
                answer = connection.send(request(method, target)).receive()
                assert_problem(answer, 401, "unauthenticated")
