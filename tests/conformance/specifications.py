"""What the owner of a test case's model would write into its `model.yaml`."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from onnx import TensorProto, ValueInfoProto

from serving.registry.folder import CatalogueEntry, load_catalogue
from tests.conformance.cases import Case

DATATYPES: Final[dict[int, str]] = {
    TensorProto.BOOL: "BOOL",
    TensorProto.UINT8: "UINT8",
    TensorProto.UINT16: "UINT16",
    TensorProto.UINT32: "UINT32",
    TensorProto.UINT64: "UINT64",
    TensorProto.INT8: "INT8",
    TensorProto.INT16: "INT16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.FLOAT16: "FP16",
    TensorProto.FLOAT: "FP32",
    TensorProto.DOUBLE: "FP64",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.STRING: "BYTES",
}
PLACEHOLDER: Final = "FP32"
"""Declared for what the protocol has no datatype for: the product must notice."""


def unservable(case: Case) -> str:
    """Why the protocol cannot carry a case's values; empty when it can."""
    if not case.inputs:
        return "the model takes no input"
    for each in (*case.inputs, *case.outputs):
        kind = each.type.WhichOneof("value")
        if kind != "tensor_type":
            return f"{kind.removesuffix('_type')} value"
        if each.type.tensor_type.elem_type not in DATATYPES:
            name = TensorProto.DataType.Name(each.type.tensor_type.elem_type)
            return f"the protocol has no {name}"
    return ""


def write(folder: Path, case: Case) -> None:
    """Writes the model's folder into `folder`."""
    home = folder / model_name(case)
    home.mkdir(parents=True)
    content = case.model.SerializeToString()
    (home / "1.onnx").write_bytes(content)
    inputs, outputs = case.data_sets[0]
    specification = {
        "model": model_name(case),
        "owner": "onnx",
        "description": f"{case.name} of the onnx package.",
        "task": "conformance",
        "licence": "Apache-2.0",
        "source": "onnx.backend.test",
        "inputs": _tensors(case.inputs, inputs),
        "outputs": _tensors(case.outputs, outputs),
        "batched": False,
        "finite_inputs": False,
        "versions": [
            {
                "version": "1",
                "file": "1.onnx",
                "sha256": hashlib.sha256(content).hexdigest(),
                "description": case.name,
                "provenance": "onnx.backend.test",
            }
        ],
    }
    (home / "model.yaml").write_text(yaml.dump(specification, Dumper=yaml.CSafeDumper))


def entry(folder: Path, case: Case) -> CatalogueEntry:
    """The catalogue's entry for a case that was written into a folder of its own."""
    return load_catalogue(folder).entry(model_name(case), "1")


def model_name(case: Case) -> str:
    """A permitted name that no other case has: some differ late, or in case alone."""
    digits = hashlib.sha256(case.name.encode()).hexdigest()[:8]
    return f"{digits}-{case.name}".lower()[:63]


def _tensors(declared: Sequence[ValueInfoProto], values: Sequence[Any]) -> list[dict[str, Any]]:
    return [
        {"name": each.name, "datatype": _datatype(each), "shape": _shape(each, value)}
        for each, value in zip(declared, values, strict=False)
    ]


def _datatype(declared: ValueInfoProto) -> str:
    return DATATYPES.get(declared.type.tensor_type.elem_type, PLACEHOLDER)


def _shape(declared: ValueInfoProto, value: Any) -> list[int]:
    """The declared shape, -1 where it is open; of the rank of `value` where nothing is declared."""
    tensor = declared.type.tensor_type
    if tensor.HasField("shape"):
        return [each.dim_value if each.HasField("dim_value") else -1 for each in tensor.shape.dim]
    return [-1] * (value.ndim if isinstance(value, np.ndarray) else 1)
