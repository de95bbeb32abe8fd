"""Golden vectors, parity and definitions that are derived: what an inspection finds out by running."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.inference.golden import compare_golden
from serving.inference.reports import GoldenVector, InspectionReport
from tests.inference import graphs
from tests.specimens import MODEL, content_of, graph_of, look

DOUBLED: dict[str, Any] = {
    "inputs": [{"name": "input", "shape": [3, 2], "datatype": "FP32"}],
    "outputs": [{"name": "output", "shape": [3, 2], "datatype": "FP32"}],
}


def test_a_definition_is_derived_from_the_graph(tmp_path: Path) -> None:
    """Without a definition the version takes and answers what its graph declares."""
    found = look(tmp_path, {MODEL: graphs.doubling()}).definition
    assert found is not None
    assert [(t.name, t.datatype, t.shape) for t in (*found.inputs, *found.outputs)] == [
        ("input", "FP32", (-1, 2)),
        ("output", "FP32", (-1, 2)),
    ]
    assert found.batched


def test_costs_are_measured_for_each_batch_size(tmp_path: Path) -> None:
    """The report says what a batch of each size takes, up to the largest permitted."""
    costs = look(tmp_path, {MODEL: graphs.doubling()}).costs
    assert [cost.rows for cost in costs] == [1, 2, 4, 8, 12, 16, 24, 32]
    assert all(cost.seconds > 0 for cost in costs)


def test_rows_that_depend_on_their_neighbours_are_reported(tmp_path: Path) -> None:
    """A mean over the rows of a batch is found out."""
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["input", "mean"], ["output"]),
    ]
    axes = numpy_helper.from_array(np.array([0]), "axes")
    report = look(tmp_path, {MODEL: content_of(graph_of(nodes, initializers=[axes]))})
    assert (report.code, report.dependence) == ("", "its rows depend on their neighbours")


def test_ar_16_declared_shapes_that_are_not_true_are_found_by_running(tmp_path: Path) -> None:
    """A valid graph that answers another shape than it declares is rejected."""
    table = numpy_helper.from_array(np.array([0, 3], dtype=np.int64), "wanted")
    nodes = [
        helper.make_node("Concat", ["input", "input"], ["wide"], axis=1),
        helper.make_node("Shape", ["input"], ["shape"]),
        helper.make_node("Mul", ["shape", "ones"], ["same"]),
        helper.make_node("Reshape", ["input", "same"], ["output"]),
    ]
    ones = numpy_helper.from_array(np.array([1, 1], dtype=np.int64), "ones")
    lying = graph_of(nodes, initializers=[ones, table], answers=("rows", 3))
    report = look(tmp_path, {MODEL: content_of(lying)})
    assert report.code in ("warm_up", "invalid_model")


def test_ar_16_an_output_of_another_type_is_rejected(tmp_path: Path) -> None:
    """So is a declared datatype that the graph does not give."""
    model = graph_of([helper.make_node("Add", ["input", "input"], ["output"])])
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    assert look(tmp_path, {MODEL: content_of(model)}).code in ("invalid_model", "warm_up")


def test_ar_25_the_same_model_answers_its_golden_vectors(tmp_path: Path) -> None:
    """Nothing differs when nothing changed; another model's answers are named one by one."""
    before = look(tmp_path / "a", {MODEL: graphs.doubling()})
    again = look(tmp_path / "b", {MODEL: graphs.doubling()}, golden=before.golden)
    assert (again.code, again.differences) == ("", ())
    tripled = content_of(
        graph_of([helper.make_node("Sum", ["input", "input", "input"], ["output"])])
    )
    other = look(tmp_path / "c", {MODEL: tripled}, golden=before.golden)
    assert other.code == "answers_changed"
    assert any(text.startswith("drawn: output 'output' was") for text in other.differences)


def test_ar_25_an_answer_that_became_a_failure_is_a_difference(tmp_path: Path) -> None:
    """What was answered and fails now differs, and the other way round."""
    report = look(tmp_path, {MODEL: graphs.doubling()})
    assert report.definition is not None
    failed = tuple(GoldenVector(each.inputs, each.rows) for each in report.golden)
    texts = compare_golden(report.golden, failed, report.definition)
    assert texts[0] == "zeros: answered, and fails now"


def test_vectors_cover_zeros_drawn_rows_and_the_ends_of_the_range(tmp_path: Path) -> None:
    """NaN and infinities are tried as well where the version takes them."""
    report = look(tmp_path / "a", {MODEL: graphs.doubling()})
    assert [each.inputs for each in report.golden] == ["zeros", "drawn", "largest", "smallest"]
    assert report.definition is not None
    taking = replace(report.definition, finite_inputs=False)
    all_of = look(tmp_path / "b", {MODEL: graphs.doubling()}, definition=taking).golden
    assert [each.inputs for each in all_of][-2:] == ["nan", "infinity"]


def compared(folder: Path, name: str, content: bytes) -> InspectionReport:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return look(folder, {MODEL: graphs.doubling()}, parity=name)


def answers(*outputs: float | None) -> bytes:
    document = {**DOUBLED}
    data: list[float | None] = [1, 2, None, 4, 3.4e38, -1]
    document["inputs"] = [{**DOUBLED["inputs"][0], "data": data}]
    document["outputs"] = [{**DOUBLED["outputs"][0], "data": list(outputs)}]
    return json.dumps(document).encode()


def test_parity_compares_every_row_with_nan_and_boundary_values(tmp_path: Path) -> None:
    """Answers as the source model's pass, NaN equal to NaN and infinity to infinity."""
    inputs = np.array([[1, 2], [np.nan, 4], [3.4e38, -1]], np.float32)
    file = tmp_path / "given.npz"
    with np.errstate(over="ignore"):
        arrays: dict[str, Any] = {"input:input": inputs, "output:output": inputs * 2}
    np.savez(file, **arrays)
    report = compared(tmp_path / "a", "parity.npz", file.read_bytes())
    parity = report.parity
    assert parity is not None
    assert (report.code, parity.rows, parity.special, parity.differing) == ("", 3, 1, 0)


def test_parity_names_how_many_rows_differ(tmp_path: Path) -> None:
    """One number that differs rejects the version, with the size of the difference."""
    report = compared(tmp_path, "parity.json", answers(2, 4.5, None, 8, 6, -2))
    assert report.code == "parity"
    assert report.reason.startswith("2 of 3 rows differ from the source model's answers")


@pytest.mark.parametrize(
    "content",
    [b"not json", b"{}", answers(1, 2), answers(2, 4, None, 8, 6, -2).replace(b"FP32", b"INT7")],
)
def test_a_parity_file_that_cannot_be_read_rejects(content: bytes, tmp_path: Path) -> None:
    """Whoever sends answers to compare with gets them compared, or is told why not."""
    assert compared(tmp_path, "parity.json", content).code == "parity"


def test_ar_01_object_arrays_in_a_parity_file_are_not_unpickled(tmp_path: Path) -> None:
    """An archive of arrays may hold numbers only."""
    file = tmp_path / "given.npz"
    arrays: dict[str, Any] = {"input:input": np.array([print], dtype=object)}
    np.savez(file, **arrays)
    assert compared(tmp_path / "a", "parity.npz", file.read_bytes()).code == "parity"
