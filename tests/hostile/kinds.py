"""`kinds`: a model that answers what it is asked, one tensor of every datatype that JSON can hold.

Its tensors have names that a careless gateway would trip over. NaN and infinities are allowed.
"""

import hashlib
from pathlib import Path
from typing import Any, Final

import yaml
from onnx import TensorProto, helper

from tests.edge.port import tensor

ONNX_TYPES: Final = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
KINDS: Final = "/v2/models/kinds/infer"


def name_of(datatype: str) -> str:
    """What the input of this datatype is called."""
    return f"{datatype.lower()}/../in:0 \u00e9"


def answer_of(datatype: str) -> str:
    """What the output of this datatype is called."""
    return f"{datatype.lower()}/out:0 \u00e9"


def kinds(rows: int = 1, **changes: Any) -> dict[str, Any]:
    """A request with `rows` rows. changes: other data, by datatype."""
    data = {kind: changes.get(kind, [_ordinary(kind)] * rows) for kind in ONNX_TYPES}
    inputs = [tensor(name_of(kind), kind, [rows], values) for kind, values in data.items()]
    return {"inputs": inputs}


def _ordinary(datatype: str) -> Any:
    return {"BOOL": True, "BYTES": "a"}.get(datatype, 1)


def write_kinds(folder: Path) -> Path:
    """Adds `kinds` to a models folder."""
    home = folder / "kinds"
    home.mkdir()
    content = _graph()
    (home / "1.onnx").write_bytes(content)
    (home / "model.yaml").write_text(yaml.safe_dump(_specification(content)))
    return folder


def _graph() -> bytes:
    def described(name: str, kind: int) -> Any:
        return helper.make_tensor_value_info(name, kind, ["rows"])

    graph = helper.make_graph(
        [helper.make_node("Identity", [name_of(kind)], [answer_of(kind)]) for kind in ONNX_TYPES],
        "graph",
        [described(name_of(kind), number) for kind, number in ONNX_TYPES.items()],
        [described(answer_of(kind), number) for kind, number in ONNX_TYPES.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return bytes(model.SerializeToString(deterministic=True))


def _specification(content: bytes) -> dict[str, Any]:
    def declared(name: str, kind: str) -> dict[str, Any]:
        return {"name": name, "datatype": kind, "shape": [-1]}

    return {
        "model": "kinds",
        "owner": "tests",
        "description": "Answers what it is asked.",
        "task": "identity",
        "licence": "Apache-2.0",
        "source": "made by tests/hostile/kinds.py",
        "finite_inputs": False,
        "inputs": [declared(name_of(kind), kind) for kind in ONNX_TYPES],
        "outputs": [declared(answer_of(kind), kind) for kind in ONNX_TYPES],
        "versions": [
            {
                "version": "1",
                "file": "1.onnx",
                "sha256": hashlib.sha256(content).hexdigest(),
                "description": "identity",
                "provenance": "made by tests/hostile/kinds.py",
            }
        ],
    }
