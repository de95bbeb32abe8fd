import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.core.tensors import NAMES
from tests.clients.samples import MODELS, assert_same, sample_and_answer
from tests.instances import Instance

ROOT = Path(__file__).resolve().parents[2]
REFUSED = {"grpc": "UNAUTHENTICATED", "http": "401"}


def calls_of_kserve(**order: Any) -> dict[str, Any]:
    """What the client got, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.clients.kserve_calls"],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("wire", ["grpc", "http"])
@pytest.mark.parametrize("model", MODELS)
def test_kserve_client_gets_what_onnx_runtime_answers(
    demo: Instance, model: str, wire: str
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

    got = calls_of_kserve(
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
