"""The definition of a version as its graph declares it, for an author who wrote none.

A dimension with a name or without a size may vary. Where every tensor varies in its first dimension,
that dimension is taken to count rows; whether rows are independent of each other is tried afterwards.
"""

from collections.abc import Sequence
from typing import Any, Final

from onnx import TensorProto

from serving.core.models import Digest, ModelName, ModelVersion, VersionName
from serving.core.tensors import MAX_RANK, TensorSpecification
from serving.inference.reports import Rejected

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


def derive(model: Any, *, name: str, version: str, digest: str) -> ModelVersion:
    """Raises Rejected for what no definition can be made of."""
    held = {each.name for each in model.graph.initializer}
    inputs = [_tensor(each) for each in model.graph.input if each.name not in held]
    outputs = [_tensor(each) for each in model.graph.output]
    if not inputs or not outputs:
        raise Rejected("signature", "it takes nothing, or answers nothing")
    batched = all(shape[:1] == (-1,) for _, _, shape in (*inputs, *outputs))
    return ModelVersion(
        model=ModelName(name),
        version=VersionName(version),
        digest=Digest(digest),
        inputs=_specified(inputs, batched=batched),
        outputs=_specified(outputs, batched=batched),
        batched=batched,
    )


def _specified(
    tensors: Sequence[tuple[str, str, tuple[int, ...]]], *, batched: bool
) -> tuple[TensorSpecification, ...]:
    return tuple(
        TensorSpecification(name, datatype, shape, "", batched) for name, datatype, shape in tensors
    )


def _tensor(value: Any) -> tuple[str, str, tuple[int, ...]]:
    """Name, datatype and shape of an input or output."""
    kind = value.type.tensor_type
    named = value.name[:80]
    if not value.type.HasField("tensor_type") or kind.elem_type not in DATATYPES:
        raise Rejected("signature", f"{named!r} is no tensor of a datatype that is served")
    if not kind.HasField("shape"):
        raise Rejected("signature", f"{named!r} has no declared rank: send a definition")
    shape = tuple(each.dim_value or -1 for each in kind.shape.dim)
    if len(shape) > MAX_RANK or any(size < -1 for size in shape):
        raise Rejected("signature", f"{named!r} has a shape that is not served")
    return value.name, DATATYPES[kind.elem_type], shape
