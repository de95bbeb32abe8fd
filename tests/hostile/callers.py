"""Callers of the inference port that cost little: binary tensors over a connection of their own."""

import asyncio
import json
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

import numpy as np

from serving.core.tensors import NAMES, Array
from tests.places import PATIENCE_S, Place

_END: Final = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Reply:
    """code: the stable code of a refusal, else empty. outputs: those of numbers, in their order."""

    status: int
    code: str
    outputs: tuple[Array, ...]
    prediction_id: str


class Caller:
    """One connection, one request at a time. Use it as an asynchronous context manager."""

    def __init__(self, place: Place, subject: str = "tester") -> None:
        self._authorization = place.authorization(subject)["Authorization"]
        self._port = int(place.url.rpartition(":")[2])

    async def __aenter__(self) -> "Caller":
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._writer.close()

    async def ask(
        self, model: str, *, parameters: dict[str, Any] | None = None, **inputs: Array
    ) -> Reply:
        """The answer to these inputs."""
        self.send(model, parameters=parameters, **inputs)
        async with asyncio.timeout(PATIENCE_S):
            return await self._reply()

    def send(
        self, model: str, *, parameters: dict[str, Any] | None = None, **inputs: Array
    ) -> None:
        """Asks, and leaves the answer to whoever waits for it."""
        tensors = [
            {
                "name": name,
                "shape": array.shape,
                "datatype": NAMES[array.dtype],
                "parameters": {"binary_data_size": array.nbytes},
            }
            for name, array in inputs.items()
        ]
        wanted = {"binary_data_output": True, **(parameters or {})}
        head = json.dumps({"inputs": tensors, "parameters": wanted}).encode()
        body = head + b"".join(array.tobytes() for array in inputs.values())
        self._writer.write(
            f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: here\r\n"
            f"Authorization: {self._authorization}\r\nContent-Length: {len(body)}\r\n"
            f"Inference-Header-Content-Length: {len(head)}\r\n\r\n".encode()
            + body
        )

    async def _reply(self) -> Reply:
        head = (await self._reader.readuntil(_END)).decode()
        status_line, *lines = head.strip().splitlines()
        headers = {
            key.lower(): value.strip() for key, _, value in (x.partition(":") for x in lines)
        }
        body = await self._reader.readexactly(int(headers["content-length"]))
        status = int(status_line.split()[1])
        prediction_id = headers.get("serving-prediction-id", "")
        if status != 200:
            problem = json.loads(body)
            return Reply(status, problem["code"], (), problem["request_id"])
        start = int(headers["inference-header-content-length"])
        outputs = []
        for output in json.loads(body[:start])["outputs"]:
            end = start + output["parameters"]["binary_data_size"]
            dtype = next(dtype for dtype, name in NAMES.items() if name == output["datatype"])
            if not dtype.hasobject:
                outputs.append(np.frombuffer(body[start:end], dtype).reshape(output["shape"]))
            start = end
        return Reply(status, "", tuple(outputs), prediction_id)
