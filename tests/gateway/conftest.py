from pathlib import Path

import pytest

from tests.gateway.stand import Stand, a_stand


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return a_stand(tmp_path)
