"""FT-17: a client that goes away, at whatever stage, frees what it held and disturbs nobody."""

import time
from collections.abc import Callable
from typing import Final

import pytest

from serving.core.predictions import Fate, PredictionRecord
from tests.catalogue import SLOW
from tests.edge.wire import request
from tests.hostile.cases import Case, Conversation
from tests.hostile.product import INFER, WIDE
from tests.places import wait_until

FREED_S: Final = 0.05
TIMES: Final = 2
"""The quickest of so many counts: a busy machine delays whoever looks."""
LONG_ENOUGH: Final = {"timeout": 20_000_000}
LEAVING: Final = SLOW + 2
"""The number that only the client asks for who then goes away."""
OTHERS: Final = 3


def in_flight(case: Case, count: int) -> bool:
    return bool(case.product.status()["in_flight"] == count)


def queued(case: Case, count: int) -> bool:
    return bool(case.product.status()["queues"]["doubler@1"]["queued_rows"] == count)


def asking(case: Case, number: float) -> Conversation:
    connection = case.connect()
    return connection.send(case.product.inference(number, **LONG_ENOUGH))


def in_the_head(case: Case) -> Conversation:
    connection = case.connect()
    connection.send(request("POST", INFER, case.product.authorization)[:-2])
    wait_until(lambda: case.product.status()["connections"])
    return connection


def in_the_body(case: Case) -> Conversation:
    connection = case.connect()
    head = request("POST", WIDE, case.product.authorization, "Content-Length: 16000000")
    connection.send(head + bytes(8_000_000))
    wait_until(lambda: case.product.status()["connections"])
    return connection


def queued_behind_others(case: Case) -> Conversation:
    """With one that runs, and as many on their way to the replica as it takes."""
    for _ in range(OTHERS):
        asking(case, SLOW)
    wait_until(lambda: in_flight(case, OTHERS))
    before = case.product.status()["queues"]["doubler@1"]["queued_rows"]
    connection = asking(case, LEAVING)
    wait_until(lambda: queued(case, before + 1))
    return connection


def running(case: Case) -> Conversation:
    connection = asking(case, LEAVING)
    wait_until(lambda: in_flight(case, 1) and queued(case, 0))
    return connection


def answering(case: Case) -> Conversation:
    connection = case.connect(receive_buffer_bytes=4096)
    connection.send(case.product.wide_inference(rows=32))
    assert connection.has_answer(within_s=20)
    wait_until(lambda: in_flight(case, 0))
    return connection


STAGES: Final[dict[str, tuple[Callable[[Case], Conversation], set[Fate]]]] = {
    "header": (in_the_head, set()),
    "body": (in_the_body, set()),
    "queued": (queued_behind_others, {Fate.CLIENT_GONE}),
    "running": (running, {Fate.CLIENT_GONE}),
    "answering": (answering, {Fate.OK}),
}


def held(case: Case) -> tuple[int, int]:
    """Connections and places in admission."""
    status = case.product.status()
    return status["connections"], status["in_flight"]


def freed_s(case: Case, connection: Conversation) -> float:
    """How long after its end a connection and its place are free."""
    connections, places = held(case)
    expected = (connections - 1, max(places - 1, 0))
    started = time.monotonic()
    connection.close()
    wait_until(lambda: held(case) <= expected)
    return time.monotonic() - started


@pytest.mark.parametrize("stage", STAGES)
def test_ft_17_client_that_goes_frees_what_it_held(case: Case, stage: str) -> None:
    """Its connection and its place are free within 50 ms, it has one record, neighbours an answer."""
    reach, fates = STAGES[stage]
    case.ledger.unacknowledged = range(TIMES * (1 + OTHERS) + 1)
    quickest_s = float("inf")
    for _ in range(TIMES):
        leaving = reach(case)
        neighbour = asking(case, -5.0)

        quickest_s = min(quickest_s, freed_s(case, leaving))

        assert neighbour.receive().json()["outputs"][0]["data"][0] == -10.0
        case.close()
        wait_until(lambda: held(case) == (0, 0))
    assert quickest_s < FREED_S
    gone = [record.fate for record in case.new_records() if is_of_who_left(record)]
    assert set(gone) == fates
    assert len(gone) == TIMES * len(fates)


def is_of_who_left(record: PredictionRecord) -> bool:
    return record.model == "wide" or float(record.inputs[0].array[0, 0]) == LEAVING
