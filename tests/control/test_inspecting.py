"""AR-12 to AR-14: what an artifact does to its inspection is done to a process that is thrown away."""

import resource
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from serving.artifact_settings import ArtifactSettings
from serving.control.inspecting import InspectionStopped, Inspector, Specimen
from tests.inference import graphs
from tests.places import wait_until
from tests.specimens import MODEL, content_of, digests_of, graph_of, inspect

HUGE = 2**38


def _numbers(name: str, *values: int) -> Any:
    return numpy_helper.from_array(np.array(values, dtype=np.int64), name)


def _bomb(nodes: Sequence[Any], *held: Any) -> bytes:
    """A small file whose output needs far more memory than anybody has."""
    last = helper.make_node("Add", ["input", "part"], ["output"])
    return content_of(graph_of([*nodes, last], initializers=held))


def _first_of(name: str) -> Any:
    """One number of a tensor that is much too large."""
    return helper.make_node("ReduceMax", [name], ["part"], keepdims=0)


NUMBERS_AT_RUN = [
    helper.make_node("Size", ["input"], ["size"]),
    helper.make_node("Mul", ["size", "huge"], ["many"]),
    helper.make_node("Unsqueeze", ["many", "zero"], ["shape"]),
]
BOMBS = {
    "constant folding": _bomb(
        [helper.make_node("ConstantOfShape", ["shape"], ["large"]), _first_of("large")],
        _numbers("shape", HUGE),
    ),
    "ConstantOfShape": _bomb(
        [*NUMBERS_AT_RUN, helper.make_node("ConstantOfShape", ["shape"], ["l"]), _first_of("l")],
        numpy_helper.from_array(np.array(HUGE), "huge"),
        _numbers("zero", 0),
    ),
    "Expand": _bomb(
        [
            *NUMBERS_AT_RUN,
            helper.make_node("Expand", ["one", "shape"], ["l"]),
            _first_of("l"),
        ],
        numpy_helper.from_array(np.array(HUGE), "huge"),
        _numbers("zero", 0),
        numpy_helper.from_array(np.array([1], dtype=np.float32), "one"),
    ),
    "Tile": _bomb(
        [*NUMBERS_AT_RUN, helper.make_node("Tile", ["one", "shape"], ["l"]), _first_of("l")],
        numpy_helper.from_array(np.array(HUGE), "huge"),
        _numbers("zero", 0),
        numpy_helper.from_array(np.array([1], dtype=np.float32), "one"),
    ),
    "Range": _bomb(
        [
            *NUMBERS_AT_RUN[:2],
            helper.make_node("Range", ["none", "many", "step"], ["l"]),
            helper.make_node("ReduceMax", ["l"], ["whole"], keepdims=0),
            helper.make_node("Cast", ["whole"], ["part"], to=1),
        ],
        numpy_helper.from_array(np.array(HUGE), "huge"),
        numpy_helper.from_array(np.array(0), "none"),
        numpy_helper.from_array(np.array(1), "step"),
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_ar_12_a_memory_bomb_is_rejected_and_costs_the_parent_nothing(
    name: str, tmp_path: Path
) -> None:
    """A file of some hundred bytes that wants a terabyte ends at the limit of its own process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = inspect(tmp_path, {MODEL: BOMBS[name]})
    assert report.code in ("out_of_memory", "warm_up", "crashed"), report
    assert len(BOMBS[name]) < 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024


def test_ar_12_memory_that_is_taken_is_bounded(tmp_path: Path) -> None:
    """Four GiB, which a machine may well have, are above what the artifact may take."""
    four_gib = _bomb(
        [helper.make_node("ConstantOfShape", ["shape"], ["large"]), _first_of("large")],
        _numbers("shape", 2**30),
    )
    report = inspect(tmp_path, {MODEL: four_gib})
    assert report.code in ("out_of_memory", "warm_up")
    assert report.peak_memory_bytes < 1.5 * 2**30


def test_ar_13_a_model_that_never_ends_is_killed_at_the_time_limit(tmp_path: Path) -> None:
    """An endless loop costs the time limit, and the report says what it was at."""
    stages = []
    for limit_s in (2.5, 10.0, 40.0):
        report = inspect(tmp_path, {MODEL: graphs.endless()}, inspection_s=limit_s)
        assert (report.code, f"after {limit_s:g} s" in report.reason) == ("out_of_time", True)
        stages.append(report.stage)
        if report.stage:  # A process that gives way to all others may not have begun by then.
            break
    assert stages[-1]


def test_ar_13_one_input_that_takes_too_long_has_no_answer(tmp_path: Path) -> None:
    """A loop that never ends for the largest number is ended there, and answers the rest."""
    model = onnx.ModelProto.FromString(graphs.endless())
    threshold = numpy_helper.from_array(np.array(1e30, dtype=np.float32), "zero")
    model.graph.initializer[0].CopyFrom(threshold)
    report = inspect(tmp_path, {MODEL: content_of(model)})
    answered = {each.inputs: bool(each.answers) for each in report.golden}
    assert (report.code, answered) == (
        "",
        {"zeros": True, "drawn": True, "largest": False, "smallest": True},
    )


@pytest.mark.parametrize("depth", [50, 100, 3_000])
def test_ar_14_deep_chains_of_functions_load_or_are_refused(depth: int, tmp_path: Path) -> None:
    """Whatever the runtime makes of a chain, a crash included, is a report."""
    opset = helper.make_opsetid("", 18)
    own = helper.make_opsetid("own", 1)
    functions = [
        helper.make_function(
            "own",
            f"f{index}",
            ["x"],
            ["y"],
            [
                helper.make_node("Add", ["x", "x"], ["y"])
                if index == depth - 1
                else helper.make_node(f"f{index + 1}", ["x"], ["y"], domain="own")
            ],
            [opset, own],
        )
        for index in range(depth)
    ]
    call = helper.make_node("f0", ["input"], ["output"], domain="own")
    chain = content_of(graph_of([call], functions=functions, domains=("own",)))
    report = inspect(tmp_path, {MODEL: chain})
    assert report.code in ("", "invalid_model", "crashed")
    assert (report.code == "") == (depth <= 100)


def test_a_report_comes_from_a_process_with_limits_and_nothing_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Secrets of our environment do not reach the process, and a sound model passes there."""
    monkeypatch.setenv("SERVING_TOKEN", "secret")
    monkeypatch.setenv("PYTHONSTARTUP", "/nonexistent")
    report = inspect(tmp_path, {MODEL: graphs.doubling()})
    assert (report.code, report.runtime.split()[0]) == ("", "onnxruntime")


def test_stopping_ends_the_inspection_in_progress(tmp_path: Path) -> None:
    """When the product stops, nobody waits for a model that never ends, and nothing stays."""
    files = {MODEL: graphs.endless()}
    specimen = Specimen("m", "1", digests_of(files), {MODEL: partial(iter, (files[MODEL],))})
    inspector = Inspector(tmp_path / "inspections", ArtifactSettings())
    ended: list[BaseException] = []

    def run() -> None:
        try:
            inspector.inspect(specimen)
        except InspectionStopped as stopped:
            ended.append(stopped)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: list((tmp_path / "inspections").glob("*/stage")))
    inspector.stop()
    thread.join(10)
    assert len(ended) == 1
    assert list((tmp_path / "inspections").iterdir()) == []
