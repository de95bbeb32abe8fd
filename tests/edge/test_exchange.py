import gzip
import json
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import zstandard

from tests.edge.port import INFER, InferencePort, binary, message, tensor
from tests.edge.wire import assert_problem, request

JSON = "Content-Type: application/json"


# -- content codings -------------------------------------------------------------------------------

Coding = Callable[[bytes], bytes]
CODINGS: dict[str, tuple[Coding, Coding]] = {
    "gzip": (gzip.compress, gzip.decompress),
    "deflate": (zlib.compress, zlib.decompress),
    "zstd": (zstandard.compress, zstandard.decompress),
}


@pytest.mark.parametrize("coding", CODINGS)
def test_packed_body_is_the_body_that_it_holds(port: InferencePort, coding: str) -> None:
    """JSON in a content coding is answered and recorded as if it had come as it is."""
    pack, _ = CODINGS[coding]

    answer = port.infer(pack(json.dumps(message(2)).encode()), JSON, f"Content-Encoding: {coding}")

    assert answer.json()["outputs"] == port.infer(message(2)).json()["outputs"]
    assert "content-encoding" not in answer.headers


@pytest.mark.parametrize("coding", CODINGS)
def test_binary_tensors_may_be_packed(port: InferencePort, coding: str) -> None:
    """`Inference-Header-Content-Length` counts the bytes of the unpacked body, both ways."""
    pack, unpack = CODINGS[coding]
    values = np.arange(800, dtype="<f4")
    body = message(400, parameters={"binary_data_output": True})
    body["inputs"][0] = tensor("x", "FP32", [400, 2], parameters={"binary_data_size": 3200})
    raw, header = binary(body, values.tobytes())

    answer = port.infer(
        pack(raw), header, f"Content-Encoding: {coding}", f"Accept-Encoding: {coding}"
    )

    content = unpack(answer.body)
    json_bytes = int(answer.headers["inference-header-content-length"])
    described = json.loads(content[:json_bytes])["outputs"][0]
    assert answer.headers["content-encoding"] == coding
    assert described["parameters"] == {"binary_data_size": 3200}
    assert content[json_bytes : json_bytes + 3200] == values.tobytes()


@pytest.mark.parametrize(
    ("wish", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("zstd;q=0.5, gzip;q=0.8", "gzip"),
        ("GZIP;q=1.000", "gzip"),
        ("br, identity", None),
        ("gzip;q=0", None),
        ("gzip;q=x", None),
        ("identity, gzip;q=0.5", None),
        ("*", None),
        ("", None),
    ],
)
def test_answer_is_packed_as_the_client_likes(
    port: InferencePort, wish: str, coding: str | None
) -> None:
    """A large answer comes in the coding with the highest weight, and plain for who names none."""
    answer = port.infer(message(400), f"Accept-Encoding: {wish}")

    assert answer.headers.get("content-encoding") == coding
    content = CODINGS[coding][1](answer.body) if coding else answer.body
    assert json.loads(content)["outputs"][1]["shape"] == [400]


def test_small_answers_and_failures_are_not_packed(port: InferencePort) -> None:
    """Packing does not pay for what is small anyway."""
    small = port.infer(message(), "Accept-Encoding: gzip")
    failed = port.infer(b"junk" * 500, "Accept-Encoding: gzip")

    assert "content-encoding" not in small.headers
    assert_problem(failed, 400, "invalid_json")


@pytest.mark.parametrize("coding", ["br", "compress", "gzip, gzip", "identity, gzip", "x" * 500])
def test_other_content_codings_are_refused(port: InferencePort, coding: str) -> None:
    """415 names the codings that are understood; the body is not looked at."""
    answer = port.infer(message(), f"Content-Encoding: {coding}")

    assert_problem(answer, 415, "unsupported_encoding")
    assert answer.headers["accept-encoding"] == "gzip, deflate, zstd"
    assert port.admitted == 0


def test_strangers_make_nobody_unpack(port: InferencePort) -> None:
    """Who has no token is told so, whatever their body would unpack to."""
    bomb = gzip.compress(bytes(8 << 20))

    answer = port.ask(request("POST", INFER, "Content-Encoding: gzip", body=bomb))

    assert_problem(answer, 401, "unauthenticated")
