import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.core.tensors import NAMES
from tests.clients.samples import MODELS, assert_same, sample_and_answer
from tests.instances import Instance

ROOT = Path(__file__).resolve().parents[2]
REFUSED = {"grpc": "UNAUTHENTICATED", "http": "401"}


class KserveCalls:
    """The process that calls."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, **order: Any) -> dict[str, Any]:
        """What the client got."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert "failed" not in found, found["failed"][-2000:]
        return found


@pytest.fixture(scope="module")
def kserve() -> Iterator[KserveCalls]:
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.clients.kserve_calls"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        yield KserveCalls(process)


@pytest.mark.parametrize("wire", ["grpc", "http"])
@pytest.mark.parametrize("model", MODELS)
def test_kserve_client_gets_what_onnx_runtime_answers(
    demo: Instance, kserve: KserveCalls, model: str, wire: str
) -> None:
    """Every demo model, both wires, binary and typed or JSON; and it understands a refusal."""
    rows, expected = sample_and_answer(model)
    tensors = [
        {
            "name": name,
            "datatype": NAMES[array.dtype],
            "dtype": array.dtype.str,
            "data": array.tolist(),
        }
        for name, array in rows.items()
    ]

    got = kserve.ask(
        wire=wire,
        grpc=demo.grpc_address,
        http=demo.url,
        authorization=f"Bearer {demo.token()}",
        model=model,
        inputs=tensors,
    )

    assert (got["live"], got["ready"], got["model_ready"], got["id"]) == (True, True, True, "a")
    assert got["refused"] == REFUSED[wire]
    for outputs in got["answers"]:
        assert outputs.keys() == expected.keys()
        for name, array in expected.items():
            assert_same(np.array(outputs[name], array.dtype), array)
