from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from serving.core.models import ModelVersion, Padding
from serving.core.tensors import Array, TensorSpecification
from serving.engine_settings import InferenceSettings
from serving.errors import ModelFailed, OutputInvalid
from serving.inference.dependence import DEPENDS, VARIES, find_dependence, padding_shows
from serving.inference.padding import Padder
from serving.inference.session import OnnxSession
from tests.inference import graphs
from tests.inference.replicas import VERSION
from tests.releases import bundle_of

Verdict = Callable[..., str]

QUANTISED = (
    helper.make_node("DynamicQuantizeLinear", ["input"], ["small", "scale", "zero"]),
    helper.make_node("DequantizeLinear", ["small", "scale", "zero"], ["output"]),
)
NORMALISED = (
    helper.make_node(
        "BatchNormalization",
        ["input", "one", "nothing", "nothing", "one"],
        ["output", "mean", "variance"],
        training_mode=1,
    ),
)
CENTRED = (
    helper.make_node("ReduceMean", ["input", "rows"], ["mean"], keepdims=1),
    helper.make_node("Sub", ["input", "mean"], ["output"]),
)
SHARED = (helper.make_node("Softmax", ["input"], ["output"], axis=0),)
SUMMED = (helper.make_node("CumSum", ["input", "first"], ["output"]),)
NOISY = (
    helper.make_node("RandomNormalLike", ["input"], ["noise"]),
    helper.make_node("Add", ["input", "noise"], ["output"]),
)
WEIGHTS = (
    numpy_helper.from_array(np.ones(2, np.float32), "one"),
    numpy_helper.from_array(np.zeros(2, np.float32), "nothing"),
    numpy_helper.from_array(np.array([0]), "rows"),
    numpy_helper.from_array(np.array(0), "first"),
)


def load(folder: Path, content: bytes, version: ModelVersion | None = None) -> OnnxSession:
    artifact = graphs.write(folder, content)
    version = version or graphs.version_of(content)
    return OnnxSession.load(version, bundle_of(artifact), settings=InferenceSettings(device="cpu"))


def used(nodes: Sequence[NodeProto]) -> list[TensorProto]:
    """The weights that these nodes take."""
    taken = {name for node in nodes for name in node.input}
    return [weight for weight in WEIGHTS if weight.name in taken]


@pytest.mark.parametrize(
    ("nodes", "reasons"),
    [
        (QUANTISED, {DEPENDS}),
        (NORMALISED, {DEPENDS, VARIES}),  # of one row alone the variance is what it happens to be
        (CENTRED, {DEPENDS}),
        (SHARED, {DEPENDS}),
        (SUMMED, {DEPENDS}),
        (NOISY, {VARIES}),
    ],
    ids=["dynamic-quantisation", "batch-norm", "mean", "softmax", "cumulative", "random"],
)
def test_rows_that_depend_are_found(
    tmp_path: Path, nodes: Sequence[NodeProto], reasons: set[str]
) -> None:
    """What is computed over the rows of a batch, or drawn at random, shows when rows are tried."""
    session = load(tmp_path, graphs.of_rows(*nodes, weights=used(nodes)))

    assert find_dependence(session.run, session.version) in reasons


def test_rounding_is_no_dependence(tmp_path: Path) -> None:
    """A matrix product over many terms rounds differently in a larger batch: that is tolerated."""
    numbers = np.random.default_rng(5).standard_normal((512, 512)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["input", "weights"], ["inner"]),
        helper.make_node("MatMul", ["inner", "weights"], ["output"]),
    ]
    weights = [numpy_helper.from_array(numbers, "weights")]
    content = graphs.of_rows(*nodes, columns=512, weights=weights)
    tensors = [TensorSpecification(name, "FP32", (-1, 512)) for name in ("input", "output")]
    version = graphs.version_of(content, inputs=tensors[:1], outputs=tensors[1:])

    session = load(tmp_path, content, version)

    assert find_dependence(session.run, version) == ""


def test_small_indices_are_found_by_trying(tmp_path: Path) -> None:
    """A model that takes only 0 and 1 is tried with these, and found independent."""
    content = graphs.lookup()
    version = graphs.version_of(content, inputs=[TensorSpecification("input", "INT64", (-1,))])
    session = load(tmp_path, content, version)
    tried: list[Array] = []

    def run(inputs: Sequence[Array]) -> list[Array]:
        outputs = session.run(inputs)
        tried.append(inputs[0])
        return outputs

    assert find_dependence(run, version) == ""
    assert {0, 1} == set(np.concatenate(tried).tolist())


def test_rows_that_run_only_alone_are_left_to_bisection() -> None:
    """A model that fails on two rows has no wrong answer to give."""

    def alone(inputs: Sequence[Array]) -> list[Array]:
        if len(inputs[0]) > 1:
            raise ModelFailed("two")
        return [inputs[0]]

    assert find_dependence(alone, VERSION) == ""


def test_outputs_that_do_not_count_rows_are_refused() -> None:
    """One row for four is nobody's answer."""
    with pytest.raises(OutputInvalid):
        find_dependence(lambda inputs: [inputs[0].mean(axis=0, keepdims=True)], VERSION)


@pytest.mark.parametrize("masked", [True, False])
def test_padding_that_shows_is_found(tmp_path: Path, masked: bool) -> None:
    """Shares of a row's sum stay what they are when the mask keeps padding out, and only then."""
    content = graphs.shares()
    varying = [TensorSpecification(name, "FP32", (-1, -1)) for name in ("input", "mask", "output")]
    rule = Padding((4, 8), (("input", 7), ("mask", 0 if masked else 1)), ("output",))
    version = graphs.version_of(content, inputs=varying[:2], outputs=varying[2:])
    version = replace(version, padding=rule)
    session = load(tmp_path, content, version)

    assert padding_shows(session.run, version, Padder(version)) is not masked
