"""Whether an ONNX model is what its specification says: names, datatypes, ranks, dimensions.

A model is refused at load, with every difference named, rather than at the first request:

- a sequence, map, optional or sparse value is no tensor and cannot travel in the protocol;
- dimension 0 must be free in every input and output, or requests could not be batched;
- a dimension that the model fixes must be the declared one; a free dimension may be declared fixed,
  which only narrows what callers may send.

ONNX Runtime reports an output of unknown rank as having no dimensions. Such an output passes here:
its answers are checked against the specification one by one.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from serving.core.models import ModelVersion
from serving.core.tensors import TensorSpecification
from serving.errors import ArtifactInvalid

DATATYPES: Final = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
}
"""ONNX Runtime's name of a type to the protocol's."""

CONTAINERS: Final = (
    ("seq(map(", "a sequence of maps (a classifier converted without `zipmap=False`)"),
    ("seq(", "a sequence"),
    ("map(", "a map"),
    ("optional(", "an optional value"),
    ("sparse_tensor(", "a sparse tensor"),
)
"""How ONNX Runtime's names of other types start; the first that fits wins."""


class Node(Protocol):
    """An input or output as ONNX Runtime describes it. shape: int where fixed, else str or None."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def shape(self) -> Sequence[int | str | None]: ...


def check_signature(
    version: ModelVersion, *, inputs: Sequence[Node], outputs: Sequence[Node]
) -> None:
    """Raises ArtifactInvalid that names every difference between the model and `version`."""
    found = [
        *_differences("input", version.inputs, inputs),
        *_differences("output", version.outputs, outputs),
    ]
    if found:
        raise ArtifactInvalid(
            f"{version.key} is not what its specification says: {'; '.join(found)}"
        )


def _differences(
    kind: str, declared: Sequence[TensorSpecification], nodes: Sequence[Node]
) -> list[str]:
    tensors = {tensor.name: tensor for tensor in declared}
    missing = sorted(set(tensors) - {node.name for node in nodes})
    found = [f"the model has no {kind} {name!r}" for name in missing]
    for node in nodes:
        tensor = tensors.get(node.name)
        texts = [*_type_differences(tensor, node)]
        if tensor is not None and (node.shape or kind == "input"):
            texts += _shape_differences(tensor, node.shape)
        found += [f"{kind} {node.name!r} {text}" for text in texts]
    return found


def _type_differences(tensor: TensorSpecification | None, node: Node) -> Iterator[str]:
    container = next((text for start, text in CONTAINERS if node.type.startswith(start)), None)
    if container is not None:
        yield f"is {container}, not a tensor"
    if tensor is None:
        yield "is not declared"
    elif container is None and DATATYPES.get(node.type) is None:
        yield f"is a {node.type}, which is not served"
    elif container is None and DATATYPES[node.type] != tensor.datatype:
        yield f"is {DATATYPES[node.type]} in the model, {tensor.datatype} in the specification"


def _shape_differences(
    tensor: TensorSpecification, shape: Sequence[int | str | None]
) -> Iterator[str]:
    if not shape:
        yield "has no dimension that counts rows"
    elif len(shape) != len(tensor.shape):
        yield f"has rank {len(shape)} in the model, {len(tensor.shape)} in the specification"
    else:
        if isinstance(shape[0], int):
            yield f"has its rows fixed at {shape[0]}, so it cannot be batched"
        for axis, (fixed, declared) in enumerate(zip(shape[1:], tensor.shape[1:], strict=True), 1):
            if isinstance(fixed, int) and fixed != declared:
                yield f"has dimension {axis} fixed at {fixed}, declared as {declared}"
