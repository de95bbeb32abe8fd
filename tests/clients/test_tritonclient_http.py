import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton  # type: ignore[import-untyped]  # it ships no types
import tritonclient.http.aio as triton_aio  # type: ignore[import-untyped]

from serving.core.principals import Role
from tests.instances import Instance

MODEL = "census-employment"


@pytest.fixture
def client(demo: Instance) -> Iterator[Any]:
    with triton.InferenceServerClient(demo.url.removeprefix("http://")) as client:
        yield client


@pytest.fixture
def headers(demo: Instance) -> dict[str, str]:
    return {"Authorization": f"Bearer {demo.token()}"}


@pytest.fixture
def operator(demo: Instance) -> dict[str, str]:
    return {"Authorization": f"Bearer {demo.token(Role.OPERATOR)}"}


def rows(count: int = 1, *, binary: bool = True) -> list[Any]:
    values = np.arange(count * 16, dtype=np.float32).reshape(count, 16) % 7
    tensor = triton.InferInput("input", [count, 16], "FP32")
    tensor.set_data_from_numpy(values, binary_data=binary)
    return [tensor]


def test_index_names_what_serves(
    client: Any, headers: dict[str, str], operator: dict[str, str]
) -> None:
    """The repository index lists versions with their state; candidates for operators only."""
    seen = client.get_model_repository_index(headers=headers)
    all_of = client.get_model_repository_index(headers=operator)

    assert {"name": MODEL, "version": "1", "state": "READY", "reason": ""} in seen
    assert [each["version"] for each in seen if each["name"] == MODEL] == ["1"]
    assert [each["version"] for each in all_of if each["name"] == MODEL] == ["1", "2"]


def test_configuration_describes_the_model(client: Any, headers: dict[str, str]) -> None:
    """The model configuration has the names, types and dimensions of Triton's."""
    found = client.get_model_config(MODEL, headers=headers)

    assert (found["name"], found["platform"]) == (MODEL, "onnxruntime_onnx")
    assert found["input"] == [{"name": "input", "data_type": "TYPE_FP32", "dims": [16]}]
    assert found["max_batch_size"] > 0


def test_statistics_rise_with_requests(client: Any, headers: dict[str, str]) -> None:
    """One inference of three rows adds one request, three rows and one run."""

    def read() -> Any:
        (found,) = client.get_inference_statistics(MODEL, headers=headers)["model_stats"]
        return found

    before = read()
    client.infer(MODEL, rows(3), headers=headers)
    after = read()

    success, earlier = (each["inference_stats"]["success"] for each in (after, before))
    assert success["count"] - earlier["count"] == 1
    assert success["ns"] > earlier["ns"]
    assert after["inference_count"] - before["inference_count"] == 3
    assert after["execution_count"] - before["execution_count"] == 1
    assert after["last_inference"] >= before["last_inference"]
    assert 3 in [each["batch_size"] for each in after["batch_stats"]]


def test_statistics_of_all_models(client: Any, headers: dict[str, str]) -> None:
    """Without a name the statistics are those of every model that may be called."""
    found = client.get_inference_statistics(headers=headers)["model_stats"]

    assert {MODEL, "file-type"} <= {each["name"] for each in found}


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("answer", [None, "gzip", "deflate"])
@pytest.mark.parametrize("request_", [None, "gzip", "deflate"])
def test_compression_changes_nothing(
    client: Any, headers: dict[str, str], *, request_: str | None, answer: str | None, binary: bool
) -> None:
    """Whatever is compressed on the way, the answer is the same."""
    outputs = [triton.InferRequestedOutput("probabilities", binary_data=binary)]
    inputs = rows(300, binary=binary)
    plain = client.infer(MODEL, inputs, outputs=outputs, headers=headers)

    packed = client.infer(
        MODEL,
        inputs,
        outputs=outputs,
        headers=headers,
        request_compression_algorithm=request_,
        response_compression_algorithm=answer,
    )

    np.testing.assert_allclose(
        packed.as_numpy("probabilities"), plain.as_numpy("probabilities"), rtol=1e-5
    )


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_classification_names_the_best(
    client: Any, headers: dict[str, str], *, binary: bool
) -> None:
    """The classification extension gives the best elements of each row, as `value:index`."""
    plain = [triton.InferRequestedOutput("probabilities")]
    best = [triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=2)]
    values = client.infer(MODEL, rows(3), outputs=plain, headers=headers).as_numpy("probabilities")

    found = client.infer(MODEL, rows(3), outputs=best, headers=headers).as_numpy("probabilities")

    assert found.shape == (3, 2)
    for row, texts in zip(values, found, strict=True):
        pairs = [(text.decode() if binary else text).split(":") for text in texts]
        assert [int(index) for _, index, *_ in pairs] == list(np.argsort(-row)[:2])
        np.testing.assert_allclose(
            [float(value) for value, *_ in pairs], np.sort(row)[::-1][:2], 1e-4
        )


@pytest.mark.parametrize("act", ["load_model", "unload_model"])
def test_models_cannot_be_changed(client: Any, operator: dict[str, str], act: str) -> None:
    """Loading and unloading raises with the reason; the model goes on."""
    with pytest.raises(triton.InferenceServerException, match="approval") as refused:
        getattr(client, act)(MODEL, headers=operator)

    assert refused.value.status() == "501"
    assert client.is_model_ready(MODEL, headers=operator)


@pytest.mark.parametrize("ask", ["get_log_settings", "get_trace_settings"])
def test_what_is_not_there_is_not_found(client: Any, headers: dict[str, str], ask: str) -> None:
    """Extensions that the server does not announce are not there."""
    assert not {"logging", "trace"} & set(client.get_server_metadata(headers=headers)["extensions"])
    with pytest.raises(triton.InferenceServerException) as refused:
        getattr(client, ask)(headers=headers)
    assert refused.value.status() == "404"


async def test_asyncio_client_is_answered(demo: Instance, headers: dict[str, str]) -> None:
    """The same through the client's asyncio form, side by side on one loop."""
    url = demo.url.removeprefix("http://")
    async with triton_aio.InferenceServerClient(url) as client:
        assert await client.is_server_ready()
        answers = await asyncio.gather(
            *(client.infer(MODEL, rows(count), headers=headers) for count in (1, 2, 3))
        )
        packed = await client.infer(
            MODEL,
            rows(300),
            headers=headers,
            request_compression_algorithm="gzip",
            response_compression_algorithm="deflate",
        )

    assert [len(answer.as_numpy("label")) for answer in (*answers, packed)] == [1, 2, 3, 300]
