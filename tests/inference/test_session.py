import hashlib
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import pytest
from onnxruntime.capi import (  # type: ignore[import-untyped]
    onnxruntime_pybind11_state as native,
)

from serving.artifacts.bundles import Bundle
from serving.core.models import Digest, ModelVersion
from serving.core.tensors import Array, TensorSpecification
from serving.engine_settings import InferenceSettings
from serving.errors import ArtifactInvalid, ArtifactMissing, ModelFailed, ProviderUnavailable
from serving.inference.providers import CPU, available_providers
from serving.inference.samples import zeros
from serving.inference.session import RUNTIME_ERRORS, OnnxSession, run_bound
from serving.registry.folder import DEFAULT_MODELS_DIR, CatalogueEntry, load_catalogue
from tests.inference import graphs
from tests.releases import bundle_of

CATALOGUE = load_catalogue(DEFAULT_MODELS_DIR)
NOT_ALONE = ("bench-", "text-")
"""Made from a seed; stages of a chain, whose inputs have any size (tests/models/test_text_recognition)."""
DEMO = [
    (model, version)
    for model in CATALOGUE.models()
    if not model.startswith(NOT_ALONE)
    for version in CATALOGUE.versions(model)
]
PROMISED = 1e-6
NEIGHBOURS = {"file-type": 1e-5}
"""`file-type` moves by up to 1.4e-6 in a batch; the general promise is 1e-5."""
ROWS = 4

Load = Callable[..., OnnxSession]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a graph on the CPU; `version` is that of the graph with FP32 [-1, 2] when not given."""

    def load(content: bytes, version: ModelVersion | None = None) -> OnnxSession:
        artifact = graphs.write(tmp_path, content)
        version = version or graphs.version_of(content)
        return OnnxSession.load(
            version, bundle_of(artifact), settings=InferenceSettings(device="cpu")
        )

    return load


@pytest.fixture(params=DEMO, ids=["@".join(pair) for pair in DEMO])
def entry(request: pytest.FixtureRequest) -> CatalogueEntry:
    """Each version of each demo model; skipped where its artifact has not been fetched."""
    model, version = request.param
    try:
        return CATALOGUE.entry(model, version)
    except ArtifactMissing as missing:
        pytest.skip(missing.message)


def inputs_for(version: ModelVersion, rows: int) -> list[Array]:
    """Rows that differ from each other, in the range that the model was made for."""
    numbers = np.random.default_rng(3)
    if version.model == "census-employment":
        sample = np.load(DEFAULT_MODELS_DIR / version.model / "samples" / "rows.npy")
        return [sample[:rows]]
    if version.model == "sentence-embedding":
        tokens = numbers.integers(1000, 20_000, (rows, 12))
        return [tokens, np.ones_like(tokens), np.zeros_like(tokens)]
    return [
        numbers.integers(0, 256, (rows, *tensor.row_shape)).astype(tensor.dtype)
        for tensor in version.inputs
    ]


def furthest(one: list[Array], other: list[Array]) -> float:
    """The largest absolute difference of any two numbers."""
    pairs = zip(one, other, strict=True)
    return max(float(np.abs(a.astype(float) - b.astype(float)).max()) for a, b in pairs)


def test_answers_as_onnxruntime_alone_does(entry: CatalogueEntry) -> None:
    """A demo model's outputs equal those of a plain ONNX Runtime session, in the declared order."""
    version = entry.version
    inputs = inputs_for(version, ROWS)
    plain = onnxruntime.InferenceSession(entry.artifact, providers=[CPU])
    names = [tensor.name for tensor in version.outputs]
    feed = {tensor.name: a for tensor, a in zip(version.inputs, inputs, strict=True)}

    session = OnnxSession.load(
        version, bundle_of(entry.artifact), settings=InferenceSettings(device="cpu")
    )

    assert furthest(session.run(inputs), plain.run(names, feed)) <= PROMISED


def test_a_row_never_depends_on_its_neighbours(entry: CatalogueEntry) -> None:
    """Each row of a batch gets the answer that it gets alone."""
    version = entry.version
    session = OnnxSession.load(
        version, bundle_of(entry.artifact), settings=InferenceSettings(device="cpu")
    )
    inputs = inputs_for(version, ROWS)

    together = session.run(inputs)

    for row in range(ROWS):
        alone = session.run([array[row : row + 1] for array in inputs])
        among = [array[row : row + 1] for array in together]
        assert furthest(alone, among) <= NEIGHBOURS.get(version.model, PROMISED)


def test_outputs_are_as_declared(entry: CatalogueEntry) -> None:
    """Every output of a demo model has the declared datatype and an admitted shape."""
    session = OnnxSession.load(
        entry.version, bundle_of(entry.artifact), settings=InferenceSettings(device="cpu")
    )
    outputs = session.run(zeros(entry.version, rows=3))

    for declared, array in zip(entry.version.outputs, outputs, strict=True):
        assert declared.dtype == array.dtype
        assert declared.admits(array.shape)


def test_runs_on_the_cpu_alone_when_told_to(load: Load) -> None:
    """`device: cpu` gives exactly one provider, whatever the build offers."""
    assert load(graphs.doubling()).providers == (CPU,)


@pytest.mark.skipif(len(available_providers()) > 1, reason="this machine has a GPU")
def test_refuses_the_cpu_when_a_gpu_is_required(tmp_path: Path) -> None:
    """`require_gpu` on a machine without one refuses the load instead of running slowly."""
    content = graphs.doubling()
    artifact = graphs.write(tmp_path, content)

    with pytest.raises(ProviderUnavailable, match="require_gpu"):
        OnnxSession.load(
            graphs.version_of(content),
            bundle_of(artifact),
            settings=InferenceSettings(device="require_gpu"),
        )


def test_bound_run_gives_the_same_answers() -> None:
    """The path with bound buffers, used on devices, answers as the plain path does."""
    session = onnxruntime.InferenceSession(graphs.doubling(), providers=[CPU])
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)

    (output,) = run_bound(session, ["output"], {"input": rows}, onnxruntime.RunOptions())

    assert output.tolist() == (rows * 2).tolist()


def test_terminate_ends_the_run_in_progress(load: Load) -> None:
    """An endless run fails with ModelFailed soon after `terminate`, and the session still answers."""
    session = load(graphs.endless())
    failures: list[ModelFailed] = []

    def run() -> None:
        try:
            session.run([np.ones((1, 2), dtype=np.float32)])
        except ModelFailed as failure:
            failures.append(failure)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    for _ in range(2000):
        session.terminate()
        thread.join(timeout=0.005)
        if not thread.is_alive():
            break

    assert [failure.message for failure in failures] == [
        "the run of model@1 was stopped before it ended"
    ]
    assert session.run([np.zeros((1, 2), dtype=np.float32)])[0].tolist() == [[0, 0]]


def test_terminate_without_a_run_does_nothing(load: Load) -> None:
    """Terminating an idle session leaves the next run alone."""
    session = load(graphs.doubling())

    session.terminate()

    assert session.run([np.ones((1, 2), dtype=np.float32)])[0].tolist() == [[2, 2]]


def test_a_failing_run_keeps_the_runtimes_words_from_the_caller(load: Load) -> None:
    """A run that ONNX Runtime refuses is a ModelFailed without its text, chained to its error."""
    content = graphs.lookup()
    inputs = [TensorSpecification("input", "INT64", (-1,))]
    session = load(content, graphs.version_of(content, inputs=inputs))

    with pytest.raises(ModelFailed) as failure:
        session.run([np.array([0, 7], dtype=np.int64)])

    assert failure.value.message == "the run of model@1 failed"
    assert isinstance(failure.value.__cause__, RUNTIME_ERRORS)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 3), dtype=np.float32),
        np.zeros((1, 2), dtype=np.float64),
        np.zeros(2, dtype=np.float32),
        np.array([["a", "b"]]),
        np.array([[object(), object()]]),
    ],
    ids=["dimension", "datatype", "rank", "text", "objects"],
)
def test_an_input_that_does_not_fit_is_a_model_failure(load: Load, wrong: Array) -> None:
    """Whatever reaches a session unchecked fails that run only, never with a foreign exception."""
    session = load(graphs.doubling())

    with pytest.raises(ModelFailed):
        session.run([wrong])


def test_every_exception_of_onnxruntime_is_translated() -> None:
    """No exception class of ONNX Runtime is missing from the list that is translated."""
    raised = [c for c in vars(native).values() if isinstance(c, type) and issubclass(c, Exception)]

    assert [c for c in raised if not issubclass(c, RUNTIME_ERRORS)] == []
    assert len(raised) > 10


def test_refuses_bytes_with_another_digest(load: Load) -> None:
    """A file that is not the approved one is refused, naming both digests."""
    content = graphs.doubling()
    approved = Digest("0" * 64)

    with pytest.raises(ArtifactInvalid) as refusal:
        load(content, replace(graphs.version_of(content), digest=approved))

    assert approved in refusal.value.message
    assert hashlib.sha256(content).hexdigest() in refusal.value.message


@pytest.mark.parametrize(
    "content", [b"", b"no model", graphs.doubling()[:40]], ids=["empty", "text", "truncated"]
)
def test_refuses_what_is_no_model(load: Load, content: bytes) -> None:
    """A file that ONNX Runtime cannot parse is refused with its version's name."""
    with pytest.raises(ArtifactInvalid, match="model@1"):
        load(content)


def test_refuses_weights_in_another_file(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that no digest covers are not loaded, though they lie in the working directory."""
    (tmp_path / "weights.bin").write_bytes(np.ones(2, dtype=np.float32).tobytes())
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ArtifactInvalid, match="cannot be loaded"):
        load(graphs.outside_weights("weights.bin"))


WEIGHTS = np.array([3, 4], dtype=np.float32).tobytes()
OUTSIDE: dict[str, tuple[str, dict[str, bytes]]] = {
    "absent": ("w.bin", {}),
    "under another name": ("w.bin", {"v.bin": WEIGHTS}),
    "too short": ("w.bin", {"w.bin": WEIGHTS[:4]}),
    "outside of the folder": ("../w.bin", {"w.bin": WEIGHTS}),
    "absolute": ("/w.bin", {"w.bin": WEIGHTS}),
}


def test_weights_of_the_artifact_itself_come_from_memory() -> None:
    """Files beside the graph, by the names it gives them: relative to its own folder."""
    entry = graphs.outside_weights("weights/w.bin")
    files = {"net/model.onnx": entry, "net/weights/w.bin": WEIGHTS, "net/notes.txt": b"-"}
    bundle = Bundle("net/model.onnx", files)
    version = replace(graphs.version_of(b""), digest=Digest(bundle.digest))

    session = OnnxSession.load(version, bundle, settings=InferenceSettings(device="cpu"))

    (output,) = session.run([np.ones((1, 2), np.float32)])
    assert output.tolist() == [[4, 5]]


@pytest.mark.parametrize(("name", "files"), OUTSIDE.values(), ids=list(OUTSIDE))
def test_ar_09_weights_that_the_artifact_does_not_hold_are_refused(
    name: str, files: dict[str, bytes]
) -> None:
    """Nothing is looked up on disk, wherever the graph points."""
    bundle = Bundle("model.onnx", {"model.onnx": graphs.outside_weights(name), **files})
    version = replace(graphs.version_of(b""), digest=Digest(bundle.digest))

    with pytest.raises(ArtifactInvalid, match="cannot be loaded"):
        OnnxSession.load(version, bundle, settings=InferenceSettings(device="cpu"))


@pytest.mark.parametrize("path", ["model.onnx", "w.bin"])
def test_ar_17_changed_file_of_an_artifact_is_refused(path: str) -> None:
    """The graph or its weights: the digest is over all of them."""
    files = {"model.onnx": graphs.outside_weights("w.bin"), "w.bin": WEIGHTS}
    version = replace(graphs.version_of(b""), digest=Digest(Bundle("model.onnx", files).digest))
    changed = Bundle("model.onnx", {**files, path: files[path][:-1] + b"!"})

    with pytest.raises(ArtifactInvalid, match="has the SHA-256"):
        OnnxSession.load(version, changed, settings=InferenceSettings(device="cpu"))


def test_refuses_a_fixed_batch_and_an_output_that_is_no_tensor() -> None:
    """The iris classifier shipped with ONNX Runtime is refused for both reasons at once."""
    artifact = Path(onnxruntime.__file__).parent / "datasets" / "logreg_iris.onnx"
    version = graphs.version_of(
        artifact.read_bytes(),
        inputs=[TensorSpecification("float_input", "FP32", (-1, 2))],
        outputs=[
            TensorSpecification("label", "INT64", (-1,)),
            TensorSpecification("probabilities", "FP32", (-1, 3)),
        ],
    )

    with pytest.raises(ArtifactInvalid) as refusal:
        OnnxSession.load(version, bundle_of(artifact), settings=InferenceSettings(device="cpu"))

    assert "input 'float_input' has its rows fixed at 3" in refusal.value.message
    assert "output 'probabilities' is a sequence of maps" in refusal.value.message
