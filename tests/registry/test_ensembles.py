"""Specifications of ensembles: what is refused, in which words, and what a digest binds."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.core.models import Digest, ModelVersion, Recording
from serving.core.tensors import TensorSpecification
from serving.errors import ArtifactInvalid, ParameterInvalid, SpecificationInvalid
from serving.registry.definition import read_definition
from serving.registry.ensembles import artifact_of, digest_of, resolve, trouble_with
from serving.registry.folder import load_catalogue
from tests.catalogue import write_ensemble, write_models
from tests.plans import a_version

COUNTER = replace(
    a_version("counter"),
    inputs=(
        TensorSpecification("x", "FP32", (-1, 2)),
        TensorSpecification("limit", "INT64", (-1, 1)),
    ),
    outputs=(TensorSpecification("n", "INT64", (-1, 1)),),
)
WIDE = replace(
    a_version("wide"),
    inputs=(TensorSpecification("x", "FP32", (-1, 8)),),
    outputs=(TensorSpecification("y", "FP32", (-1, 8)),),
)
KNOWN = {each.key: each for each in (a_version(), a_version(version="2"), COUNTER, WIDE)}


def find(model: str, version: str) -> ModelVersion | None:
    return KNOWN.get(f"{model}@{version}")


def a_stage(name: str, model: str = "doubler", **changes: Any) -> dict[str, Any]:
    values = {"name": name, "model": model, "version": "1"}
    return values | {"inputs": {"x": "x"}, "outputs": {"y": "y"}} | changes


def a_definition(*stages: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    tensor = {"datatype": "FP32", "shape": [-1, 2]}
    return {
        "inputs": [tensor | {"name": "x"}],
        "outputs": [tensor | {"name": "y"}],
        "stages": list(stages),
    } | changes


TWO = (
    a_stage("first", outputs={"y": "between"}),
    a_stage("second", inputs={"x": "between"}),
)


def refusal(definition: Mapping[str, Any]) -> str:
    with pytest.raises(ParameterInvalid) as refused:
        resolve(read_definition(definition), find, model="pair", version="1")
    return refused.value.message


def test_stages_know_the_digests_of_their_versions() -> None:
    """What is resolved names a digest for each stage, and its artifact says the same for all time."""
    stages = resolve(read_definition(a_definition(*TWO)), find, model="pair", version="1")

    assert [stage.digest for stage in stages] == [a_version().digest] * 2
    assert hashlib.sha256(artifact_of(stages)).hexdigest() == digest_of(stages)
    assert artifact_of(stages).startswith(b'{"stages":[{"digest":')


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        (
            a_definition(a_stage("first", model="nobody")),
            "stages.first: there is no version nobody@1",
        ),
        (
            a_definition(a_stage("first", model="pair")),
            "stages.first: an ensemble cannot be a stage of itself",
        ),
        (
            a_definition(a_stage("first", inputs={"picture": "x"})),
            "stages.first.inputs: doubler@1 has none called 'picture'; it has: x",
        ),
        (
            a_definition(a_stage("first", model="counter", outputs={"n": "y"})),
            "stages.first.inputs: counter@1 also takes limit",
        ),
        (
            a_definition(a_stage("first", inputs={"x": "z"})),
            "stages.first.inputs.x: nothing gives 'z'; there are: x, y",
        ),
        (
            a_definition(a_stage("first", outputs={"y": "x"})),
            "stages.first.outputs: 'x' already comes from the caller; give it another name",
        ),
        (
            a_definition(
                TWO[0],
                a_stage(
                    "counting",
                    model="counter",
                    inputs={"x": "x", "limit": "between"},
                    outputs={"n": "n"},
                ),
                TWO[1],
            ),
            "stages.counting.inputs.limit: stage first gives FP32, INT64 is taken",
        ),
        (
            a_definition(TWO[0], a_stage("wide", model="wide", inputs={"x": "between"})),
            "stages.wide.inputs.x: stage first gives the shape [-1, 2], [-1, 8] is taken",
        ),
        (
            a_definition(
                a_stage("first", inputs={"x": "back"}, outputs={"y": "forth"}),
                a_stage("second", inputs={"x": "forth"}, outputs={"y": "back"}),
                a_stage("third"),
            ),
            "stages: first, second wait for each other in a cycle",
        ),
        (a_definition(a_stage("first", outputs={"y": "z"})), "outputs: no stage gives 'y'"),
        (
            a_definition(
                a_stage("first"),
                inputs=[
                    {"name": "x", "datatype": "FP32", "shape": [-1, 2]},
                    {"name": "spare", "datatype": "FP32", "shape": [-1, 2]},
                ],
            ),
            "inputs: no stage takes 'spare'",
        ),
        (a_definition(TWO[0], TWO[0] | {"outputs": {"y": "y"}}), "stages must have distinct names"),
    ],
)
def test_a_mistake_is_told_with_its_place(definition: Mapping[str, Any], words: str) -> None:
    """Each refusal names the stage, the tensor, what is there and what it takes."""
    assert refusal(definition) == words


def test_what_is_hidden_in_one_record_is_not_shown_in_another() -> None:
    """An input that the ensemble does not record must not be recorded by a stage."""
    hidden = a_definition(a_stage("first"), recording={"fields": {"x": "drop"}})

    assert "stage first records it as its own 'x': say drop there, too" in refusal(hidden)


def test_an_ensemble_is_no_stage() -> None:
    """Whoever wants its stages names them, so that everything is agreed to at once."""
    stages = resolve(read_definition(a_definition(*TWO)), find, model="pair", version="1")
    pair = replace(a_version("pair"), digest=digest_of(stages), stages=stages)

    with pytest.raises(ParameterInvalid, match="pair@1 is an ensemble; name the stages"):
        resolve(
            read_definition(a_definition(a_stage("all", model="pair"))),
            lambda *_: pair,
            model="outer",
            version="1",
        )


def test_a_digest_binds_every_stage() -> None:
    """Other stages, or a stage of another digest, are found out."""
    stages = resolve(read_definition(a_definition(*TWO)), find, model="pair", version="1")
    pair = replace(a_version("pair"), digest=digest_of(stages), stages=stages)
    other = replace(a_version(), digest=Digest("cd" * 32))

    assert trouble_with(pair, find) == ""
    assert "another digest" in trouble_with(pair, lambda *_: other)
    assert "there is no version" in trouble_with(pair, lambda *_: None)
    assert "not those of its digest" in trouble_with(replace(pair, stages=stages[:1]), find)


def test_a_recorded_field_that_a_stage_hides_too_is_fine() -> None:
    """What stages hide at least as well may be hidden."""
    shy = replace(a_version(), recording=Recording(fields=(("x", "drop"),)))
    hidden = a_definition(a_stage("first"), recording={"fields": {"x": "hash"}})

    assert resolve(read_definition(hidden), lambda *_: shy, model="pair", version="1")


def test_an_ensemble_of_the_folder_has_the_digest_of_its_stages(tmp_path: Path) -> None:
    """`model.yaml` declares stages and no file; a pinned SHA-256 must be theirs."""
    folder = write_ensemble(write_models(tmp_path))

    entry = load_catalogue(folder).entry("sixfold", "1")

    assert entry.artifact == folder / "sixfold" / "model.yaml"
    assert hashlib.sha256(b"".join(entry.content())).hexdigest() == entry.version.digest
    assert [stage.key for stage in entry.version.stages] == ["doubler@1", "doubler@2"]
    file = folder / "sixfold" / "model.yaml"
    said = yaml.safe_load(file.read_text())
    said["versions"][0]["sha256"] = "0" * 64
    file.write_text(yaml.safe_dump(said))
    with pytest.raises(ArtifactInvalid, match="its stages have the SHA-256"):
        load_catalogue(folder).entry("sixfold", "1")


def test_a_folder_says_what_is_wrong_with_its_ensemble(tmp_path: Path) -> None:
    """The version and the stage are named; so is an artifact of a stage that is not there."""
    folder = write_ensemble(write_models(tmp_path))
    file = folder / "sixfold" / "model.yaml"
    file.write_text(file.read_text().replace("model: doubler", "model: tripler", 1))

    with pytest.raises(SpecificationInvalid, match=r"sixfold@1: stages\.doubling: there is no"):
        load_catalogue(folder).entry("sixfold", "1")


def test_an_ensemble_has_no_file(tmp_path: Path) -> None:
    """A version is either a file with its SHA-256, or stages."""
    folder = write_ensemble(write_models(tmp_path))
    file = folder / "sixfold" / "model.yaml"
    said = yaml.safe_load(file.read_text())
    said["versions"][0]["file"] = "1.onnx"
    file.write_text(yaml.safe_dump(said))

    with pytest.raises(SpecificationInvalid, match="an ensemble has stages and no file"):
        load_catalogue(folder)
