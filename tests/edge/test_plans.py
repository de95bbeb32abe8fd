import sys

import pytest

from serving.edge.http1.connection import Connection
from serving.errors import DeadlineExceeded
from tests.edge.port import InferencePort, message
from tests.edge.wire import MemoryTransport, assert_problem, parse_answers

JSON = "Content-Type: application/json"


# -- what the head says ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "media",
    [
        *("application/x-pickle", "application/vnd.bentoml+pickle", "multipart/form-data"),
        *("application/x-www-form-urlencoded", "text/json", "application/json; charset=utf-16"),
        *("application/json, application/json", "application/jsonx"),
    ],
)
def test_other_media_types_are_refused(port: InferencePort, media: str) -> None:
    """Only JSON in UTF-8 and binary tensors are read; no other parser exists."""
    assert_problem(port.infer(message(), f"Content-Type: {media}"), 415, "unsupported_media_type")
    assert port.admitted == 0
    assert not {"multipart", "python_multipart", "cgi"} & set(sys.modules)


@pytest.mark.parametrize(
    "media",
    [
        *("application/json", "Application/JSON", "application/json; charset=UTF-8"),
        *('application/json;charset="utf-8"', "application/octet-stream"),
    ],
)
def test_json_has_several_spellings(port: InferencePort, media: str) -> None:
    """Media types are compared as the standard says: any case, an optional charset."""
    assert port.infer(message(), f"Content-Type: {media}").status == 200


def test_missing_media_type_is_taken_for_json(port: InferencePort) -> None:
    """The protocol's own client names none, so none means what the protocol sends."""
    assert port.infer(message()).status == 200


# -- deadlines -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["-1", "NaN", "1.5", "1e3", "a", "", "+1", "0x1", "\u00b2"])
def test_deadline_must_be_a_number(port: InferencePort, value: str) -> None:
    """A deadline that is no whole number of milliseconds is refused."""
    answer = port.infer(message(), f"Serving-Timeout-Ms: {value}")

    assert_problem(answer, 400, "invalid_parameter")


@pytest.mark.parametrize("value", ["0", "000"])
def test_no_time_is_over_at_once(port: InferencePort, value: str) -> None:
    """A deadline of zero answers 504 without any work by the model."""
    answer = port.infer(message(), f"Serving-Timeout-Ms: {value}")

    assert_problem(answer, 504, "deadline_exceeded")
    assert (port.admitted, port.replica.frames) == (0, [])


@pytest.mark.parametrize(
    ("header", "parameter", "deadline_s"),
    [
        ("1000000000000", None, 60.0),
        ("9" * 4000, None, 60.0),
        ("0250", None, 0.25),
        (None, 10**30, 60.0),
        (None, 250_000, 0.25),
        ("500", 250_000, 0.25),
        ("250", 10**9, 0.25),
        (None, None, 1.0),
    ],
)
def test_deadline_is_the_shorter_one_and_clamped(
    port: InferencePort, header: str | None, parameter: int | None, deadline_s: float
) -> None:
    """Header and parameter together mean the shorter of the two; too long a one is shortened."""
    headers = [] if header is None else [f"Serving-Timeout-Ms: {header}"]
    body = message() if parameter is None else message(parameters={"timeout": parameter})
    raw = port.inference(body, *headers)
    transport = MemoryTransport()
    connection = Connection(port.server)
    transport.serve(connection)
    connection.data_received(raw)
    port.stand.turns.run()
    assert not transport.written

    port.stand.pass_time(deadline_s - 0.01)
    waiting = not transport.written
    port.stand.pass_time(0.02)

    assert waiting
    (answer,) = parse_answers(transport.written)
    assert_problem(answer, 504, "deadline_exceeded")


def test_refusal_of_a_head_does_not_grow(port: InferencePort) -> None:
    """A head that is refused each time it comes leaves nothing behind, however often."""
    raw = port.inference(message(), "Serving-Timeout-Ms: 0")
    for _ in range(50):
        port.ask(raw)
    (kept,) = {id(error): error for error in port.refusals}.values()
    depth = 0
    trace = kept.__traceback__
    while trace is not None:
        depth, trace = depth + 1, trace.tb_next

    assert isinstance(kept, DeadlineExceeded)
    assert depth < 10
