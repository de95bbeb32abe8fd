from pathlib import Path

import numpy as np

from loadtests.goals import judge
from loadtests.openloop import OpenOutcome
from loadtests.shadowing import configuration, figures_of
from serving.registry.folder import load_catalogue
from serving.settings import load


def answered(*took_ms: float) -> OpenOutcome:
    took_s = np.array(took_ms) / 1000
    status = np.where(np.isfinite(took_s), 200, 0)
    return OpenOutcome(np.zeros(len(took_ms)), took_s, status, 0.1, 1.0)


def test_candidate_is_the_same_model_and_gets_next_to_nothing_at_first(tmp_path: Path) -> None:
    """The configuration is one that the product takes: two versions of one artifact."""
    settings = load(config=configuration(tmp_path), environment={})

    (deployment,) = settings.deployments
    assert [each.share for each in deployment.shadows] == [0.0001]
    assert settings.models_dir is not None
    assert load_catalogue(settings.models_dir).versions("bench-m1") == ("1", "2")


def test_more_is_the_median_over_pairs() -> None:
    """One disturbed pair says nothing; what was not answered is a failure."""
    without = [answered(1.0), answered(1.0), answered(1.0)]
    beside = [answered(1.2), answered(1.3), answered(90.0)]
    counted = {"copies": 3.0, "dropped": 1.0}

    good = figures_of(1000, without, beside, counted)
    bad = figures_of(1000, [answered(1.0, np.inf)], [answered(1.0)], counted)

    assert round(good.values["p99 ms more with all copied"], 6) == 0.3
    assert [each.missed for each in judge([good])] == [False, False]
    assert bad.values["failed requests"] == 1
    assert any(each.missed for each in judge([bad]))
