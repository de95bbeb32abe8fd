import json
from typing import Any

import pytest

from serving.edge.codec import Signature
from serving.errors import ParameterInvalid
from serving.gateway.calls import InferenceRequest
from tests.plans import a_version


def decoded(**parameters: Any) -> InferenceRequest:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}
    body = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    signature = Signature(a_version())
    signature.decode(memoryview(body), None)
    return signature.decode(memoryview(body), None)


@pytest.mark.parametrize("priority", [0, 1, 2, 2**64 - 1])
def test_priority_is_taken_from_the_parameters(priority: int) -> None:
    """As it stands there, every time that the same text comes."""
    assert decoded(priority=priority).priority == priority


def test_request_without_priority_leaves_it_to_the_server() -> None:
    """Which is 0."""
    assert decoded(timeout=1_000).priority == 0


@pytest.mark.parametrize("priority", [-1, 1.5, "1", True, None])
def test_what_is_no_priority_is_refused(priority: object) -> None:
    """A parameter that is not understood is not passed over."""
    with pytest.raises(ParameterInvalid, match="priority"):
        decoded(priority=priority)
