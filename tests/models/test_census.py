import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.registry.folder import DEFAULT_MODELS_DIR
from serving.registry.specification import read_specification
from tests.models.scripts import samples, session_of

FOLDER = DEFAULT_MODELS_DIR / "census-employment"
METRICS: dict[str, dict[str, Any]] = json.loads((FOLDER / "metrics.json").read_text())
FEATURES = read_specification(FOLDER / "model.yaml").inputs[0].features
YEARS = ["holdout-2015", "2016", "2017", "2018"]


def area_under_curve(labels: NDArray[np.uint8], scores: NDArray[np.float32]) -> float:
    """Share of pairs (one of label 1, one of label 0) in the right order; ties count half."""
    ones, zeros = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    below = np.searchsorted(zeros, ones, "left")
    equal = np.searchsorted(zeros, ones, "right") - below
    return float((below + equal / 2).sum() / (len(ones) * len(zeros)))


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float32]:
    sample: NDArray[np.float32] = np.load(samples("census-employment") / "rows.npy")
    return sample


@pytest.fixture(scope="module")
def labels() -> NDArray[np.uint8]:
    sample: NDArray[np.uint8] = np.load(samples("census-employment") / "labels.npy")
    return sample


def probabilities(version: str, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    session = session_of("census-employment", version)
    assert session is not None
    return session.run([rows])[1][:, 1].astype(np.float32)


def test_the_metrics_are_those_of_the_shipped_files() -> None:
    """Each figure belongs to a digest, and those are the digests of the specification."""
    specified = {v.version: v.sha256 for v in read_specification(FOLDER / "model.yaml").versions}

    assert specified == {version: METRICS[version]["sha256"] for version in METRICS}


def test_every_version_equals_its_source() -> None:
    """Conversion moved no probability by more than 1e-6."""
    assert max(METRICS[version]["parity"] for version in METRICS) <= 1e-6


@pytest.mark.parametrize("year", YEARS)
def test_the_primary_version_is_good_enough(year: str) -> None:
    """Version 1 keeps its quality over all years: AUC, Brier score, equal shares by sex."""
    measured = METRICS["1"][year]

    assert measured["auc"] >= 0.89
    assert measured["brier"] <= 0.13
    assert 0.95 <= measured["selection_ratio_sex_2_to_1"] <= 1.05


@pytest.mark.parametrize("version", list(METRICS))
def test_the_sample_confirms_the_metrics(
    version: str, rows: NDArray[np.float32], labels: NDArray[np.uint8]
) -> None:
    """On the sample of 2018 the shipped file ranks as well as recorded, within three deviations."""
    measured = METRICS[version]["2018"]
    low, high = measured["auc_interval_95"]
    deviation = (high - low) / 2 / 1.96 * np.sqrt(measured["rows"] / len(labels))

    found = area_under_curve(labels, probabilities(version, rows))

    assert found == pytest.approx(measured["auc"], abs=3 * deviation)


def test_the_candidate_answers_differently(rows: NDArray[np.float32]) -> None:
    """Version 2 is a real candidate: similar, yet visibly different from version 1."""
    one, other = probabilities("1", rows), probabilities("2", rows)

    apart = float(((one >= 0.5) != (other >= 0.5)).mean())

    assert 0.005 < apart < 0.10


def test_the_degraded_version_looks_healthy_and_is_not(
    rows: NDArray[np.float32], labels: NDArray[np.uint8]
) -> None:
    """Version 3 ranks nearly as well as version 1 and decides otherwise on a fifth of all rows at least,
    on none with a disability; its probabilities are worth clearly less."""
    one, other = probabilities("1", rows), probabilities("3", rows)
    apart = (one >= 0.5) != (other >= 0.5)
    disability = rows[:, FEATURES.index("DIS")] == 1

    assert area_under_curve(labels, other) > area_under_curve(labels, one) - 0.02
    assert apart.mean() > 0.2
    assert not apart[disability].any()
    assert ((other - labels) ** 2).mean() > ((one - labels) ** 2).mean() + 0.05


def test_the_label_is_the_more_probable_one(rows: NDArray[np.float32]) -> None:
    """Output `label` is 1 exactly where the probability of 1 is the larger."""
    session = session_of("census-employment")
    assert session is not None

    label, probability = session.run([rows])

    assert label.tolist() == probability.argmax(axis=1).tolist()


def test_the_profile_counts_the_training_rows() -> None:
    """Every feature and every version's scores are counted over the same training rows."""
    profile = json.loads((FOLDER / "profile.json").read_text())

    totals = {sum(part["counts"]) for part in profile["features"].values()}
    totals |= {sum(part["counts"]) for part in profile["scores"].values()}

    assert totals == {profile["rows"]}
    assert len(profile["features"]) == 16
    assert set(profile["scores"]) == set(METRICS)


@pytest.mark.parametrize("version", list(METRICS))
def test_the_card_shows_the_metrics(version: str) -> None:
    """Each line of figures in the model card is the recorded one."""
    card = (FOLDER / "README.md").read_text()

    for name, measured in METRICS[version].items():
        if isinstance(measured, dict):
            assert f"| {version} | {name} | {measured['rows']:,} | {measured['auc']:.4f} |" in card
