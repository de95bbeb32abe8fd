"""Whether an ONNX model is what its specification says: names, datatypes, ranks, dimensions.

A model is refused at load, with every difference named, rather than at the first request:

- a sequence, map, optional or sparse value is no tensor and cannot travel in the protocol;
- of a batched version, dimension 0 must be free in every input and output: it counts rows. A model
  with a fixed batch, a scalar or an output without rows is served when its specification says so,
  by its shapes or by `batched: false`: then a request is one whole, run by itself;
- a dimension that the model fixes must be the declared one; a free dimension may be declared fixed,
  which only narrows what callers may send.

ONNX Runtime reports a tensor of unknown rank as having no dimensions. Such an output passes here: its
answers are checked against the specification one by one. So does such an input of a version that is
not batched: ONNX Runtime itself checks what it is given.
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
    "tensor(bfloat16)": "BF16",
    "tensor(string)": "BYTES",
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


_REMEDY: Final = ", so it cannot be batched: declare its shape as it is, or `batched: false`"


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
        *_differences("input", version.fed, inputs),
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
        if tensor is not None and (node.shape or (kind == "input" and tensor.batched)):
            texts += _rank_differences(tensor, node.shape)
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


def _rank_differences(
    tensor: TensorSpecification, shape: Sequence[int | str | None]
) -> Iterator[str]:
    if tensor.batched and not shape:
        yield f"has no dimension that counts rows{_REMEDY}"
    elif len(shape) != len(tensor.shape):
        yield f"has rank {len(shape)} in the model, {len(tensor.shape)} in the specification"
    else:
        yield from _dimension_differences(tensor, shape)


def _dimension_differences(
    tensor: TensorSpecification, shape: Sequence[int | str | None]
) -> Iterator[str]:
    if tensor.batched and isinstance(shape[0], int):
        yield f"has its rows fixed at {shape[0]}{_REMEDY}"
    first = 1 if tensor.batched else 0
    for axis, fixed in enumerate(shape[first:], first):
        declared = tensor.shape[axis]
        if isinstance(fixed, int) and fixed != declared:
            yield f"has dimension {axis} fixed at {fixed}, declared as {declared}"
