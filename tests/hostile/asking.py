"""Requests for inference as hostile callers send them: any JSON, any bytes behind it."""

import json
from typing import Any

from serving.core.predictions import PredictionRecord
from tests.edge.wire import Answer, assert_problem, request
from tests.hostile.cases import Case
from tests.hostile.product import INFER
from tests.places import Place, a_row

JSON = "Content-Type: application/json"


def with_x(**changes: Any) -> dict[str, Any]:
    """A row for the doubler with another input `x`; a member that is None is taken away."""
    body = a_row(1.0, 2.0)
    changed = body["inputs"][0] | changes
    body["inputs"][0] = {name: value for name, value in changed.items() if value is not None}
    return body


def infer(case: Case, body: bytes | dict[str, Any], *headers: str, target: str = INFER) -> Answer:
    """The answer to one request by somebody who may ask."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    authorization = case.product.authorization
    return case.ask_one(request("POST", target, authorization, JSON, *headers, body=raw))


def refused(case: Case, body: bytes | dict[str, Any], code: str, status: int = 400) -> None:
    """Fails unless the request is refused as this, before it is admitted."""
    before = len(case.ledger.recorded())

    assert_problem(infer(case, body), status, code)
    assert before == len(case.ledger.recorded())


def recorded(case: Case, answer: Answer) -> PredictionRecord:
    """The record of an answer."""
    place = Place(case.product.instance.url, case.product.data_dir)
    found = place.record(answer.headers["serving-prediction-id"])
    assert found is not None
    return found
