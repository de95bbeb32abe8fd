import asyncio
import json

import numpy as np

from serving.core.predictions import Fate, PredictionRecord
from tests.places import Place, a_row, rows_of


def binary_request(values: np.ndarray) -> tuple[bytes, dict[str, str]]:
    """The protocol's binary form, and the headers that go with it."""
    tensor = {
        "name": "x",
        "shape": list(values.shape),
        "datatype": "FP32",
        "parameters": {"binary_data_size": values.nbytes},
    }
    head = json.dumps(
        {"id": "mine", "inputs": [tensor], "parameters": {"binary_data_output": True}}
    ).encode()
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }
    return head + values.tobytes(), headers


def found(place: Place, prediction_id: str) -> PredictionRecord:
    record = place.record(prediction_id)
    assert record is not None
    return record


async def test_answer_and_record_are_the_same(place: Place) -> None:
    """The record of an answered JSON request holds its tensors, its caller and its digest."""
    async with place.client("alice") as client:
        answer = await client.post("/v2/models/doubler/infer", json=a_row(1.5, -4) | {"id": "mine"})

    record = found(place, answer.headers["serving-prediction-id"])
    assert answer.json()["outputs"][0]["data"] == [3.0, -8.0]
    assert (rows_of(record, "inputs"), rows_of(record)) == ([[1.5, -4.0]], [[3.0, -8.0]])
    assert (record.fate, record.reason) == (Fate.OK, "")
    assert (record.principal, record.request_id) == ("alice", "mine")
    assert (record.model, record.version) == ("doubler", answer.headers["serving-model-version"])
    assert record.digest == answer.headers["serving-model-digest"]
    assert record.shadow_of == ""


async def test_binary_tensors_are_recorded_bit_by_bit(place: Place) -> None:
    """A binary request gets a binary answer, and the record has exactly the same bytes."""
    values = np.array([[0.1, -0.2], [1e-30, 3.5], [-0.0, 7]], dtype="<f4")
    body, headers = binary_request(values)
    async with place.client() as client:
        answer = await client.post("/v2/models/doubler/infer", content=body, headers=headers)

    record = found(place, answer.headers["serving-prediction-id"])
    tensors = answer.content[int(answer.headers["inference-header-content-length"]) :]
    assert tensors == (2 * values).tobytes()
    assert record.inputs[0].array.tobytes() == values.tobytes()
    assert record.outputs[0].array.tobytes() == tensors
    assert record.rows == 3


async def test_everyone_gets_and_has_recorded_their_own(place: Place) -> None:
    """Requests that share batches keep their rows, and the records say who shared which batch."""
    async with place.client() as client:
        answers = await asyncio.gather(
            *(client.post("/v2/models/doubler/infer", json=a_row(-n, n / 64)) for n in range(40))
        )

    records = [found(place, answer.headers["serving-prediction-id"]) for answer in answers]
    expected = [[-2.0 * n, n / 32] for n in range(40)]
    assert [answer.json()["outputs"][0]["data"] for answer in answers] == expected
    assert [rows_of(record)[0] for record in records] == expected
    assert [f"{record.batch_id:x}" for record in records] == [
        answer.headers["serving-batch-id"] for answer in answers
    ]
    places = {(record.batch_id, record.batch_position) for record in records}
    assert len(places) == len(records)
    assert all(record.batch_position < record.batch_size for record in records)
