"""HT-17 to HT-21: clients that are slow, silent, or gone hold nothing for longer than their deadline."""

import time
from collections import Counter

import pytest

from serving.core.predictions import Fate
from tests.edge.wire import parse_answer, request
from tests.hostile.cases import Case
from tests.hostile.crowds import SteadyCaller, affordable, crowd, read_to_the_end
from tests.hostile.product import SHORT
from tests.places import wait_until

SLOW_HEADS = 2_000
SILENT = 9_900
"""With the callers beside them just below the default limit of 10,000."""
SWEEP_S = 0.5
"""How much later than its deadline a connection may end: two sweeps."""


@pytest.mark.faults
def test_ht_17_slow_heads_do_not_stop_the_others(case: Case) -> None:
    """Two thousand heads that trickle are each given up at the deadline; a caller does not notice."""
    many = affordable(SLOW_HEADS)
    with SteadyCaller(case) as caller, crowd(case.port, many) as slow:
        started = time.monotonic()
        for byte in (b"G", b"E"):
            for each in slow:
                each.send(byte)
        ended = read_to_the_end(slow, within_s=10)
        waited_s = time.monotonic() - started

    assert {parse_answer(each)[0].status for each in ended if each} == {408}
    assert waited_s < SHORT["head_timeout_s"] + 2 * SWEEP_S + 1
    assert caller.p99_s < 0.25
    case.ledger.unheard = Counter({"request_timeout": many})


def test_ht_18_trickling_body_is_given_up(case: Case) -> None:
    """A body of one byte a second gets 408 at the minimum rate, long before it is complete."""
    raw = request("POST", "/v2/health/live", case.product.authorization, "Content-Length: 100")
    with case.connect() as connection:
        started = time.monotonic()
        connection.send(raw)
        while not connection.has_answer(within_s=1.0):
            connection.send(b"a")

        assert connection.receive().json()["code"] == "request_timeout"
    assert time.monotonic() - started < SHORT["body_timeout_s"] + 2 * SWEEP_S


@pytest.mark.faults
def test_ht_19_silent_connections_are_closed(case: Case) -> None:
    """Ten thousand connections without a byte end at the idle limit, in silence; others are accepted."""
    many = affordable(SILENT)
    with SteadyCaller(case) as caller, crowd(case.port, many) as silent:
        assert case.ask_one(request("GET", "/v2/health/live")).status == 200

        ended = read_to_the_end(silent, within_s=20)

    assert set(ended) == {b""}
    assert caller.p99_s < 0.25


def test_ht_20_answer_that_is_not_read_is_cut(case: Case) -> None:
    """Who reads 16 MiB byte by byte is cut at the write deadline; the prediction is recorded as ok."""
    case.ledger.unacknowledged = range(1, 2)
    with case.connect(receive_buffer_bytes=4096) as connection:
        connection.send(case.product.wide_inference())
        assert connection.has_answer(within_s=20)
        wait_until(lambda: case.product.status()["in_flight"] == 0)
        started = time.monotonic()
        while case.product.status()["connections"]:
            connection.read_some(1)
            connection.has_answer(within_s=0.05)
            assert time.monotonic() - started < SHORT["write_timeout_s"] + 2 * SWEEP_S + 1

    (record,) = case.new_records()
    assert record.fate is Fate.OK


@pytest.mark.parametrize("when", ["at once", "in mid-answer"])
def test_ht_21_reset_is_a_terminal_record(case: Case, when: str) -> None:
    """A reset right after sending, or in mid-answer, ends in one record at most, and nothing else."""
    case.ledger.unacknowledged = range(2)
    connection = case.connect(receive_buffer_bytes=4096)
    if when == "at once":
        connection.send(case.product.inference())
    else:
        connection.send(case.product.wide_inference())
        assert connection.has_answer(within_s=20)
    connection.reset()

    wait_until(lambda: not case.product.status()["connections"])
    fates = [each.fate for each in case.new_records()]
    assert when == "at once" or fates == [Fate.OK]
    assert set(fates) <= {Fate.OK, Fate.CLIENT_GONE}
