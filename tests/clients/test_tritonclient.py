import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]  # it ships no types
import pytest
import tritonclient.http as triton  # type: ignore[import-untyped]  # neither does it
from numpy.typing import NDArray

from serving.core.tensors import DTYPES
from serving.registry.folder import DEFAULT_MODELS_DIR
from tests.instances import Instance

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


@pytest.fixture
def client(demo: Instance) -> Iterator[Any]:
    with triton.InferenceServerClient(demo.url.removeprefix("http://")) as client:
        yield client


@pytest.fixture
def headers(demo: Instance) -> dict[str, str]:
    return {"Authorization": f"Bearer {demo.token()}"}


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("model", MODELS)
def test_triton_client_gets_what_onnx_runtime_answers(
    client: Any, headers: dict[str, str], model: str, binary: bool
) -> None:
    """Every demo model, both encodings: the answers of a client that was not written for us."""
    if not (DEFAULT_MODELS_DIR / model / "1.onnx").exists():
        pytest.skip(f"the weights of {model} are not here; see its fetch.py")
    rows = sample_of(model)
    expected = run_directly(model, rows)
    datatype = {dtype: name for name, dtype in DTYPES.items()}
    inputs = []
    for name, array in rows.items():
        inputs.append(triton.InferInput(name, array.shape, datatype[array.dtype]))
        inputs[-1].set_data_from_numpy(array, binary_data=binary)
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in expected]

    answer = client.infer(model, inputs, outputs=outputs, headers=headers)

    for name, array in expected.items():
        got = answer.as_numpy(name)
        assert (got.dtype, got.shape) == (array.dtype, array.shape)
        np.testing.assert_allclose(got, array, rtol=RELATIVE, atol=ABSOLUTE)


def test_triton_client_asks_for_health_and_metadata(client: Any, headers: dict[str, str]) -> None:
    """Liveness, readiness, and what the server and a model say about themselves."""
    model = client.get_model_metadata("census-employment", headers=headers)

    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("census-employment", headers=headers)
    assert "binary_tensor_data" in client.get_server_metadata(headers=headers)["extensions"]
    assert model["versions"] == ["1"]
    assert [tensor["name"] for tensor in model["outputs"]] == ["label", "probabilities"]


def test_triton_client_understands_a_refusal(client: Any, headers: dict[str, str]) -> None:
    """The protocol's error text reaches its exception."""
    wrong = triton.InferInput("input", [1, 3], "FP32")
    wrong.set_data_from_numpy(np.zeros((1, 3), dtype=np.float32))

    with pytest.raises(triton.InferenceServerException, match="shape") as refused:
        client.infer("census-employment", [wrong], headers=headers)
    assert refused.value.status() == "400"
