"""One instance for all verbs that need one, and the verbs of `serving model` at it."""

from collections.abc import Iterator

import pytest
from typer.testing import CliRunner, Result

from serving.cli import app
from tests.cli.running import Run
from tests.instances import Instance


@pytest.fixture(scope="package")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """Ready; tests leave it so, and have names of their own for what they register."""
    with Instance(tmp_path_factory.mktemp("verbs")) as running:
        running.expect("ready")
        yield running
        assert running.stop() == 0


@pytest.fixture
def run(instance: Instance) -> Run:
    """`serving model` with these words, on this machine or `at` an address."""

    def invoke(*words: str, at: str = "") -> Result:
        place = ["--url", at] if at else ["--config", str(instance.config)]
        return CliRunner().invoke(app, ["model", *words, *place])

    return invoke
