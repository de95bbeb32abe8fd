from pathlib import Path

import pytest

from serving.core.batches import RowFailure
from serving.core.predictions import Fate
from serving.core.principals import Role
from serving.core.tensors import Array, TensorSpecification
from serving.edge.http1.connection import Connection
from serving.errors import LogStorageFull
from tests.edge.port import ECHO, INFER, InferencePort, echo, message
from tests.edge.wire import (
    MemoryTransport,
    assert_problem,
    parse_answers,
    request,
    turn,
)

CANDIDATE = echo(*ECHO.inputs, version="2")
MODEL = "/v2/models/echo"
JSON = "Content-Type: application/json"


@pytest.fixture
def two(tmp_path: Path) -> InferencePort:
    """A port whose model has a candidate, version 2."""
    return InferencePort(tmp_path, ECHO, CANDIDATE)


# -- an inference ----------------------------------------------------------------------------------


def test_inference_is_answered_and_recorded(port: InferencePort) -> None:
    """The answer holds the outputs and says by what it was made and where its record is."""
    answer = port.infer(message(2, id="mine"), JSON)

    (record,) = port.stand.log.records
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == {
        "model_name": "echo",
        "model_version": "1",
        "id": "mine",
        "outputs": [
            {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [0.5] * 4},
            {"name": "n", "datatype": "INT64", "shape": [2], "data": [7, 7]},
        ],
    }
    assert answer.headers["serving-prediction-id"] == record.prediction_id
    assert answer.headers["serving-model-version"] == "1"
    assert answer.headers["serving-model-digest"] == ECHO.digest
    assert answer.headers["serving-batch-id"] == "5"
    assert (record.fate, record.principal, record.request_id) == (Fate.OK, "ada", "mine")


def test_answer_without_id_says_none(port: InferencePort) -> None:
    """A request without an id gets no id back."""
    assert "id" not in port.infer(message()).json()


def test_callers_of_one_frame_get_their_own_rows(port: InferencePort) -> None:
    """Requests that travel together each get exactly their rows, whatever form they asked for."""
    bodies = []
    for number in range(6):
        rows = 1 + number % 3
        body = message(rows)
        body["inputs"][1]["data"] = [number * 10 + row for row in range(rows)]
        if number % 2:
            body["outputs"] = [{"name": "n"}]
        bodies.append(body)

    transports = port.send(*(port.inference(body) for body in bodies))

    for body, transport in zip(bodies, transports, strict=True):
        (answer,) = parse_answers(transport.written)
        outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
        assert outputs["n"] == body["inputs"][1]["data"]


@pytest.mark.parametrize(
    ("function", "status", "code"),
    [
        (RowFailure.MODEL_ERROR, 500, "model_error"),
        (RowFailure.EXPIRED, 504, "deadline_exceeded"),
        (RowFailure.INVALID_OUTPUT, 500, "model_output_invalid"),
    ],
)
def test_failed_rows_become_problems(
    tmp_path: Path, function: RowFailure, status: int, code: str
) -> None:
    """What goes wrong behind the gateway has its status, and the id of its record."""
    port = InferencePort(tmp_path, function=function)

    answer = port.infer(message())

    (record,) = port.stand.log.records
    assert_problem(answer, status, code)
    assert answer.json()["request_id"] == record.prediction_id


def test_unusable_outputs_are_no_answer(tmp_path: Path) -> None:
    """A replica whose outputs cannot be rendered fails the request, without detail."""

    def nothing(_inputs: list[Array]) -> list[Array]:
        return []

    answer = InferencePort(tmp_path, function=nothing).infer(message())

    assert answer.status == 500
    assert_problem(answer, 500, answer.json()["code"])


def test_full_disk_is_said(port: InferencePort) -> None:
    """While nothing can be recorded nothing is admitted, and the code says why."""
    port.stand.log.refusal = LogStorageFull("no space for records")

    assert_problem(port.infer(message()), 503, "log_storage_full")
    assert port.admitted == 0


def test_client_that_goes_frees_its_place(port: InferencePort) -> None:
    """A request whose client went is recorded as such, and what comes later is sent nowhere."""
    connection, transport = Connection(port.server), MemoryTransport()
    transport.serve(connection)
    connection.data_received(port.inference(message()))
    port.stand.turns.run()

    connection.connection_lost(ConnectionResetError())
    port.replica.answer()
    port.stand.turns.run()

    assert [record.fate for record in port.stand.log.records] == [Fate.CLIENT_GONE]
    assert (transport.written, port.stand.pipeline.admission.in_flight) == (b"", 0)


# -- who may ----------------------------------------------------------------------------------------

PROTECTED = ["/v2", MODEL, f"{MODEL}/ready", f"{MODEL}/versions/1", f"{MODEL}/versions/1/ready"]


@pytest.mark.parametrize("header", ["X: y", "Authorization: Bearer junk", "Authorization: Basic a"])
@pytest.mark.parametrize("target", [*PROTECTED, "/v2/models/unknown", f"{MODEL}/versions/9"])
def test_nothing_is_told_to_strangers(port: InferencePort, target: str, header: str) -> None:
    """Without a valid token every protected path answers 401 in the same words, found or not."""
    answer = port.ask(request("GET", target, header))

    assert_problem(answer, 401, "unauthenticated")
    assert answer.json()["error"] == port.ask(request("GET", "/v2")).json()["error"]


@pytest.mark.parametrize("target", [INFER, f"{MODEL}/versions/2/infer", "/v2/models/other/infer"])
def test_strangers_cannot_infer(port: InferencePort, target: str) -> None:
    """401 comes before anything else is looked at: model, version, type and body."""
    answer = port.ask(request("POST", target, "Content-Type: x/y", "Serving-Timeout-Ms: a"))

    assert_problem(answer, 401, "unauthenticated")
    assert port.admitted == 0


@pytest.mark.parametrize("model", ["echo", "unknown"])
def test_limited_token_learns_nothing_of_other_models(port: InferencePort, model: str) -> None:
    """Whether a model exists that the token may not call is not told: 403 in the same words."""
    token = port.token(models=["mine"])

    answers = [
        port.ask(request("GET", f"/v2/models/{model}", token)),
        port.ask(request("POST", f"/v2/models/{model}/infer", token, body=b"{}")),
        port.ask(request("GET", "/v2/models/third/ready", token)),
    ]

    for answer in answers:
        assert_problem(answer, 403, "forbidden")
        assert answer.json()["error"] == answers[0].json()["error"]


@pytest.mark.parametrize(("role", "status"), [(Role.CALLER, 403), (Role.OPERATOR, 200)])
def test_pinned_candidate_needs_an_operator(two: InferencePort, role: Role, status: int) -> None:
    """Only an operator may ask a candidate; everybody may name the stable version."""
    stable = two.infer(message(), target=f"{MODEL}/versions/1/infer", role=role)
    candidate = two.infer(message(), target=f"{MODEL}/versions/2/infer", role=role)

    assert (200, status) == (stable.status, candidate.status)
    if role is Role.OPERATOR:
        assert candidate.json()["model_version"] == "2"
        assert candidate.headers["serving-model-digest"] == CANDIDATE.digest
    else:
        assert_problem(candidate, 403, "forbidden")
        missing = two.infer(message(), target=f"{MODEL}/versions/9/infer")
        assert candidate.json()["error"] == missing.json()["error"]


def test_unknown_version_is_not_found(two: InferencePort) -> None:
    """An operator learns that a version does not exist."""
    answer = two.infer(message(), target=f"{MODEL}/versions/9/infer", role=Role.OPERATOR)

    assert_problem(answer, 404, "model_not_found")


@pytest.mark.parametrize(
    "name",
    [
        *("a/b", "..", "%2e%2e", "%2F..%2F", "%00", "a" * 300, "%F0%9F%98%80", "%E2%80%AE", "%ff"),
        *("ECHO", "echo%20", "ech%C3%B6", ";x=1", "echo;x=1", "%252e"),
    ],
)
def test_odd_model_names_are_not_found(port: InferencePort, name: str) -> None:
    """A name is looked up and nothing else: whatever it holds, it is no such model."""
    for answer in (port.infer(message(), target=f"/v2/models/{name}/infer"),
                   port.get(f"/v2/models/{name}")):  # fmt: skip
        assert answer.status == 404
        assert_problem(answer, 404, answer.json()["code"])


@pytest.mark.parametrize("version", ["latest%20", "1.0", "01", "-1", "1" + "0" * 30, "", "%31%20"])
def test_odd_versions_are_not_found(port: InferencePort, version: str) -> None:
    """A version is its exact name."""
    target = f"{MODEL}/versions/{version}/infer"

    assert port.infer(message(), target=target, role=Role.OPERATOR).status == 404


async def test_pipelined_requests_are_judged_alone(port: InferencePort) -> None:
    """Of two requests on one connection the first, without a token, gets its 401 and the second 200."""
    connection, transport = Connection(port.server), MemoryTransport()
    transport.serve(connection)
    connection.data_received(request("POST", INFER, body=b"{}") + port.inference(message()))
    for _ in range(5):
        await turn()
        port.stand.turns.run()
        port.replica.answer()

    statuses = [answer.status for answer in parse_answers(transport.written)]
    assert statuses == [401, 200]
    assert port.admitted == 1


def test_host_does_not_choose_the_route(port: InferencePort) -> None:
    """A Host that looks like a path is refused and never judged as another path."""
    for host in ("a/?x=", "here/v2/health/live?"):
        answer = port.ask(request("GET", MODEL, host=host))

        assert answer.status == 400
    assert_problem(port.ask(request("GET", MODEL)), 401, "unauthenticated")


@pytest.mark.parametrize(
    "target",
    [
        *("/v2/models/echo/infer/", "/v2/models/echo//infer", "//v2/models/echo/infer"),
        *("/V2/models/echo/infer", "/v2/models/echo/Infer", "/v2/models%2Fecho/infer"),
        *("/v2/models/echo/infer;x=1", "/v2/health/live/../../models/echo/infer"),
        *("/v2/models/echo%2Finfer", "/v2/models/echo/infer%00", "/v2/x/../models/echo/infer"),
        *("/v2/models/echo/%69nfer%20", "/v2/models/echo/infer\\", "/v2/models/echo/%C0%AEinfer"),
    ],
)
def test_variants_of_a_path_reach_nothing(port: InferencePort, target: str) -> None:
    """Only the exact path is an inference, with a token or without."""
    answer = port.infer(message(), target=target)

    assert answer.json()["code"] in ("not_found", "method_not_allowed")
    assert_problem(port.ask(request("POST", target)), 401, "unauthenticated")
    assert port.admitted == 0


def test_encoded_path_is_judged_as_what_it_says(port: InferencePort) -> None:
    """A path written with escapes is the same path, and needs the same token."""
    target = "/v2/models/%65cho/%69nfer"

    assert port.infer(message(), target=target).status == 200
    assert_problem(port.ask(request("POST", target, body=b"{}")), 401, "unauthenticated")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "TRACE", "OPTIONS"])
def test_inference_is_a_post(port: InferencePort, method: str) -> None:
    """Another method on the inference path answers 405 and names POST."""
    answer = port.ask(request(method, INFER, port.token()))

    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


def test_refusals_before_admission_are_counted(port: InferencePort) -> None:
    """Every refusal of an inference is reported once, under its code."""
    port.ask(request("POST", INFER, body=b"{}"))
    port.infer(b"junk")
    port.infer(message(), "Content-Type: text/plain")

    codes = [error.code for error in port.refusals]
    assert codes == ["unauthenticated", "invalid_json", "unsupported_media_type"]


def test_changed_version_is_seen_at_once(port: InferencePort) -> None:
    """After a new snapshot requests are read and answered by the new version's signature."""
    port.infer(message())

    port.serve(echo(TensorSpecification("z", "BOOL", (-1,)), version="1"))

    body = {"inputs": [{"name": "z", "datatype": "BOOL", "shape": [1], "data": [True]}]}
    assert port.infer(body).json()["outputs"][0]["data"] == [True]
    assert_problem(port.infer(message()), 400, "data_shape_mismatch")
