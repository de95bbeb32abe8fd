import copy
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.core.models import BatchLimits
from serving.core.tensors import TensorSpecification
from serving.errors import ArtifactInvalid, ArtifactMissing, SpecificationInvalid
from serving.registry.folder import Catalogue, load_catalogue

CONTENT = b"the bytes of a model"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
SPECIFICATION: dict[str, Any] = {
    "model": "doubler",
    "owner": "somebody",
    "description": "Doubles.",
    "task": "arithmetic",
    "licence": "Apache-2.0",
    "source": "Made here.",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2], "meaning": "Two numbers."}],
    "outputs": [{"name": "y", "datatype": "FP64", "shape": [-1, -1]}],
    "batching": {"max_batch_size": 4, "latency_objective_ms": 10},
    "obtain": "make doubler",
    "versions": [
        {
            "version": "1",
            "file": "1.onnx",
            "sha256": DIGEST,
            "description": "The first.",
            "provenance": "Written by hand.",
        }
    ],
}

Write = Callable[[dict[str, Any]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the specification of `doubler`, with its artifact, and returns the models folder."""

    def write(specification: dict[str, Any]) -> Path:
        folder = tmp_path / "models" / "doubler"
        folder.mkdir(parents=True)
        (folder / "model.yaml").write_text(yaml.safe_dump(specification))
        (folder / "1.onnx").write_bytes(CONTENT)
        return folder.parent

    return write


@pytest.fixture
def catalogue(write: Write) -> Catalogue:
    return load_catalogue(write(SPECIFICATION))


def changed(path: str, value: object) -> dict[str, Any]:
    """The good specification with one field replaced: `inputs.0.shape`."""
    specification = copy.deepcopy(SPECIFICATION)
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    part: Any = specification
    for key in parents:
        part = part[key]
    part[last] = value
    return specification


def test_an_entry_is_what_the_specification_says(catalogue: Catalogue, tmp_path: Path) -> None:
    """Every field of the file arrives in the entry, in the types of the data plane."""
    entry = catalogue.entry("doubler", "1")

    assert entry.version.key == "doubler@1"
    assert entry.version.digest == DIGEST
    assert entry.version.inputs == (TensorSpecification("x", "FP32", (-1, 2), "Two numbers."),)
    assert entry.version.outputs == (TensorSpecification("y", "FP64", (-1, -1)),)
    assert entry.version.batching == BatchLimits(max_batch_size=4, latency_objective_ms=10)
    assert entry.version.finite_inputs
    assert entry.artifact == tmp_path / "models" / "doubler" / "1.onnx"
    assert (entry.owner, entry.task, entry.licence) == ("somebody", "arithmetic", "Apache-2.0")
    assert (entry.version_description, entry.provenance) == ("The first.", "Written by hand.")


def test_limits_may_be_left_out(write: Write) -> None:
    """Without `batching` a model has the limits that the data plane documents."""
    specification = {name: part for name, part in SPECIFICATION.items() if name != "batching"}

    entry = load_catalogue(write(specification)).entry("doubler", "1")

    assert entry.version.batching == BatchLimits()


def test_lists_models_and_versions(catalogue: Catalogue) -> None:
    """The catalogue names what it holds."""
    assert catalogue.models() == ("doubler",)
    assert catalogue.versions("doubler") == ("1",)


@pytest.mark.parametrize(
    ("model", "version", "words"),
    [("tripler", "1", "there are: doubler"), ("doubler", "2", "it has: 1")],
    ids=["model", "version"],
)
def test_refuses_what_is_not_there(
    catalogue: Catalogue, model: str, version: str, words: str
) -> None:
    """An unknown model or version is refused with the names of those there are."""
    with pytest.raises(SpecificationInvalid, match=words):
        catalogue.entry(model, version)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("owner", "", "owner"),
        ("task", None, "task"),
        ("colour", "blue", "colour"),
        ("model", "../doubler", "model"),
        ("model", "Doubler", "model"),
        ("model", "doubled", "must be the folder's name 'doubler'"),
        ("inputs", [], "inputs"),
        ("inputs.0.datatype", "FP8", "must be one of BOOL"),
        ("inputs.0.datatype", 32, "inputs.0.datatype"),
        ("inputs.0.shape", [-1, -2], "inputs.0.shape"),
        ("inputs.0.shape", [-1] * 9, "inputs.0.shape"),
        ("outputs", SPECIFICATION["outputs"] * 2, "outputs must have distinct names"),
        ("batching.max_batch_size", 0, "batching.max_batch_size"),
        ("batching.max_batch_size", "4", "batching.max_batch_size"),
        ("versions.0.version", 1, "versions.0.version"),
        ("versions.0.version", "a" * 64, "versions.0.version"),
        ("versions.0.sha256", DIGEST.upper(), "versions.0.sha256"),
        ("versions.0.sha256", DIGEST + "\n", "versions.0.sha256"),
        ("versions", SPECIFICATION["versions"] * 2, "versions must have distinct names"),
    ],
)
def test_names_the_file_and_the_field(write: Write, path: str, value: object, words: str) -> None:
    """A wrong specification is refused with its file, the field and what is permitted."""
    models_dir = write(changed(path, value))

    with pytest.raises(SpecificationInvalid) as refusal:
        load_catalogue(models_dir)

    assert str(models_dir / "doubler" / "model.yaml") in refusal.value.message
    assert words in refusal.value.message


@pytest.mark.parametrize(
    "content",
    [b"", b"- a list", b"model: [", b"\xff\xfe\x00", b"!!python/object:os.system {}"],
    ids=["empty", "list", "unclosed", "encoding", "object"],
)
def test_refuses_what_is_no_specification(write: Write, content: bytes) -> None:
    """A file that is not a mapping of plain values is refused by name, and nothing in it is built."""
    models_dir = write(SPECIFICATION)
    (models_dir / "doubler" / "model.yaml").write_bytes(content)

    with pytest.raises(SpecificationInvalid, match=r"doubler/model\.yaml"):
        load_catalogue(models_dir)


def test_refuses_a_huge_specification(write: Write) -> None:
    """A specification beyond 256 KiB is refused before it is parsed."""
    models_dir = write(changed("description", "x" * 300_000))

    with pytest.raises(SpecificationInvalid, match="larger than"):
        load_catalogue(models_dir)


def test_refuses_a_models_dir_that_is_none(tmp_path: Path) -> None:
    """A wrong `models_dir` is said to be wrong, rather than empty."""
    with pytest.raises(SpecificationInvalid, match="models_dir"):
        load_catalogue(tmp_path / "nowhere")


def test_refuses_an_artifact_with_another_digest(write: Write) -> None:
    """One changed byte in the artifact is refused with both digests."""
    models_dir = write(SPECIFICATION)
    (models_dir / "doubler" / "1.onnx").write_bytes(CONTENT + b"!")

    with pytest.raises(ArtifactInvalid, match=DIGEST):
        load_catalogue(models_dir).entry("doubler", "1")


def test_says_how_to_get_an_absent_artifact(write: Write) -> None:
    """A missing artifact is an error of its own that names the command which makes it."""
    models_dir = write(SPECIFICATION)
    (models_dir / "doubler" / "1.onnx").unlink()

    with pytest.raises(ArtifactMissing, match="make doubler"):
        load_catalogue(models_dir).entry("doubler", "1")


@pytest.mark.parametrize("file", ["../1.onnx", "/1.onnx", "a/../../1.onnx"])
def test_refuses_an_artifact_outside_its_folder(write: Write, file: str) -> None:
    """A path that leaves the model's folder is refused before it is opened."""
    models_dir = write(changed("versions.0.file", file))

    with pytest.raises(ArtifactInvalid, match="outside"):
        load_catalogue(models_dir).entry("doubler", "1")


def test_refuses_a_link_that_leads_outside(write: Write, tmp_path: Path) -> None:
    """A symbolic link out of the model's folder is refused though the digest would fit."""
    models_dir = write(SPECIFICATION)
    artifact = models_dir / "doubler" / "1.onnx"
    artifact.rename(tmp_path / "elsewhere.onnx")
    artifact.symlink_to(tmp_path / "elsewhere.onnx")

    with pytest.raises(ArtifactInvalid, match="outside"):
        load_catalogue(models_dir).entry("doubler", "1")


def test_refuses_what_is_no_regular_file(write: Write) -> None:
    """A link within the folder is refused: what was verified could be exchanged."""
    models_dir = write(SPECIFICATION)
    folder = models_dir / "doubler"
    (folder / "1.onnx").rename(folder / "real.onnx")
    (folder / "1.onnx").symlink_to(folder / "real.onnx")

    with pytest.raises(ArtifactInvalid, match="regular file"):
        load_catalogue(models_dir).entry("doubler", "1")


def test_ignores_folders_without_a_specification(write: Write) -> None:
    """Other folders and files beside the models are no models."""
    models_dir = write(SPECIFICATION)
    (models_dir / "notes").mkdir()
    (models_dir / "README.md").write_text("Models.")

    assert load_catalogue(models_dir).models() == ("doubler",)
