"""Rows for the demo models, and what ONNX Runtime answers to them without any of us."""

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]  # it ships no types
import pytest
from numpy.typing import NDArray

from serving.core.tensors import DTYPES
from serving.registry.folder import DEFAULT_MODELS_DIR

MODELS = ("census-employment", "image-orientation", "file-type", "sentence-embedding")
RELATIVE, ABSOLUTE = 1e-4, 1e-6

Tensors = dict[str, NDArray[Any]]


def sample_of(model: str) -> Tensors:
    """The rows beside the model, as its own example prepares them."""
    folder = DEFAULT_MODELS_DIR / model
    request = folder / "samples" / "request.json"
    if request.exists():
        return {
            tensor["name"]: np.array(tensor["data"], DTYPES[tensor["datatype"]]).reshape(
                tensor["shape"]
            )
            for tensor in json.loads(request.read_text())["inputs"]
        }
    prepare = runpy.run_path(str(folder / "prepare.py"))
    page = prepare["read_image"](folder / "samples" / "page.pgm")
    return {"x": np.concatenate([prepare["prepare"](np.rot90(page, turn)) for turn in (0, 1)])}


def run_directly(model: str, inputs: Tensors) -> Tensors:
    """What ONNX Runtime answers without any of us."""
    artifact: Path = DEFAULT_MODELS_DIR / model / "1.onnx"
    session = onnxruntime.InferenceSession(artifact, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def sample_and_answer(model: str) -> tuple[Tensors, Tensors]:
    """The rows and their right answer; skips the test where the weights are missing."""
    if not (DEFAULT_MODELS_DIR / model / "1.onnx").exists():
        pytest.skip(f"the weights of {model} are not here; see its fetch.py")
    rows = sample_of(model)
    return rows, run_directly(model, rows)


def assert_same(got: NDArray[Any], expected: NDArray[Any]) -> None:
    """Datatype and shape are equal, values within what another batch size may change."""
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(got, expected, rtol=RELATIVE, atol=ABSOLUTE)
