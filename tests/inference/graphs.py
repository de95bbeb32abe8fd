"""Small ONNX graphs for the tests of what runs models, and the version that goes with each."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from serving.core.models import Digest, ModelName, ModelVersion, VersionName
from serving.core.tensors import TensorSpecification

OPSETS = [helper.make_opsetid("", 18)]


def version_of(
    content: bytes,
    *,
    inputs: Sequence[TensorSpecification] = (TensorSpecification("input", "FP32", (-1, 2)),),
    outputs: Sequence[TensorSpecification] = (TensorSpecification("output", "FP32", (-1, 2)),),
) -> ModelVersion:
    """A version whose digest is that of `content`; by default input and output are FP32 [-1, 2]."""
    return ModelVersion(
        model=ModelName("model"),
        version=VersionName("1"),
        digest=Digest(hashlib.sha256(content).hexdigest()),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
    )


def doubling() -> bytes:
    """output = 2 * input, FP32 [rows, 2]."""
    return _model(
        [helper.make_node("Add", ["input", "input"], ["output"])],
        helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", 2]),
        helper.make_tensor_value_info("output", TensorProto.FLOAT, ["rows", 2]),
    )


def endless() -> bytes:
    """Returns its input, FP32 [rows, 2]; spins for ever when any number in it is above zero."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["again"], ["once_more"]),
            helper.make_node("Identity", ["before"], ["after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("index", TensorProto.INT64, []),
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("once_more", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("ReduceMax", ["input"], ["largest"], keepdims=0),
        helper.make_node("Greater", ["largest", "zero"], ["positive"]),
        helper.make_node("Loop", ["", "positive", "input"], ["output"], body=body),
    ]
    return _model(
        nodes,
        helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", 2]),
        helper.make_tensor_value_info("output", TensorProto.FLOAT, ["rows", 2]),
        numpy_helper.from_array(np.array(0, dtype=np.float32), "zero"),
    )


def lookup() -> bytes:
    """Rows of a table of two, chosen by INT64 [rows]: any other number makes the run fail."""
    return _model(
        [helper.make_node("Gather", ["table", "input"], ["output"])],
        helper.make_tensor_value_info("input", TensorProto.INT64, ["rows"]),
        helper.make_tensor_value_info("output", TensorProto.FLOAT, ["rows", 2]),
        numpy_helper.from_array(np.arange(4, dtype=np.float32).reshape(2, 2), "table"),
    )


def outside_weights(file_name: str) -> bytes:
    """output = input + weights, whose weights are in another file."""
    weights = TensorProto(
        name="weights",
        data_type=TensorProto.FLOAT,
        dims=[2],
        data_location=TensorProto.EXTERNAL,
    )
    weights.external_data.add(key="location", value=file_name)
    return _model(
        [helper.make_node("Add", ["input", "weights"], ["output"])],
        helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", 2]),
        helper.make_tensor_value_info("output", TensorProto.FLOAT, ["rows", 2]),
        weights,
    )


def of_rows(
    *nodes: NodeProto,
    columns: int | str = 2,
    datatype: int = TensorProto.FLOAT,
    weights: Sequence[TensorProto] = (),
) -> bytes:
    """A graph from `input` to `output`, both [rows, columns] of one datatype."""
    return _model(
        list(nodes),
        helper.make_tensor_value_info("input", datatype, ["rows", columns]),
        helper.make_tensor_value_info("output", datatype, ["rows", columns]),
        *weights,
    )


def shares() -> bytes:
    """Each number as a share of its row's sum over what `mask` lets through; all [rows, length]."""
    nodes = [
        helper.make_node("Mul", ["input", "mask"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "columns"], ["sum"], keepdims=1),
        helper.make_node("Div", ["masked", "sum"], ["output"]),
    ]
    tensors = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", "length"])
        for name in ("input", "mask", "output")
    }
    columns = numpy_helper.from_array(np.array([1]), "columns")
    graph = helper.make_graph(
        nodes, "graph", [tensors["input"], tensors["mask"]], [tensors["output"]], [columns]
    )
    model = helper.make_model(graph, opset_imports=OPSETS, ir_version=9)
    return bytes(model.SerializeToString(deterministic=True))


def whole(
    *nodes: NodeProto,
    shape: Sequence[int | str],
    result: Sequence[int | str] | None,
    datatype: int = TensorProto.FLOAT,
    names: tuple[str, str] = ("input", "output"),
) -> bytes:
    """A graph from one tensor to another in shapes as given; None: of unknown rank."""
    return _model(
        list(nodes),
        helper.make_tensor_value_info(names[0], datatype, shape),
        helper.make_tensor_value_info(names[1], datatype, result),
    )


def write(folder: Path, content: bytes) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(content)
    return path


def _model(
    nodes: list[NodeProto], source: ValueInfoProto, result: ValueInfoProto, *weights: TensorProto
) -> bytes:
    graph = helper.make_graph(nodes, "graph", [source], [result], list(weights))
    model = helper.make_model(graph, opset_imports=OPSETS, ir_version=9)
    return bytes(model.SerializeToString(deterministic=True))
