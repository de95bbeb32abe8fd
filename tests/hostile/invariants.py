"""What must hold after every hostile case (RELIABILITY, section 4), as one function.

The log is read as far as it is new, which finds damage there; the whole of it, seals and links
between segments included, is verified when the instance of all cases ends.
"""

import re
import time
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from tests.edge.wire import Answer, assert_problem
from tests.hostile.cases import Case, Ledger, Stock
from tests.hostile.product import READY, Product, Usage, command_of
from tests.places import wait_until

CONTROL_S: Final = 1.0
GROWTH_BYTES: Final = 32 << 20
KEPT_BYTES: Final = 64 << 20
"""What glibc may keep of freed memory, twice its largest threshold; so growth is counted over all
cases and not from one to the next."""
REPORTING: Final = 2
"""Connections to the control process come and go with what is reported; over all cases, too."""
SETTLED_S: Final = 5.0
"""How long what a case left may take to be gone."""

_CHECKOUT: Final = f"/{Path(__file__).resolve().parts[1]}/".encode()
_TELLTALE: Final = re.compile(
    rb"Traceback|File \"|site-packages|\.py\b|/proc/|/home/|/tmp/|" + re.escape(_CHECKOUT)
)


def check(case: Case) -> None:
    """Fails unless the product is as it was, and has told, counted and recorded the same things."""
    product, before, ledger = case.product, case.before, case.ledger
    now = product.pids()
    changed = {pid: command_of(pid)[-200:] for pid in {*now} ^ {*before.pids}}
    assert not changed, f"a process came or went: {changed}"
    _answers_now(product)
    for answer in ledger.answers:
        _tells_no_secret(answer)
    wait_until(lambda: _is_at_rest(product, before, ledger), within_s=SETTLED_S)
    try:
        wait_until(lambda: _fits(product, before.usage, ledger), within_s=SETTLED_S)
    except AssertionError:
        used = f"{product.first_usage}, {before.usage} before, {product.usage()} now"
        pytest.fail(f"something is left: {used}")
    assert ledger.refused() == product.refusals() - before.refusals, "refusals told and counted"
    _reconcile(case)
    _logs_are_clean(product, before)


def _answers_now(product: Product) -> None:
    started = time.monotonic()
    with product.connect() as client:
        assert client.send(READY).receive().status == 200
    assert time.monotonic() - started < CONTROL_S, "the control request was late"


def _tells_no_secret(answer: Answer) -> None:
    """The one form of an error, and nothing of how the product is made."""
    text = repr(sorted(answer.headers.items())).encode() + answer.body
    assert answer.status < 400 or not _TELLTALE.search(text), text
    if answer.status >= 400 and answer.headers.get("content-type") == "application/json":
        assert_problem(answer, answer.status, answer.json()["code"])


def _is_at_rest(product: Product, before: Stock, ledger: Ledger) -> bool:
    """Whether nothing of the case is left: connections, places, rows, records on their way."""
    status = product.status()
    return (
        status["connections"] <= before.connections + ledger.pooled
        and status["in_flight"] == 0
        and not any(queue["queued_rows"] for queue in status["queues"].values())
        and status["log"]["pending_bytes"] == 0
    )


def _fits(product: Product, before: Usage, ledger: Ledger) -> bool:
    now, first = product.usage(), product.first_usage
    descriptors = max(before.descriptors, first.descriptors + REPORTING)
    return (
        now.descriptors <= descriptors + ledger.pooled
        and now.threads <= before.threads
        and now.resident_bytes <= first.resident_bytes + KEPT_BYTES + GROWTH_BYTES
    )


def _reconcile(case: Case) -> None:
    """Every id that was told is in the log once, and no record is there that nobody asked for."""
    found = Counter(record.prediction_id for record in case.new_records())
    told = Counter(case.ledger.recorded())
    assert not told - found, "told, but not in the log"
    assert len(found - told) in case.ledger.unacknowledged, "records that nobody was told of"
    assert set(found.values()) <= {1}, "two records of one prediction"


def _logs_are_clean(product: Product, before: Stock) -> None:
    secret = product.token.encode()
    for file, text in product.logs().items():
        fresh = text[before.log_bytes.get(file.name, 0) :]
        assert b"Traceback" not in fresh, fresh
        assert b'"exception"' not in fresh, fresh
        assert secret not in fresh
