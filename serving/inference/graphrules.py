"""What an ONNX graph must not hold, whatever the checker and the runtime think of it.

Everything is looked at without recursion of our own: a graph nests as deep as its author likes.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it ships no types

from serving.artifacts.sniffing import LONGEST, foreign_kind
from serving.inference.reports import Rejected

MAX_MODEL_BYTES: Final = 2**31 - 1
"""Protobuf cannot hold more; larger models keep their weights in files beside."""
MAX_NODES: Final = 200_000
MAX_OPERATORS: Final = 200
"""Different ones that a report counts."""
STANDARD_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})
FORBIDDEN: Final = frozenset({"EPContext"})
"""Compiled blobs for one device, which name files of their own."""


@dataclass(frozen=True, slots=True)
class Census:
    """What was found in a model. tensors: all that can refer to files."""

    operators: Counter[str] = field(default_factory=Counter)
    tensors: list[Any] = field(default_factory=list)


def entry_of(paths: Iterable[str]) -> str:
    """The file that is the model: the only one that is called so. Raises Rejected."""
    found = [path for path in paths if path.endswith(".onnx")]
    if len(found) != 1:
        raise Rejected(
            "unsupported_artifact", f"an artifact has exactly one .onnx file, not {len(found)}"
        )
    return found[0]


def read_model(path: Path) -> Any:
    """The parsed model. Raises Rejected."""
    size = path.stat().st_size
    if not 0 < size <= MAX_MODEL_BYTES:
        raise Rejected(
            "invalid_model", f"a model file has 1 to {MAX_MODEL_BYTES} bytes, not {size}"
        )
    content = path.read_bytes()
    kind = foreign_kind(content[:LONGEST])
    if kind:
        raise Rejected("unsupported_artifact", f"it is {kind}, not an ONNX model")
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise Rejected("invalid_model", "it is no ONNX model, or a damaged one") from error
    if not model.HasField("graph") or not model.opset_import:
        raise Rejected("invalid_model", "it holds no graph, or does not say of which opset")
    return model


def take_census(model: Any, domains: Iterable[str]) -> Census:
    """Looks at every node and tensor. domains: permitted beyond the standard. Raises Rejected."""
    census = Census()
    own = {(each.domain, each.name) for each in model.functions}
    permitted = STANDARD_DOMAINS | set(domains)
    graphs = [model.graph]
    waiting = [iter(model.graph.node), *(iter(each.node) for each in model.functions)]
    count = 0
    while graphs or waiting:
        if graphs:
            graph = graphs.pop()
            census.tensors.extend(_tensors(graph))
            waiting.append(iter(() if graph is model.graph else graph.node))
            continue
        for node in waiting.pop():
            count += 1
            if count > MAX_NODES:
                raise Rejected("invalid_model", f"it has more than {MAX_NODES} nodes")
            _check_node(node, permitted, own)
            census.operators[node.op_type[:80]] += 1
            for attribute in node.attribute:
                graphs += _graphs(attribute)
                census.tensors.extend(_held(attribute))
    return census


def _check_node(node: Any, permitted: frozenset[str], own: set[tuple[str, str]]) -> None:
    if node.op_type in FORBIDDEN:
        raise Rejected("forbidden_node", f"{node.op_type} nodes are not served")
    if node.domain not in permitted and (node.domain, node.op_type) not in own:
        raise Rejected(
            "custom_operator",
            f"operator {node.op_type[:80]!r} is of domain {node.domain[:80]!r}, which "
            "artifacts.operator_domains does not permit",
        )


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices


def _graphs(attribute: Any) -> list[Any]:
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _held(attribute: Any) -> Iterator[Any]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
        yield sparse.values
        yield sparse.indices
