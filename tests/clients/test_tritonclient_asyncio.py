import asyncio
from types import ModuleType
from typing import Any

import pytest
import tritonclient.grpc.aio as over_grpc  # type: ignore[import-untyped]  # it ships no types
import tritonclient.http.aio as over_http  # type: ignore[import-untyped]  # neither does it

from serving.core.tensors import DTYPES
from tests.clients.samples import assert_same, sample_and_answer
from tests.instances import Instance

DATATYPES = {dtype: name for name, dtype in DTYPES.items()}
MODEL = "census-employment"
CALLS = 32


@pytest.fixture(params=[over_http, over_grpc], ids=["http", "grpc"])
def wire(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


async def test_asynchronous_client_gets_what_onnx_runtime_answers(
    demo: Instance, wire: ModuleType
) -> None:
    """Many calls at once on one client: each gets the right answer, whatever it was batched with."""
    rows, expected = sample_and_answer(MODEL)
    address = demo.grpc_address if wire is over_grpc else demo.url.removeprefix("http://")
    headers = {"authorization": f"Bearer {demo.token()}"}

    def inputs(first: int) -> list[Any]:
        array = rows["input"][first % len(rows["input"]) :][:1]
        tensor = wire.InferInput("input", array.shape, DATATYPES[array.dtype])
        tensor.set_data_from_numpy(array)
        return [tensor]

    async with wire.InferenceServerClient(address) as client:
        assert await client.is_server_ready()
        assert await client.is_model_ready(MODEL, headers=headers)
        calls = [client.infer(MODEL, inputs(n), headers=headers) for n in range(CALLS)]
        answers = await asyncio.gather(*calls)

    for number, answer in enumerate(answers):
        row = number % len(rows["input"])
        assert_same(answer.as_numpy("probabilities"), expected["probabilities"][row : row + 1])
