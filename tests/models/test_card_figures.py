"""The figures that a demo model's card shows are those that its training script measured."""

import json

from serving.registry.folder import DEFAULT_MODELS_DIR
from serving.registry.specification import lineage_of, read_specification

FOLDER = DEFAULT_MODELS_DIR / "census-employment"


def test_the_census_card_shows_what_was_measured() -> None:
    """Every figure in `model.yaml`, with its interval and number, is in `metrics.json`."""
    measured = json.loads((FOLDER / "metrics.json").read_text())
    specification = read_specification(FOLDER / "model.yaml")

    for version in specification.versions:
        known = measured[version.version]
        for metric in lineage_of(version).metrics:
            part = metric.data_set.removeprefix("acs-ma-")
            if metric.name == "auc":
                part = f"{part} {metric.slice}".strip()
                expected = [known[part]["auc"], *known[part]["auc_interval_95"]]
                assert [metric.value, metric.low, metric.high] == expected
            elif metric.name == "selection_ratio":
                field = f"selection_ratio_{metric.slice.replace(' ', '_')}"
                assert metric.value == known[part][field]
            else:
                assert metric.value == known[part][metric.name]
            assert metric.n == known[part]["rows"]
