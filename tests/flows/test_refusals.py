import json

import httpx
import numpy as np
import pytest

from serving.core.predictions import Fate
from serving.core.principals import Role
from tests.places import Place, a_row

INFER = "/v2/models/doubler/infer"
CANDIDATE = "/v2/models/doubler/versions/2/infer"


def tensor(**changes: object) -> dict[str, object]:
    return {
        "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]} | changes]
    }


REFUSED = {
    "invalid_json": (400, INFER, b"{"),
    "invalid_shape": (400, INFER, tensor(shape=[1, 3], data=[1, 2, 3])),
    "data_shape_mismatch": (400, INFER, tensor(data=[1])),
    "dtype_mismatch": (400, INFER, tensor(datatype="INT64")),
    "value_out_of_range": (400, INFER, tensor(data=[1, 1e300])),
    "invalid_request": (400, INFER, tensor() | {"outputs": [{"name": "other"}]}),
    "model_not_found": (404, "/v2/models/tripler/infer", tensor()),
    "forbidden": (403, CANDIDATE, tensor()),
}


def code_of(answer: httpx.Response) -> str:
    """The code in the one error body; its other members are checked."""
    body = answer.json()
    assert set(body) == {"error", "code", "request_id"}
    return str(body["code"])


@pytest.mark.parametrize("code", REFUSED)
async def test_refused_request_has_a_stable_code_and_no_record(place: Place, code: str) -> None:
    """What the caller must change is named, and the log holds admitted requests only."""
    status, path, body = REFUSED[code]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    subject = f"refused-{code}"
    before = await place.metric("serving_refusals_total", code=code)
    async with place.client(subject) as client:
        answer = await client.post(path, content=content)

    assert (answer.status_code, code_of(answer)) == (status, code)
    assert await place.metric("serving_refusals_total", code=code) == before + 1
    assert [record for record in place.records() if record.principal == subject] == []


async def test_without_a_token_nothing_is_answered(place: Place) -> None:
    """A request without credentials learns neither models nor answers."""
    recorded = len(place.records())
    async with place.client() as client:
        client.headers.pop("Authorization")
        answers = [
            await client.post(INFER, json=a_row(1)),
            await client.post("/v2/models/tripler/infer", json=a_row(1)),
            await client.get("/v2/models/doubler"),
            await client.get("/v2"),
        ]

    assert {(401, "unauthenticated")} == {(a.status_code, code_of(a)) for a in answers}
    assert len(place.records()) == recorded


async def test_candidate_answers_operators_only(place: Place) -> None:
    """An operator may pin a version that callers never see."""
    async with place.client("boss", Role.OPERATOR) as client:
        answer = await client.post(CANDIDATE, json=a_row(-5, 1))

    assert answer.json()["outputs"][0]["data"] == [-15.0, 3.0]
    record = place.record(answer.headers["serving-prediction-id"])
    assert record is not None
    assert (record.version, record.principal, record.shadow_of) == ("2", "boss", "")


async def test_number_that_is_none_is_refused_after_admission(place: Place) -> None:
    """A NaN in a binary tensor is found with its batch: the caller is told, the record says so."""
    values = np.array([[1, np.nan]], dtype="<f4").tobytes()
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "shape": [1, 2],
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": len(values)},
                }
            ]
        }
    ).encode()
    async with place.client() as client:
        answer = await client.post(
            INFER,
            content=head + values,
            headers={"Inference-Header-Content-Length": str(len(head))},
        )

    assert (answer.status_code, code_of(answer)) == (400, "non_finite_input")
    record = place.record(answer.json()["request_id"])
    assert record is not None
    assert (record.fate, record.reason) == (Fate.INVALID_INPUT, "non_finite_input")
    assert record.outputs == ()
