from pathlib import Path

import pytest

from serving.control.desired import Places, read_desired
from serving.errors import ArtifactMissing, SpecificationInvalid
from serving.settings import Deployment, Settings

PLACES = Places(Path("/sockets"), Path("/keys"), Path("/logs"))
SPECIFICATION = """
model: {model}
owner: tests
description: Does nothing.
task: none
licence: none
source: tests
inputs: [{{name: x, datatype: FP32, shape: [-1, 2]}}]
outputs: [{{name: y, datatype: FP32, shape: [-1, 2]}}]
versions:
  - {{version: "1", file: 1.onnx, sha256: {digest}, description: one, provenance: tests}}
  - {{version: "2", file: 2.onnx, sha256: {digest}, description: two, provenance: tests}}
"""
EMPTY_DIGEST = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    """Models `whole`, with both artifacts, and `partial`, which lacks them."""
    for model in ("whole", "partial"):
        folder = tmp_path / model
        folder.mkdir()
        text = SPECIFICATION.format(model=model, digest=EMPTY_DIGEST)
        (folder / "model.yaml").write_text(text)
    for version in ("1", "2"):
        (tmp_path / "whole" / f"{version}.onnx").touch()
    return tmp_path


def settings_of(models_dir: Path, *deployments: Deployment) -> Settings:
    return Settings(models_dir=models_dir, deployments=deployments)


def test_stable_and_shadows_become_one_plan_each(models_dir: Path) -> None:
    """Every version that a deployment names runs as an application of its own."""
    deployment = Deployment(model="whole", stable="1", shadows=("2",), max_replicas=3, num_gpus=0.5)

    desired = read_desired(settings_of(models_dir, deployment), PLACES)

    assert [plan.key for plan in desired.plans] == ["whole@1", "whole@2"]
    assert {(1, 3, 0.5)} == {(p.min_replicas, p.max_replicas, p.num_gpus) for p in desired.plans}
    assert [(p.model, p.stable, p.shadows) for p in desired.policies] == [("whole", "1", ("2",))]


def test_optional_model_without_artifact_is_left_out_with_a_reason(models_dir: Path) -> None:
    """The others run; nobody is told to wait for the absent one."""
    desired = read_desired(
        settings_of(
            models_dir,
            Deployment(model="whole", stable="1"),
            Deployment(model="partial", stable="1", optional=True),
        ),
        PLACES,
    )

    assert [plan.key for plan in desired.plans] == ["whole@1"]
    assert [policy.model for policy in desired.policies] == ["whole"]
    ((model, reason),) = desired.left_out
    assert model == "partial"
    assert "1.onnx is not there" in reason


def test_missing_artifact_of_a_required_model_stops_the_start(models_dir: Path) -> None:
    """What is not optional must be there."""
    with pytest.raises(ArtifactMissing, match="partial@1"):
        read_desired(settings_of(models_dir, Deployment(model="partial", stable="1")), PLACES)


def test_optional_does_not_excuse_a_wrong_specification(models_dir: Path) -> None:
    """A version that no specification knows is an error, optional or not."""
    deployment = Deployment(model="whole", stable="9", optional=True)

    with pytest.raises(SpecificationInvalid, match="no version '9'"):
        read_desired(settings_of(models_dir, deployment), PLACES)


def test_same_settings_give_the_same_application_names(models_dir: Path) -> None:
    """A control process that starts again wants exactly what runs already."""
    settings = settings_of(models_dir, Deployment(model="whole", stable="1"))

    names = [[plan.name for plan in read_desired(settings, PLACES).plans] for _ in range(2)]

    assert names[0] == names[1]
