"""Reading an MLflow registry: what it says becomes what we need, and nothing of it is trusted."""

import hashlib
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from serving.client import mlflow
from serving.client.mlflow import MlflowRegistry, read_mlmodel
from serving.errors import ArtifactInvalid, NotReady, OrderRefused, ParameterInvalid
from serving.registry.definition import read_definition
from tests.mlflow_server import FOLDER, MLMODEL, Mlflow

NETWORK = b"onnx" * 1000


@pytest.fixture
def source() -> Iterator[MlflowRegistry]:
    Mlflow.files = {"MLmodel": MLMODEL.encode(), "model.onnx": NETWORK}
    Mlflow.versions, Mlflow.place = ["1"], f"mlflow-artifacts:/{FOLDER}"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mlflow)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    with MlflowRegistry(f"http://127.0.0.1:{server.server_port}") as registry:
        yield registry
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_version_comes_with_its_network_and_lineage(
    source: MlflowRegistry, tmp_path: Path
) -> None:
    """Definition, digest, parameters, metrics and the commit that made it."""
    model = source.model("doubler")
    (version,) = source.versions("doubler")
    described = source.described(version)
    lineage = source.lineage(version)
    digest = source.download(version, described.file, tmp_path / "model.onnx")

    assert described.definition is not None
    definition = read_definition(described.definition)
    assert [(t.name, t.datatype, t.shape) for t in definition.inputs] == [("x", "FP32", [-1, 2])]
    assert digest == hashlib.sha256(NETWORK).hexdigest()
    assert (tmp_path / "model.onnx").read_bytes() == NETWORK
    assert (lineage.parameters, lineage.code_revision) == ({"trees": "60"}, "abc123")
    assert [(m.name, m.value) for m in lineage.metrics] == [("accuracy", 0.9)]
    assert model.aliases[0].alias == "champion"


def test_all_pages_are_read(source: MlflowRegistry) -> None:
    """However many versions there are."""
    Mlflow.versions = ["1", "2", "3"]

    assert [each.version for each in source.versions("doubler")] == ["1", "2", "3"]


def test_what_the_server_refuses_is_said(source: MlflowRegistry) -> None:
    """In its words and with its code."""
    with pytest.raises(OrderRefused, match="RESOURCE_DOES_NOT_EXIST"):
        source.model("none")


def test_artifacts_elsewhere_are_not_fetched(source: MlflowRegistry) -> None:
    """Only what the MLflow server itself hands out: no file of this machine, no other host."""
    (version,) = source.versions("doubler")
    for place in ("file:///etc", "s3://bucket/x", "http://169.254.169.254/x", "/etc"):
        Mlflow.place = place
        with pytest.raises(ArtifactInvalid, match="does not hand out"):
            source.described(version)


def test_too_large_is_refused_while_it_comes(
    source: MlflowRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that sends more than a network can have is stopped."""
    monkeypatch.setattr(mlflow, "MAX_MODEL_BYTES", 100)
    (version,) = source.versions("doubler")

    with pytest.raises(ArtifactInvalid, match="larger than 100 bytes"):
        source.download(version, "model.onnx", tmp_path / "x")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        "flavors: 1",
        "flavors: {python_function: {}}",
        "flavors: {onnx: {data: ../../etc/passwd}}",
        "flavors: {onnx: {data: /etc/passwd}}",
        MLMODEL.replace("float32", "datetime"),
        MLMODEL.replace('"tensor-spec"', '"column"'),
        "!!python/object/apply:os.system [ls]",
    ],
)
def test_an_odd_mlmodel_is_refused(content: str) -> None:
    """A damaged, malicious or different model is named and left out."""
    with pytest.raises(ArtifactInvalid):
        read_mlmodel(content.encode(), "doubler 1")


def test_a_model_without_a_signature_needs_a_definition() -> None:
    """What it takes is not guessed."""
    without = MLMODEL[: MLMODEL.index("signature")]

    assert read_mlmodel(without.encode(), "doubler 1").definition is None


def test_nobody_there_is_said_so(unused_tcp_port: int) -> None:
    """A port where nothing listens, and a URL that is none."""
    with (
        MlflowRegistry(f"http://127.0.0.1:{unused_tcp_port}") as registry,
        pytest.raises(NotReady),
    ):
        registry.model("doubler")
    with pytest.raises(ParameterInvalid):
        MlflowRegistry("file:///tmp/mlruns")
