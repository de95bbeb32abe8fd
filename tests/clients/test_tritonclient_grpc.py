from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton  # type: ignore[import-untyped]  # it ships no types

from serving.core.tensors import DTYPES
from tests.clients.samples import MODELS, Tensors, assert_same, sample_and_answer
from tests.instances import Instance

DATATYPES = {dtype: name for name, dtype in DTYPES.items()}
MODEL = "census-employment"


@pytest.fixture
def client(demo: Instance) -> Iterator[Any]:
    with triton.InferenceServerClient(demo.grpc_address) as client:
        yield client


@pytest.fixture
def headers(demo: Instance) -> dict[str, str]:
    return {"authorization": f"Bearer {demo.token()}"}


def inputs_of(rows: Tensors) -> list[Any]:
    """The client's own form of these tensors."""
    inputs = []
    for name, array in rows.items():
        inputs.append(triton.InferInput(name, array.shape, DATATYPES[array.dtype]))
        inputs[-1].set_data_from_numpy(array)
    return inputs


@pytest.mark.parametrize("model", MODELS)
def test_triton_client_gets_what_onnx_runtime_answers(
    client: Any, headers: dict[str, str], model: str
) -> None:
    """Every demo model over gRPC: the answers of a client that was not written for us."""
    rows, expected = sample_and_answer(model)
    outputs = [triton.InferRequestedOutput(name) for name in expected]

    answer = client.infer(
        model, inputs_of(rows), outputs=outputs, headers=headers, request_id="a", priority=1
    )

    assert answer.get_response().id == "a"
    for name, array in expected.items():
        assert_same(answer.as_numpy(name), array)


def test_triton_client_gets_the_best_classes(client: Any, headers: dict[str, str]) -> None:
    """The classification extension: the best elements of each row as `value:index`."""
    rows, expected = sample_and_answer(MODEL)
    wanted = triton.InferRequestedOutput("probabilities", class_count=1)

    answer = client.infer(MODEL, inputs_of(rows), outputs=[wanted], headers=headers)

    best = [text.decode().split(":")[1] for text in answer.as_numpy("probabilities").ravel()]
    assert best == [str(index) for index in expected["probabilities"].argmax(axis=1)]


def test_triton_client_streams(client: Any, headers: dict[str, str]) -> None:
    """Requests on one stream are answered by their ids, and an error is one request's own."""
    rows, expected = sample_and_answer(MODEL)
    answers: list[tuple[Any, Any]] = []
    client.start_stream(lambda result, error: answers.append((result, error)), headers=headers)
    for number in range(5):
        client.async_stream_infer(MODEL, inputs_of(rows), request_id=str(number))
    client.async_stream_infer("no-such-model", inputs_of(rows))
    client.stop_stream()

    good = [result for result, error in answers if error is None]
    assert sorted(each.get_response().id for each in good) == [str(n) for n in range(5)]
    assert len(answers) == 6
    for result in good:
        assert_same(result.as_numpy("probabilities"), expected["probabilities"])


def test_triton_client_asks_for_everything_else(client: Any, headers: dict[str, str]) -> None:
    """Health, metadata, configuration, index and statistics, in the client's own words."""
    model = client.get_model_metadata(MODEL, headers=headers)
    configuration = client.get_model_config(MODEL, headers=headers).config
    index = client.get_model_repository_index(headers=headers)
    statistics = client.get_inference_statistics(MODEL, headers=headers).model_stats

    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL, headers=headers)
    assert "statistics" in client.get_server_metadata(headers=headers).extensions
    assert (model.name, list(model.versions)) == (MODEL, ["1"])
    assert [tensor.name for tensor in model.outputs] == ["label", "probabilities"]
    assert (configuration.name, configuration.input[0].dims) == (MODEL, [16])
    assert MODEL in [each.name for each in index.models if each.state == "READY"]
    assert [(each.name, each.version) for each in statistics] == [(MODEL, "1")]


def test_triton_client_understands_refusals(client: Any, headers: dict[str, str]) -> None:
    """The code and the text reach its exception; loading is answered as not offered."""
    wrong = inputs_of({"input": np.zeros((1, 3), np.float32)})
    refused = []
    calls: list[Callable[[], object]] = [
        lambda: client.infer(MODEL, wrong, headers=headers),
        lambda: client.infer(MODEL, wrong),
        lambda: client.load_model(MODEL, headers=headers),
    ]
    for call in calls:
        with pytest.raises(triton.InferenceServerException) as caught:
            call()
        refused.append((caught.value.status(), caught.value.message()))

    assert [status for status, _ in refused] == [
        "StatusCode.INVALID_ARGUMENT",
        "StatusCode.UNAUTHENTICATED",
        "StatusCode.UNIMPLEMENTED",
    ]
    assert "shape" in refused[0][1]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_triton_client_compresses(client: Any, headers: dict[str, str], algorithm: str) -> None:
    """A compressed request is answered like a plain one."""
    rows, expected = sample_and_answer("file-type")

    answer = client.infer(
        "file-type", inputs_of(rows), headers=headers, compression_algorithm=algorithm
    )

    for name, array in expected.items():
        assert_same(answer.as_numpy(name), array)


def test_triton_client_names_a_deadline(client: Any, headers: dict[str, str]) -> None:
    """Its `client_timeout` is the call's deadline: what cannot make it ends with that code."""
    rows, _ = sample_and_answer("image-orientation")

    with pytest.raises(triton.InferenceServerException, match=r"[Dd]eadline") as late:
        client.infer("image-orientation", inputs_of(rows), headers=headers, client_timeout=0.0005)
    assert late.value.status() == "StatusCode.DEADLINE_EXCEEDED"
