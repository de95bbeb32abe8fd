"""A models folder for whole-path tests: tiny models whose answers and running times are chosen.

`doubler` version 1 answers 2 * x and its candidate, version 2, answers 3 * x; `twin` is version 1
under a second name; `sixfold`, where it is written, is an ensemble of the two. x is FP32 [rows, 2]; `wide`, where it is written, has rows of 256 KiB. A run takes as many turns of a loop in the graph as the
largest number in it, so that the caller decides how long it lasts: `SLOW` is some tenths of a second.
"""

import hashlib
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from onnx import TensorProto, helper, numpy_helper

SLOW: Final = 1_000_000.0
DEGRADED_TURNS: Final = 100_000
FACTORS: Final = {"1": 2.0, "2": 3.0, "3": 5.0}
COLUMNS: Final = 2
WIDE_COLUMNS: Final = 65536

DOUBLER: Final[dict[str, Any]] = {"model": "doubler", "stable": "1", "shadows": ["2"]}
TWIN: Final[dict[str, Any]] = {"model": "twin", "stable": "1"}
SIXFOLD: Final[dict[str, Any]] = {"model": "sixfold", "stable": "1"}


def write_models(folder: Path) -> Path:
    """Makes `folder` a models folder and returns it."""
    for model, versions in (("doubler", ("1", "2")), ("twin", ("1",))):
        _write(folder / model, {version: multiplying(FACTORS[version]) for version in versions})
    return folder


def write_degraded(folder: Path) -> Path:
    """A models folder of `doubler` alone, whose version 3 takes some tens of milliseconds more."""
    graphs = {version: multiplying(FACTORS[version]) for version in ("1", "2")}
    slow = multiplying(FACTORS["3"], least_turns=DEGRADED_TURNS)
    _write(folder / "doubler", {**graphs, "3": slow})
    return folder


def write_wide(folder: Path) -> Path:
    """Adds `wide` to a models folder: large requests with few rows."""
    _write(folder / "wide", {"1": multiplying(2.0, columns=WIDE_COLUMNS)}, columns=WIDE_COLUMNS)
    return folder


def write_ensemble(folder: Path) -> Path:
    """Adds `sixfold` to a models folder: version 1 of `doubler`, then version 2. The digest follows."""
    home = folder / "sixfold"
    home.mkdir()
    made = "made by tests/catalogue.py"
    stages = [
        {
            "name": name,
            "model": "doubler",
            "version": version,
            "inputs": {"x": x},
            "outputs": {"y": y},
        }
        for name, version, x, y in (
            ("doubling", "1", "x", "twice"),
            ("tripling", "2", "twice", "y"),
        )
    ]
    specification = _specification("sixfold", {}, COLUMNS) | {
        "stages": stages,
        "versions": [{"version": "1", "description": "x times 6", "provenance": made}],
    }
    (home / "model.yaml").write_text(yaml.safe_dump(specification))
    return folder


def _write(home: Path, graphs: dict[str, bytes], *, columns: int = COLUMNS) -> None:
    home.mkdir(parents=True)
    for version, content in graphs.items():
        (home / f"{version}.onnx").write_bytes(content)
    specification = _specification(home.name, graphs, columns)
    (home / "model.yaml").write_text(yaml.safe_dump(specification))


def multiplying(factor: float, *, columns: int = COLUMNS, least_turns: int = 0) -> bytes:
    """y = factor * x, after as many turns of an empty loop as the largest number in x, or more."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["again"], ["once_more"]),
            helper.make_node("Identity", ["before"], ["after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("once_more", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Cast", ["largest"], ["asked"], to=TensorProto.INT64),
        helper.make_node("Max", ["asked", "least"], ["turns"]),
        helper.make_node("Loop", ["turns", "", "x"], ["same"], body=body),
        helper.make_node("Mul", ["same", "factor"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", columns])],
        [
            numpy_helper.from_array(np.array(factor, dtype=np.float32), "factor"),
            numpy_helper.from_array(np.array(least_turns, dtype=np.int64), "least"),
        ],
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return bytes(model.SerializeToString(deterministic=True))


def _specification(model: str, graphs: dict[str, bytes], columns: int) -> dict[str, Any]:
    made = "made by tests/catalogue.py"
    return {
        "model": model,
        "owner": "tests",
        "description": "Multiplies.",
        "task": "arithmetic",
        "licence": "Apache-2.0",
        "source": made,
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, columns]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, columns]}],
        "versions": [
            {
                "version": version,
                "file": f"{version}.onnx",
                "sha256": hashlib.sha256(content).hexdigest(),
                "description": f"x times {FACTORS[version]:g}",
                "provenance": made,
            }
            for version, content in graphs.items()
        ],
    }
