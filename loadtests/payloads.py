"""What is sent, and whether what comes back is right.

    json       one row of 64 numbers as Open Inference Protocol JSON, about 0.7 kB
    binary     the same row as 256 raw bytes behind a JSON header that asks for raw bytes back

`check` compares an answer with a raw ONNX Runtime run of the same row: a fast wrong answer is an
error.
"""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

FEATURES: Final = 64
TOLERANCE: Final = 1e-4
TIMEOUT_S: Final = 30.0
HEADER_LENGTH: Final = "Inference-Header-Content-Length"


class WrongAnswer(Exception):
    """A server answered something else than the model says."""


@dataclass(frozen=True, slots=True)
class Payload:
    """One request: what does not depend on the server."""

    headers: Mapping[str, str]
    body: bytes


def a_row() -> NDArray[np.float32]:
    """The row that every request carries; decimal text of six places is exact enough for it."""
    numbers = np.random.default_rng(seed=1).standard_normal(FEATURES)
    return np.round(numbers, 6).astype(np.float32)


def json_payload(row: NDArray[np.float32], *, name: str = "input") -> Payload:
    data = [round(float(value), 6) for value in row]
    tensor = {"name": name, "shape": [1, len(row)], "datatype": "FP32", "data": data}
    body = json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode()
    return Payload({"Content-Type": "application/json"}, body)


def binary_payload(row: NDArray[np.float32]) -> Payload:
    raw = row.astype("<f4").tobytes()
    tensor = {
        "name": "input",
        "shape": [1, len(row)],
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(raw)},
    }
    message = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    header = json.dumps(message, separators=(",", ":")).encode()
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(header))}
    return Payload(headers, header + raw)


PAYLOADS: Final[Mapping[str, Payload]] = {
    "json": json_payload(a_row()),
    "binary": binary_payload(a_row()),
}


def check(
    url: str, payload: Payload, *, headers: Mapping[str, str], expected: NDArray[np.float32] | None
) -> None:
    """Sends the request once. Raises WrongAnswer when the answer is not 200 and `expected`.

    expected: the output's elements; None where a fixed answer has no numbers to compare.
    """
    status, answer_headers, content = post(url, payload.body, {**payload.headers, **headers})
    if status != HTTPStatus.OK:
        raise WrongAnswer(f"{url} answered {status}: {content[:200]!r}")
    if expected is None:
        return
    try:
        got = _output(content, answer_headers.get(HEADER_LENGTH.lower()))
    except (KeyError, TypeError, ValueError) as error:
        raise WrongAnswer(f"{url} answered no inference response: {content[:200]!r}") from error
    if got.shape != expected.shape or not np.allclose(got, expected, rtol=0, atol=TOLERANCE):
        raise WrongAnswer(f"{url} answered {got}; a raw run gives {expected}")


def post(url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers by lower-case name and content, on a connection of its own."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_S)
    try:
        connection.request("POST", parts.path or "/", body, dict(headers))
        answer = connection.getresponse()
        answered = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, answered, answer.read()
    finally:
        connection.close()


def _output(content: bytes, json_bytes: str | None) -> NDArray[np.float32]:
    """The elements of the only output, out of JSON or out of the bytes behind it."""
    length = len(content) if json_bytes is None else int(json_bytes)
    output: dict[str, Any]
    (output,) = json.loads(content[:length])["outputs"]
    if "data" in output:
        return np.asarray(output["data"], dtype=np.float32).ravel()
    return np.frombuffer(content[length:], dtype="<f4")
