"""Behind haproxy and nginx: what a front forwards is judged as if it came directly.

A front may refuse a broken message itself, pass it on, or mend it (nginx and haproxy take bare line
feeds in chunks, haproxy folds and equal lengths). What must never happen is that the two disagree
about where it ends: then somebody gets an answer to a request that nobody sent. Ledger and log
show it: every record was told to the connection that asked for it, and no other exists.
"""

import pytest

from serving.core.predictions import Fate
from tests.edge.wire import Answer, request
from tests.hostile.cases import Case, Conversation
from tests.hostile.messages import BY_CASE
from tests.hostile.product import INFER, READY
from tests.places import wait_until

QUIET_S = 0.3
FIRST_S = 5.0
"""Longer than a body may take before its rate counts."""
REFUSED = {400, 408, 413, 414, 422, 431, 501, 502}


def answers(connection: Conversation) -> list[Answer]:
    """Every answer until the end, or until nothing has come for a moment."""
    found: list[Answer] = []
    while connection.has_answer(within_s=FIRST_S if not found else QUIET_S):
        if connection.has_ended():
            break
        found.append(connection.receive())
    return found


@pytest.mark.parametrize("group", BY_CASE)
def test_broken_messages_hide_nothing(fronted: Case, group: str) -> None:
    """A broken message is refused or was mended, and what stood behind it is served at most once."""
    hidden = fronted.product.inference(1.0, "Connection: close")
    for broken in BY_CASE[group]:
        with fronted.connect() as connection:
            connection.try_send(broken.raw + (b"" if broken.late else hidden))
            first, *behind = answers(connection)

        assert first.status == 200 or first.status in REFUSED, broken
        assert [each.status for each in behind] in ([], [200]), broken
        assert fronted.ask_one(READY).json()["live"], "a neighbour got somebody else's answer"


def test_ambiguous_length_is_never_followed(fronted: Case) -> None:
    """Of two lengths none lets a hidden request through."""
    hidden = fronted.product.inference(1.0, "Connection: close")
    for broken in BY_CASE["ht_01"]:
        with fronted.connect() as connection:
            connection.send(broken.raw + hidden)
            assert len(answers(connection)) == 1


def test_pipelined_requests_are_judged_alone(fronted: Case) -> None:
    """A stranger's request on a connection that the front shares gets 401, its neighbour 200."""
    stranger = request("POST", INFER, "Content-Type: application/json", body=b"{}")
    with fronted.connect() as connection:
        connection.send(stranger + fronted.product.inference())

        assert [connection.receive().status for _ in range(2)] == [401, 200]


@pytest.mark.parametrize("how", ["close", "reset"])
def test_client_that_goes_harms_no_neighbour(fronted: Case, how: str) -> None:
    """A client of the front that leaves at once, or in mid-answer, is recorded and disturbs nobody."""
    fronted.ledger.unacknowledged = range(41)
    for number in range(20):
        for wait_s in (0.0, 0.01):
            connection = fronted.connect()
            connection.send(fronted.product.inference(float(number)))
            connection.has_answer(within_s=wait_s)
            {"close": connection.close, "reset": connection.reset}[how]()
        answer = fronted.ask_one(fronted.product.inference(100.0 + number))
        assert answer.json()["outputs"][0]["data"][0] == 200.0 + 2 * number


def test_answer_that_is_not_read_holds_nothing(fronted: Case) -> None:
    """Who does not read 16 MiB through a front is cut at the write deadline; the record says ok."""
    fronted.ledger.unacknowledged = range(1, 2)
    with fronted.connect(receive_buffer_bytes=4096) as connection:
        connection.send(fronted.product.wide_inference())
        assert connection.has_answer(within_s=20)
        for _ in range(10):
            connection.read_some(1)
            assert fronted.ask_one(READY).json()["live"]
        # Those that the front keeps for others end by themselves, being idle.
        wait_until(lambda: not fronted.product.status()["connections"])

    assert [record.fate for record in fronted.new_records()] == [Fate.OK]
