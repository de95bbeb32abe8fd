"""A name service that does not answer: what asks for addresses waits, and nobody else."""

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.places import InProcess

INFER = "/v2/models/doubler/infer"
ROW = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
HUNG = "hung.test"


async def test_ft_16_names_that_never_resolve_hold_up_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issuer's keys and collector of traces at names that hang: two hundred answers, none late."""
    released, asked = threading.Event(), threading.Event()
    resolve = socket.getaddrinfo

    def hang(host: Any, *arguments: Any, **more: Any) -> Any:
        if host != HUNG:
            return resolve(host, *arguments, **more)
        asked.set()
        released.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    issuer = {
        "name": "https://login.example.com",
        "audiences": ["serving"],
        "algorithms": ["ES256"],
        "jwks_url": f"https://{HUNG}/keys",
        "fetch_timeout_s": 0.2,
        "cool_down_s": 0.5,
        "refresh_s": 1.0,
    }
    product = InProcess(
        tmp_path,
        access={"issuers": [issuer], "local_issuer": True},
        telemetry={"otlp_endpoint": f"http://{HUNG}:4318", "sampling_ratio": 1.0},
    )
    await product.start()
    loop = asyncio.get_running_loop()
    waits = []
    async with product.place.client() as client:
        for _ in range(200):
            began_s = loop.time()
            answer = await client.post(INFER, json=ROW)
            waits.append(loop.time() - began_s)
            assert answer.status_code == 200
    released.set()
    await product.aclose()

    assert asked.is_set()
    assert max(waits) < 1.0
