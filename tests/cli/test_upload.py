"""`serving model upload` against a running instance: what becomes of an artifact, and of a cut one."""

import hashlib
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any, Final
from urllib.parse import urlsplit

import onnx
import pytest
from typer.testing import CliRunner, Result

from serving.cli import app
from serving.client.uploads import PIECE_BYTES
from serving.core.principals import Role
from serving.errors import ModelNotFound, NotReady, ParameterInvalid
from tests.cli.running import Run
from tests.inference import graphs
from tests.instances import Instance

CHUNK_BYTES: Final = 64 * 1024
LONG_BYTES: Final = PIECE_BYTES + PIECE_BYTES // 2
"""Of an artifact that is sent in two pieces."""


@pytest.fixture(scope="module", autouse=True)
def _registered(instance: Instance) -> None:
    """The model that artifacts are uploaded for."""
    words = ["register", "target", "--owner", "ada", "--risk-tier", "minimal"]
    place = ["--config", str(instance.config)]
    assert CliRunner().invoke(app, ["model", *words, *place]).exit_code == 0


class Line(ThreadingTCPServer):
    """A way to a port on this machine that breaks once it has carried `most_bytes` there."""

    def __init__(self, url: str, *, most_bytes: int) -> None:
        super().__init__(("127.0.0.1", 0), Carrier)
        self.there = ("127.0.0.1", urlsplit(url).port or 0)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.most_bytes = most_bytes
        self.carried_bytes = 0


class Carrier(BaseRequestHandler):
    """One connection over a `Line`."""

    server: Line

    def handle(self) -> None:
        with socket.create_connection(self.server.there) as there:
            back = Thread(target=carry, args=(there, self.request))
            back.start()
            while content := self.request.recv(CHUNK_BYTES):
                self.server.carried_bytes += len(content)
                if self.server.carried_bytes > self.server.most_bytes:
                    break
                there.sendall(content)
            for each in (there, self.request):
                with suppress(OSError):  # it is cut at the other end already
                    each.shutdown(socket.SHUT_RDWR)
            back.join()


def carry(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):  # the line is cut
        while content := source.recv(CHUNK_BYTES):
            target.sendall(content)


@contextmanager
def line_to(url: str, *, most_bytes: int) -> Iterator[Line]:
    with Line(url, most_bytes=most_bytes) as line:
        thread = Thread(target=line.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield line
        finally:
            line.shutdown()
            thread.join()


def model_file(folder: Path, content: bytes) -> Path:
    file = folder / "model.onnx"
    file.write_bytes(content)
    return file


def long_model() -> bytes:
    """Doubles, and says so at length."""
    model = onnx.load_from_string(graphs.doubling())
    model.doc_string = "x" * LONG_BYTES
    content: bytes = model.SerializeToString()
    return content


def told(result: Result) -> Any:
    assert result.stdout, result.exception
    return json.loads(result.stdout)


def test_help_teaches_by_example() -> None:
    """The verb shows commands that can be typed, and can answer programs."""
    result = CliRunner().invoke(app, ["model", "upload", "--help"])

    assert result.exit_code == 0
    assert "serving model upload fraud.onnx" in result.output
    assert "--json" in result.output


def test_an_uploaded_file_is_a_validated_version(run: Run, tmp_path: Path) -> None:
    """With its digest, and what was said about it."""
    file = model_file(tmp_path, graphs.doubling())
    words = ("upload", str(file), "--model", "target", "--version", "1", "--description", "twice")
    result = run(*words)
    (version,) = told(run("versions", "target", "--json"))

    assert (result.exit_code, result.stdout) == (0, "target@1 is validated\n")
    assert (version["state"], version["description"]) == ("validated", "twice")
    assert version["digest"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_folder_is_uploaded_with_its_weights(run: Run, tmp_path: Path) -> None:
    """Every file of it, by its path."""
    model_file(tmp_path, graphs.outside_weights("weights.bin"))
    (tmp_path / "weights.bin").write_bytes(bytes(8))
    result = run("upload", str(tmp_path), "--model", "target", "--version", "weighed", "--json")
    state = told(result)

    assert (result.exit_code, state["stage"]) == (0, "validated")
    assert [each["path"] for each in state["files"]] == ["model.onnx", "weights.bin"]


def test_what_the_inspection_rejects_is_exit_status_1(run: Run, tmp_path: Path) -> None:
    """With the reason and its code on the one line."""
    file = model_file(tmp_path, graphs.doubling()[:-9])
    result = run("upload", str(file), "--model", "target", "--version", "broken")

    assert result.exit_code == 1
    assert result.stdout.startswith("target@broken is rejected: ")
    assert result.stdout.endswith("(invalid_model)\n")


def test_a_cut_upload_goes_on_where_it_was(
    instance: Instance, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line breaks in the second piece; the same command sends no piece twice."""
    monkeypatch.setenv("SERVING_TOKEN", instance.token(Role.DEVELOPER))
    file = model_file(tmp_path, long_model())
    words = ("upload", str(file), "--model", "target", "--version", "long", "--json")
    rest_bytes = file.stat().st_size - PIECE_BYTES
    with line_to(instance.control_url, most_bytes=PIECE_BYTES + rest_bytes // 2) as broken:
        cut = run(*words, at=broken.url)
    with line_to(instance.control_url, most_bytes=file.stat().st_size) as line:
        state = told(run(*words, at=line.url))

    assert isinstance(cut.exception, NotReady)
    assert state["stage"] == "validated"
    assert rest_bytes <= line.carried_bytes < PIECE_BYTES


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (("model.onnx", "--model", "target", "--parity", "nowhere.npz"), ParameterInvalid),
        (("nowhere.onnx", "--model", "target"), ParameterInvalid),
        (("model.onnx", "--model", "unknown"), ModelNotFound),
    ],
)
def test_what_cannot_be_uploaded_is_refused(
    words: tuple[str, ...],
    refusal: type[Exception],
    *,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file that is not there, a model that nobody registered."""
    monkeypatch.chdir(tmp_path)
    model_file(tmp_path, graphs.doubling())

    assert isinstance(run("upload", *words, "--version", "2").exception, refusal)
