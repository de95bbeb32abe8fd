import json
import math
import re

import numpy as np
import pytest

from serving.core.tensors import DTYPES
from serving.registry.folder import DEFAULT_MODELS_DIR
from serving.registry.specification import read_specification
from tests.models.scripts import MODELS, samples, session_of

SECTIONS = [
    "Model details",
    "Intended use",
    "Factors",
    "Metrics",
    "Evaluation data",
    "Training data",
    "Quantitative analyses",
    "Ethical considerations",
    "Caveats and recommendations",
]
REQUESTS = [model for model in MODELS if (samples(model) / "request.json").exists()]


@pytest.mark.parametrize("model", MODELS)
def test_every_model_has_a_card(model: str) -> None:
    """Each model card has the nine sections of Mitchell et al. (2019), in their order, none empty."""
    card = (DEFAULT_MODELS_DIR / model / "README.md").read_text()

    heads = re.findall(r"^## (.+)\n\n\S", card, re.MULTILINE)

    assert heads == SECTIONS


@pytest.mark.parametrize("model", MODELS)
def test_an_artifact_is_in_the_repository_or_has_a_command(model: str) -> None:
    """Whoever lacks an artifact is told a command whose script exists."""
    specification = read_specification(DEFAULT_MODELS_DIR / model / "model.yaml")
    vendored = all(
        (DEFAULT_MODELS_DIR / model / version.file).exists() for version in specification.versions
    )

    command = specification.obtain or ""

    assert vendored or command
    if command.startswith("python models/"):
        assert (DEFAULT_MODELS_DIR.parent / command.split()[1]).exists()


@pytest.mark.parametrize("model", REQUESTS)
def test_the_sample_request_is_answered(model: str) -> None:
    """A committed request fits the specification, and the model answers it with finite numbers."""
    session = session_of(model)
    if session is None:
        pytest.skip(f"the artifact of {model} is not on this machine")
    request = json.loads((samples(model) / "request.json").read_text())
    sent = {tensor["name"]: tensor for tensor in request["inputs"]}
    inputs = []
    for declared in session.version.inputs:
        tensor = sent.pop(declared.name)
        shape = tuple(tensor["shape"])
        assert declared.admits(shape)
        assert tensor["datatype"] == declared.datatype
        assert len(tensor["data"]) == math.prod(shape)
        inputs.append(np.array(tensor["data"], dtype=DTYPES[tensor["datatype"]]).reshape(shape))

    outputs = session.run(inputs)

    assert sent == {}
    assert all(np.isfinite(output).all() for output in outputs)
