import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest

from loadtests.payloads import HEADER_LENGTH, PAYLOADS, WrongAnswer, a_row, check

EXPECTED = np.arange(8, dtype=np.float32)
OUTPUT = {"name": "output", "datatype": "FP32", "shape": [1, 8]}


@contextmanager
def answering(content: bytes, *, status: int = 200, json_bytes: int | None = None) -> Iterator[str]:
    """The address of a server that answers this to everything."""

    class Fixed(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            if json_bytes is not None:
                self.send_header(HEADER_LENGTH, str(json_bytes))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Fixed)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def in_json(values: list[float]) -> bytes:
    return json.dumps({"outputs": [{**OUTPUT, "data": values}]}).encode()


def test_both_payloads_carry_the_same_row() -> None:
    """One row of 64 numbers, as text and as the 256 bytes behind the JSON header."""
    text, raw = PAYLOADS["json"], PAYLOADS["binary"]

    length = int(raw.headers[HEADER_LENGTH])
    header = json.loads(raw.body[:length])
    data = json.loads(text.body)["inputs"][0]["data"]
    assert np.array_equal(np.asarray(data, dtype=np.float32), a_row())
    assert np.array_equal(np.frombuffer(raw.body[length:], dtype="<f4"), a_row())
    assert header["inputs"][0]["parameters"] == {"binary_data_size": 256}
    assert header["parameters"] == {"binary_data_output": True}
    assert 650 < len(text.body) < 800


def test_answers_within_the_tolerance_are_right() -> None:
    """JSON and raw bytes are read alike."""
    header = json.dumps({"outputs": [OUTPUT]}).encode()
    with answering(in_json([*EXPECTED[:-1].tolist(), 7.00005])) as url:
        check(url, PAYLOADS["json"], headers={}, expected=EXPECTED)
    with answering(header + EXPECTED.tobytes(), json_bytes=len(header)) as url:
        check(url, PAYLOADS["binary"], headers={}, expected=EXPECTED)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (in_json([*EXPECTED[:-1].tolist(), 7.001]), 200),
        (in_json(EXPECTED[:-1].tolist()), 200),
        (b"{}", 200),
        (in_json(EXPECTED.tolist()), 503),
    ],
    ids=["another-number", "too-few", "no-outputs", "another-status"],
)
def test_wrong_answers_are_refused(content: bytes, status: int) -> None:
    """A fast wrong answer is an error."""
    with answering(content, status=status) as url, pytest.raises(WrongAnswer, match="answered"):
        check(url, PAYLOADS["json"], headers={}, expected=EXPECTED)
