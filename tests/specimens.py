"""Artifacts to be inspected, and an inspection of them with or without a process of its own."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from onnx import TensorProto, helper

from serving.artifact_settings import ArtifactSettings
from serving.control.inspecting import Inspector, Specimen
from serving.core.models import ModelVersion
from serving.inference.inspection import Inspection
from serving.inference.reports import GoldenVector, InspectionOrder, InspectionReport

MODEL = "model.onnx"


def digests_of(files: Mapping[str, bytes]) -> dict[str, str]:
    return {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}


def lay_out(folder: Path, files: Mapping[str, bytes]) -> Path:
    """The files below `folder/files`; returns that folder."""
    for path, content in files.items():
        place = folder / "files" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return folder / "files"


def look(
    folder: Path,
    files: Mapping[str, bytes],
    *,
    definition: ModelVersion | None = None,
    golden: tuple[GoldenVector, ...] = (),
    domains: tuple[str, ...] = (),
    parity: str = "",
) -> InspectionReport:
    """An inspection within this process, for artifacts that harm nobody."""
    place = lay_out(folder, files)
    order = InspectionOrder(
        folder=str(place),
        files=digests_of(files),
        model="model",
        version="1",
        definition=definition,
        domains=domains,
        golden=golden,
        parity=parity,
    )
    return Inspection(order, folder).verdict()


def inspect(
    folder: Path, files: Mapping[str, bytes], *, inspection_s: float = 100.0, **more: Any
) -> InspectionReport:
    """An inspection as the product makes it, in a process that is thrown away."""
    settings = ArtifactSettings(inspection_s=inspection_s)
    specimen = Specimen(
        "model",
        "1",
        digests_of(files),
        {path: partial(_whole, content) for path, content in files.items()},
        **more,
    )
    report = Inspector(folder / "inspections", settings).inspect(specimen)
    assert list((folder / "inspections").iterdir()) == []
    return report


def _whole(content: bytes) -> Iterable[bytes]:
    return (content,)


def graph_of(
    nodes: Iterable[Any],
    *,
    initializers: Iterable[Any] = (),
    columns: int | str = 2,
    answers: tuple[int | str, ...] = ("rows", 2),
    functions: Iterable[Any] = (),
    opset: int = 18,
    domains: tuple[str, ...] = (),
) -> Any:
    """A model from `input` FP32 [rows, columns] to `output` FP32."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", columns])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, list(answers))],
        list(initializers),
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(each, 1) for each in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=list(functions))


def content_of(model: Any) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))


def plain(report: InspectionReport) -> str:
    """The report as one text."""
    return json.dumps(msgspec.to_builtins(report))
