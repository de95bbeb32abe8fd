from pathlib import Path

import pytest

from tests.edge.port import InferencePort


@pytest.fixture
def port(tmp_path: Path) -> InferencePort:
    return InferencePort(tmp_path)
