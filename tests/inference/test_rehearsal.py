import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from structlog.testing import capture_logs

from serving.core.batches import RowBatch, TensorBlock
from serving.core.models import BatchLimits, ModelVersion, Padding
from serving.core.tensors import Array, TensorSpecification
from serving.engine_settings import InferenceSettings
from serving.errors import ArtifactInvalid, ModelFailed
from serving.inference.dependence import DEPENDS
from serving.inference.rehearsal import NOT_BATCHED
from serving.inference.session import OnnxSession
from serving.registry.folder import DEFAULT_MODELS_DIR, load_catalogue
from tests.inference import graphs
from tests.inference.replicas import VERSION, World
from tests.inference.runners import FunctionRunner, double
from tests.releases import bundle_of

WHOLE = replace(
    VERSION,
    inputs=(TensorSpecification("x", "FP32", (3,), batched=False),),
    outputs=(TensorSpecification("y", "FP32", (), batched=False),),
    batched=False,
)
LENGTHS = replace(
    VERSION,
    inputs=(TensorSpecification("x", "FP32", (-1, -1)),),
    outputs=(TensorSpecification("y", "FP32", (-1, -1)),),
    padding=Padding((4, 8), (("x", 0),), ("y",)),
    batching=BatchLimits(8),
)


def centred(inputs: Sequence[Array]) -> list[Array]:
    """Each row less the mean of all rows."""
    return [inputs[0] - inputs[0].mean(axis=0, keepdims=True)]


def total(inputs: Sequence[Array]) -> list[Array]:
    """The sum of a whole tensor, as a session gives it: one row of rank 0."""
    if len(inputs[0]) != 1:
        raise ModelFailed("more than one whole")
    return [inputs[0].sum(axis=1)]


def ask(peer_of: World, version: ModelVersion, *arrays: Array) -> list[Array]:
    """Sends each array as a frame of its own, at once; the outputs in the same order."""
    peer = peer_of.connect(version)
    for frame_id, array in enumerate(arrays):
        batch = RowBatch(version.digest, len(array), (TensorBlock.of(array),))
        peer.send(frame_id, batch)
    answers = dict(peer.answer() for _ in arrays)
    return [answers[frame_id].outputs[0].array(len(array)) for frame_id, array in enumerate(arrays)]


def test_dependent_rows_are_run_alone_and_it_is_said_once(world: World) -> None:
    """A model whose rows depend on each other gives each row the answer that it has alone."""
    runner = FunctionRunner(VERSION, centred)
    listener = world.build(runner)
    with capture_logs() as logs:
        listener.warm_up()
    listener.start()
    rows = np.array([[1, 2], [30, 40]], np.float32)

    outputs = ask(world, VERSION, rows)
    statistics = listener.statistics()
    listener.stop()

    assert outputs[0].tolist() == [[0, 0], [0, 0]]
    assert (statistics.alone, statistics.best_batch_size) == (DEPENDS, 1)
    assert [each["reason"] for each in logs] == [DEPENDS]


def test_whole_tensors_are_served_one_by_one(world: World) -> None:
    """Frames of several wholes of an unbatched version are several runs, and it is said why."""
    listener = world.listen(FunctionRunner(WHOLE, total))
    rows = np.array([[1, 2, 3], [4, 5, 6]], np.float32)

    outputs = ask(world, WHOLE, rows)

    assert outputs[0].tolist() == [6, 15]
    assert listener.statistics().alone == NOT_BATCHED


def test_a_whole_for_which_zeros_are_no_value_is_served(world: World) -> None:
    """That zeros fail proves nothing of a model that takes sizes or axes: it is loaded and healthy."""

    def picky(inputs: Sequence[Array]) -> list[Array]:
        if not inputs[0].any():
            raise ModelFailed("zeros")
        return total(inputs)

    listener = world.build(FunctionRunner(WHOLE, picky))
    listener.warm_up()
    listener.start()
    listener.check()

    outputs = ask(world, WHOLE, np.array([[1, 2, 3]], np.float32))
    listener.stop()

    assert outputs[0].tolist() == [6]


@pytest.mark.parametrize(
    "function",
    [
        lambda inputs: [inputs[0][:, :1]],
        lambda inputs: [inputs[0].mean(axis=0, keepdims=True)],
        lambda inputs: [inputs[0].astype(np.float64)],
    ],
    ids=["shape", "rows", "datatype"],
)
def test_another_form_than_declared_is_refused(world: World, function: object) -> None:
    """A batched version that does not answer rows one for one does not start, and says why."""
    with pytest.raises(ArtifactInvalid, match="batched: false"):
        world.build(FunctionRunner(VERSION, function)).warm_up()  # type: ignore[arg-type]  # lambdas


def test_rows_of_different_lengths_are_padded_and_cut(world: World) -> None:
    """Frames of one bucket meet in one batch, and each comes back in its own length."""
    runner = FunctionRunner(LENGTHS)
    listener = world.build(runner)
    listener.warm_up()
    runner.batches.clear()
    listener.start()
    lengths = (3, 4, 7, 9)
    sent = [np.full((1, length), length, np.float32) for length in lengths]

    outputs = ask(world, LENGTHS, *sent)
    listener.stop()

    assert [output.tolist() for output in outputs] == [(2 * array).tolist() for array in sent]
    assert {batch.shape[1] for batch in runner.batches} == {4, 8, 9}


def test_padding_that_would_show_is_not_done(world: World) -> None:
    """A model that looks at its padding gets every row in its own length."""

    def normalised(inputs: Sequence[Array]) -> list[Array]:
        return [inputs[0] / inputs[0].shape[1]]

    runner = FunctionRunner(LENGTHS, normalised)
    listener = world.build(runner)
    listener.warm_up()
    runner.batches.clear()
    listener.start()

    outputs = ask(world, LENGTHS, np.full((1, 3), 6, np.float32))
    listener.stop()

    assert outputs[0].tolist() == [[2, 2, 2]]
    assert [batch.shape for batch in runner.batches] == [(1, 3)]


def test_sizes_are_learned_per_bucket(world: World) -> None:
    """Every bucket is run in several sizes before the first frame."""
    runner = FunctionRunner(LENGTHS, double)
    world.build(runner).warm_up()

    shapes = {batch.shape for batch in runner.batches}

    assert {(rows, length) for rows in (1, 2, 4, 8) for length in (4, 8)} <= shapes


def test_a_real_model_is_padded_and_nobody_notices(tmp_path: Path) -> None:
    """The sentence model answers a batch of padded sentences as it answers each by itself."""
    folder = DEFAULT_MODELS_DIR / "sentence-embedding"
    if not (folder / "1.onnx").exists():
        pytest.skip("its artifact has not been fetched")
    entry = load_catalogue(DEFAULT_MODELS_DIR).entry("sentence-embedding", "1")
    padding = replace(entry.version.padding or Padding((), ()), buckets=(16, 32))
    version = replace(entry.version, padding=padding, batching=BatchLimits(4))
    session = OnnxSession.load(
        version, bundle_of(entry.artifact), settings=InferenceSettings(device="cpu")
    )
    sample = json.loads((folder / "samples" / "request.json").read_text())
    tokens = np.array(sample["inputs"][0]["data"])[:12]
    sentences = [tokens[np.newaxis, :length] for length in (5, 12)]
    inputs = [[s, np.ones_like(s), np.zeros_like(s)] for s in sentences]
    world = World(tmp_path)
    listener = world.build(session)
    listener.warm_up()
    listener.start()
    peer = world.connect(version)
    for frame_id, arrays in enumerate(inputs):
        blocks = tuple(TensorBlock.of(array) for array in arrays)
        peer.send(frame_id, RowBatch(version.digest, 1, blocks))

    answers = dict(peer.answer() for _ in inputs)
    listener.stop()
    world.close()

    assert listener.statistics().alone == ""
    for frame_id, arrays in enumerate(inputs):
        alone = session.run(arrays)[0]
        output = answers[frame_id].outputs[0].array(1)
        assert output.shape == alone.shape
        assert np.allclose(output, alone, rtol=0, atol=1e-5)


def test_a_generated_mask_reaches_the_model(world: World, tmp_path: Path) -> None:
    """A mask that callers do not send is fed to the model in the form it wants."""
    nodes = [
        helper.make_node("Cast", ["mask"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["input", "numbers"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "columns"], ["sum"], keepdims=1),
        helper.make_node("Div", ["masked", "sum"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [
            helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", "length"]),
            helper.make_tensor_value_info("mask", TensorProto.INT32, ["rows", "length"]),
        ],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["rows", "length"])],
        [numpy_helper.from_array(np.array([1]), "columns")],
    )
    model = helper.make_model(graph, opset_imports=graphs.OPSETS, ir_version=9)
    content = model.SerializeToString()
    tensors = [TensorSpecification(name, "FP32", (-1, -1)) for name in ("input", "output")]
    mask = TensorSpecification("mask", "INT32", (-1, -1))
    version = replace(
        graphs.version_of(content, inputs=tensors[:1], outputs=tensors[1:]),
        padding=Padding((4,), (("input", 9),), ("output",), mask),
        batching=BatchLimits(4),
    )
    artifact = graphs.write(tmp_path, content)
    session = OnnxSession.load(
        version, bundle_of(artifact), settings=InferenceSettings(device="cpu")
    )
    listener = world.build(session)
    listener.warm_up()
    listener.start()

    outputs = ask(world, version, np.array([[1, 3]], np.float32), np.ones((1, 5), np.float32))
    listener.stop()

    assert outputs[0].tolist() == [[0.25, 0.75]]
    assert outputs[1][0].tolist() == pytest.approx([0.2] * 5)
