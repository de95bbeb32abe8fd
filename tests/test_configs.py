from pathlib import Path

import pytest

from serving.registry.folder import DEFAULT_MODELS_DIR, load_catalogue
from serving.settings import load

POLICIES = "governance.yaml"  # no settings, but what one of them names
CONFIGS = sorted(
    path for path in (Path(__file__).parents[1] / "configs").glob("*.yaml") if path.name != POLICIES
)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_every_example_is_accepted(config: Path) -> None:
    """Each example in `configs/` holds permitted settings and names models that exist."""
    settings = load(config=config, environment={})
    catalogue = load_catalogue(DEFAULT_MODELS_DIR)

    for deployment in settings.deployments:
        versions = set(deployment.versions)
        assert versions <= set(catalogue.versions(deployment.model))


def test_there_is_an_example_for_each_purpose() -> None:
    """Trying it out and measuring it each have their example."""
    assert {"local", "benchmark"} <= {config.stem for config in CONFIGS}
