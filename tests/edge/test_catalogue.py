from pathlib import Path

import pytest

from serving.access.authorization import MODEL_REFUSED
from serving.core.principals import Role
from serving.edge.facts import EXTENSIONS
from tests.edge.port import ECHO, InferencePort, echo, message
from tests.edge.wire import assert_problem, parse_answers, request

CANDIDATE = echo(*ECHO.inputs, version="2")
MODEL = "/v2/models/echo"
INDEX = "/v2/repository/index"


@pytest.fixture
def two(tmp_path: Path) -> InferencePort:
    """A port whose model has a candidate, version 2."""
    return InferencePort(tmp_path, ECHO, CANDIDATE)


def test_open_routes_need_no_token(port: InferencePort) -> None:
    """Liveness and readiness are all that a stranger may ask."""
    routes = port.application.router.routes

    is_open = {route.path: port.ask(request(route.method, route.path)).status for route in routes}
    assert {path for path, status in is_open.items() if status != 401} == {
        "/v2/health/live",
        "/v2/health/ready",
    }


def test_readiness_says_both(port: InferencePort) -> None:
    """The ready answer holds the protocol's `live` beside `ready`; 503 until it is."""
    assert port.ask(request("GET", "/v2/health/ready")).json() == {"live": True, "ready": True}

    port.unready = "waiting"

    assert_problem(port.ask(request("GET", "/v2/health/ready")), 503, "not_ready")
    assert port.ask(request("GET", "/v2/health/live")).json() == {"live": True}


def test_server_metadata(port: InferencePort) -> None:
    """The server says its name and what it speaks beyond the core protocol."""
    facts = port.get("/v2").json()

    assert facts["name"] == "serving"
    assert facts["extensions"] == list(EXTENSIONS)


def test_model_metadata(two: InferencePort) -> None:
    """A caller sees the stable version's signature; an operator also which candidates there are."""
    facts = two.get(MODEL).json()

    assert facts == {
        "name": "echo",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "n", "datatype": "INT64", "shape": [-1]},
        ],
        "outputs": facts["inputs"],
        "parameters": {"digest": ECHO.digest, "version": "1"},
    }
    assert two.get(MODEL, role=Role.OPERATOR).json()["versions"] == ["1", "2"]


@pytest.mark.parametrize("suffix", ["", "/ready"])
def test_metadata_of_a_candidate_needs_an_operator(two: InferencePort, suffix: str) -> None:
    """For a caller a candidate does not exist; an operator may look at it."""
    target = f"{MODEL}/versions/2{suffix}"

    assert_problem(two.get(target), 404, "model_not_found")
    assert two.get(target, role=Role.OPERATOR).status == 200


def test_model_is_ready_with_a_replica(port: InferencePort) -> None:
    """A model is ready as soon as a replica of it is up."""
    assert port.get(f"{MODEL}/ready").json() == {"name": "echo", "ready": True}

    port.replica.abort()

    assert_problem(port.get(f"{MODEL}/ready"), 503, "not_ready")


@pytest.mark.parametrize(
    "target", ["/", "/v2/health", "/v3", "/metrics", "/status", "/v2/logging", "/v2/trace/setting"]
)
def test_unknown_path_is_not_found(port: InferencePort, target: str) -> None:
    """What is not in the table answers 404."""
    assert_problem(port.get(target), 404, "not_found")


def test_models_are_those_that_the_token_may_call(two: InferencePort) -> None:
    """The list names what exists and may be called, each once, and nothing else."""
    names = [
        two.ask(request("GET", "/v2/models", two.token(models=models))).json()["models"]
        for models in (None, ["echo", "unknown"], ["unknown"])
    ]

    assert names == [["echo"], ["echo"], []]


def test_index_names_versions_and_their_state(two: InferencePort) -> None:
    """A caller finds the answering version; an operator also candidates. State is of this moment."""
    ready = {"name": "echo", "version": "1", "state": "READY", "reason": ""}
    assert two.post(INDEX).json() == [ready]
    assert two.post(INDEX, role=Role.OPERATOR).json() == [ready, ready | {"version": "2"}]

    two.replica.abort()

    (entry,) = two.post(INDEX).json()
    assert (entry["state"], entry["reason"]) == ("UNAVAILABLE", "no replica of this version is up")
    assert two.post(INDEX, b'{"ready": true}').json() == []


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"ready": 1}', b"[" * 100_000, b"\xff"])
def test_index_request_is_checked(port: InferencePort, body: bytes) -> None:
    """The body is an object whose `ready` is true or false, or is not there."""
    assert_problem(port.post(INDEX, body), 400, "invalid_request")


def test_index_request_is_plain_json(port: InferencePort) -> None:
    """Another media type or a content coding is refused as it is for an inference."""
    pickled = port.post(INDEX, b"{}", "Content-Type: application/x-pickle")
    packed = port.post(INDEX, b"{}", "Content-Encoding: gzip")

    assert_problem(pickled, 415, "unsupported_media_type")
    assert_problem(packed, 415, "unsupported_encoding")


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_models_do_not_change_through_this_port(port: InferencePort, verb: str) -> None:
    """Loading and unloading is refused, for operators too, and for others who may not ask at all."""
    target = f"/v2/repository/models/echo/{verb}"
    limited = request("POST", target, port.token(models=["mine"]))

    for role in (Role.CALLER, Role.OPERATOR):
        assert_problem(port.post(target, b'{"parameters":{}}', role=role), 501, "unsupported")
    assert_problem(port.ask(limited), 403, "forbidden")
    assert port.get(f"{MODEL}/ready").status == 200


def test_configuration_and_statistics_follow_the_version(two: InferencePort) -> None:
    """Both are found under the model and under a version, for those who may see it."""
    for suffix in ("config", "stats"):
        assert two.get(f"{MODEL}/{suffix}").json() == two.get(f"{MODEL}/versions/1/{suffix}").json()
        pinned = f"{MODEL}/versions/2/{suffix}"
        assert_problem(two.get(pinned), 404, "model_not_found")
        assert two.get(pinned, role=Role.OPERATOR).status == 200


def test_statistics_of_all_models(two: InferencePort) -> None:
    """Every version that the asker may see, those without a request too."""
    two.stand.pass_time(1.0)
    two.infer(message(3))

    (mine,) = two.get("/v2/models/stats").json()["model_stats"]
    versions = two.get("/v2/models/stats", role=Role.OPERATOR).json()["model_stats"]

    assert (mine["name"], mine["version"], mine["inference_count"]) == ("echo", "1", 3)
    assert mine["last_inference"] == two.stand.clock.wall_ns() // 1_000_000
    assert [each["version"] for each in versions] == ["1", "2"]


@pytest.mark.parametrize("suffix", ["/config", "/stats"])
@pytest.mark.parametrize("model", ["echo", "unknown"])
def test_limited_token_reads_nothing_of_other_models(
    port: InferencePort, model: str, suffix: str
) -> None:
    """Whether a model exists that the token may not call is not told."""
    token = port.token(models=["mine"])

    answer = port.ask(request("GET", f"/v2/models/{model}{suffix}", token))

    assert_problem(answer, 403, "forbidden")
    assert answer.json()["error"] == MODEL_REFUSED


def test_refusals_of_routes_are_counted(port: InferencePort) -> None:
    """A refusal is reported once under its code, whichever route it is of."""
    port.ask(request("GET", MODEL))
    port.get("/nowhere")
    port.get(INDEX)

    codes = [error.code for error in port.refusals]
    assert codes == ["unauthenticated", "not_found", "method_not_allowed"]


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "DELETE", "PATCH", "PUT", "TRACE"])
def test_other_methods_change_nothing(port: InferencePort, method: str) -> None:
    """A method that a path does not take is refused, however it is written."""
    for target, allowed in ((MODEL, "GET"), (INDEX, "POST"), ("/v2/health/live", "GET")):
        raw = request(method, target, port.token(), "X-HTTP-Method-Override: GET")

        (transport,) = port.send(raw)
        (answer,) = parse_answers(transport.written, [method])
        assert (answer.status, answer.headers["allow"]) == (405, allowed)
