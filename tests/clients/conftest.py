"""One instance with every demo model, as a newcomer starts it."""

from collections.abc import Iterator

import pytest

from serving.settings import DEMO
from tests.instances import Instance


@pytest.fixture(scope="package")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    deployments = [deployment.model_dump(mode="json") for deployment in DEMO]
    with Instance(tmp_path_factory.mktemp("demo"), deployments=deployments) as instance:
        instance.ready = instance.expect("ready")
        yield instance
