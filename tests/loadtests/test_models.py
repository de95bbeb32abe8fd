import hashlib
from pathlib import Path

import numpy as np
import pytest

from loadtests.models import LAYERS, perceptron, write
from serving.engine_settings import InferenceSettings
from serving.inference.session import OnnxSession
from serving.registry.folder import DEFAULT_MODELS_DIR, load_catalogue
from serving.registry.specification import read_specification
from tests.releases import bundle_of


@pytest.mark.parametrize("name", list(LAYERS))
def test_the_seed_gives_the_specified_bytes(name: str) -> None:
    """A benchmark model made here has the digest that its specification declares."""
    (version,) = read_specification(DEFAULT_MODELS_DIR / name / "model.yaml").versions

    assert hashlib.sha256(perceptron(name)).hexdigest() == version.sha256


def test_writes_a_models_folder_that_can_be_served(tmp_path: Path) -> None:
    """What is written elsewhere holds specification and artifact, and its outputs are near one."""
    write("bench-m1", tmp_path)
    entry = load_catalogue(tmp_path).entry("bench-m1", "1")
    session = OnnxSession.load(
        entry.version, bundle_of(entry.artifact), settings=InferenceSettings(device="cpu")
    )
    rows = np.random.default_rng(0).standard_normal((256, 64), dtype=np.float32)

    (output,) = session.run([rows])

    assert output.shape == (256, 8)
    assert 0.3 < float(output.std()) < 3
