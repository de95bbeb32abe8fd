"""What the `kserve` clients get: `python -m tests.clients.kserve_calls`, a line of JSON for each order.

A process of its own, because tritonclient describes the same protobuf package, and a process takes it
only once. One for all orders, because importing the client takes longer than all that is asked of it.
"""

import asyncio
import json
import sys
import traceback
from typing import Any

import grpc  # type: ignore[import-untyped]  # it ships no types
import httpx
import numpy as np
from kserve import (  # type: ignore[import-untyped]
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
)
from kserve.inference_client import RESTConfig  # type: ignore[import-untyped]

Order = dict[str, Any]


def request_of(order: Order, *, binary: bool) -> InferRequest:
    """The tensors of an order in the client's own form, binary (raw) or typed."""
    inputs = []
    for tensor in order["inputs"]:
        array = np.array(tensor["data"], tensor["dtype"])
        inputs.append(InferInput(tensor["name"], list(array.shape), tensor["datatype"]))
        inputs[-1].set_data_from_numpy(array, binary_data=binary)
    return InferRequest(order["model"], inputs, request_id="a")


def outputs_of(answer: Any) -> dict[str, Any]:
    return {output.name: output.as_numpy().tolist() for output in answer.outputs}


async def over_grpc(order: Order) -> dict[str, Any]:
    headers = (("authorization", order["authorization"]),)
    async with InferenceGRPCClient(order["grpc"]) as client:
        answers = [
            await client.infer(request_of(order, binary=binary), headers=headers)
            for binary in (True, False)
        ]
        try:
            await client.infer(request_of(order, binary=True))
            refused = ""
        except grpc.RpcError as error:
            refused = error.code().name
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model_ready": await client.is_model_ready(order["model"], headers=headers),
            "id": answers[0].id,
            "answers": [outputs_of(answer) for answer in answers],
            "refused": refused,
        }


async def over_http(order: Order) -> dict[str, Any]:
    headers = {"authorization": order["authorization"]}
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:

        async def infer(*, binary: bool) -> Any:
            request = request_of(order, binary=binary)
            return await client.infer(order["http"], request, order["model"], headers={**headers})

        answers = [await infer(binary=binary) for binary in (True, False)]
        try:
            await client.infer(order["http"], request_of(order, binary=False), order["model"])
            refused = ""
        except httpx.HTTPStatusError as error:
            refused = str(error.response.status_code)
        ready = await client.is_model_ready(order["http"], order["model"], headers=headers)
        return {
            "live": await client.is_server_live(order["http"]),
            "ready": await client.is_server_ready(order["http"]),
            "model_ready": ready,
            "id": answers[0].id,
            "answers": [outputs_of(answer) for answer in answers],
            "refused": refused,
        }


def calls_of(order: Order) -> dict[str, Any]:
    """What came of an order; what went wrong is `failed`."""
    calls = over_grpc if order["wire"] == "grpc" else over_http
    try:
        return asyncio.run(calls(order))
    except Exception:  # noqa: BLE001 - whoever ordered judges, whatever it is
        return {"failed": traceback.format_exc()}


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps(calls_of(json.loads(line))) + "\n")
        sys.stdout.flush()
