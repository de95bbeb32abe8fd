from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton  # type: ignore[import-untyped]  # it ships no types

from serving.core.tensors import DTYPES
from tests.clients.samples import MODELS, assert_same, sample_and_answer
from tests.instances import Instance

DATATYPES = {dtype: name for name, dtype in DTYPES.items()}


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
    rows, expected = sample_and_answer(model)
    inputs = []
    for name, array in rows.items():
        inputs.append(triton.InferInput(name, array.shape, DATATYPES[array.dtype]))
        inputs[-1].set_data_from_numpy(array, binary_data=binary)
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in expected]

    answer = client.infer(model, inputs, outputs=outputs, headers=headers)

    for name, array in expected.items():
        assert_same(answer.as_numpy(name), array)


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
