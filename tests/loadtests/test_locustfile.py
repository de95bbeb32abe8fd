import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from serving.registry.folder import DEFAULT_MODELS_DIR

ROOT = DEFAULT_MODELS_DIR.parent


class Stub(BaseHTTPRequestHandler):
    """Answers as the model would: probabilities that add up to `total` for each row."""

    protocol_version = "HTTP/1.1"
    total = 1.0
    strangers = 0

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        rows = body["inputs"][0]["shape"][0]
        if self.headers["Authorization"] != "Bearer secret":
            type(self).strangers += 1
        outputs = [{"name": "probabilities", "data": [0.25, self.total - 0.25] * rows}]
        self._answer({"outputs": outputs})

    def do_GET(self) -> None:
        self._answer({})

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def _answer(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class WrongStub(Stub):
    """Answers numbers that are no probabilities."""

    total = 1.5


@contextmanager
def served(stub: type[Stub]) -> Iterator[str]:
    """The address of a server with that stub, as long as it runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), stub)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("stub", "status"), [(Stub, 0), (WrongStub, 1)], ids=["right-answers", "wrong-answers"]
)
def test_the_exit_status_tells_whether_the_objective_was_kept(
    stub: type[Stub], status: int
) -> None:
    """Right answers with the token end in 0; numbers that cannot be right end in 1, with the reason."""
    with served(stub) as host:
        command = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--headless"]
        command += ["--scenario", "spike", "--host", host, "--duration-s", "1.5"]
        run = subprocess.run(  # noqa: S603 - a constant command line
            [*command, "--peak-users", "3", "--max-p99-ms", "5000"],
            check=False,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "SERVING_TOKEN": "secret"},
            timeout=100,
        )

    assert run.returncode == status, run.stderr
    assert ("requests failed" in run.stderr) == bool(status)
    assert stub.strangers == 0
