"""HT-01 to HT-11: messages that mean two things, or nothing, are refused and nothing behind them read.

Behind each of them stands a request that would be served if anybody took it for one.
"""

import time

import pytest

from tests.edge.wire import Answer, request
from tests.hostile import messages
from tests.hostile.cases import Case
from tests.hostile.messages import Broken
from tests.hostile.product import INFER


def refused(case: Case, broken: Broken) -> Answer:
    """The one answer to a broken message: a refusal, and the end."""
    (answer,) = case.ask(broken.raw + (b"" if broken.late else case.product.inference()))
    assert answer.status in broken.statuses
    assert answer.headers["connection"] == "close"
    return answer


def name(broken: Broken) -> str:
    """Of a parameter: what differs."""
    return repr(broken.raw.removeprefix(messages.START.encode())[:60])[2:-1]


@pytest.mark.parametrize("broken", messages.AMBIGUOUS, ids=name)
def test_ht_01_two_lengths_are_ambiguous(case: Case, broken: Broken) -> None:
    """Content-Length beside Transfer-Encoding is refused and the request hidden in it not served."""
    assert refused(case, broken).json()["code"] == "ambiguous_length"


@pytest.mark.parametrize("broken", messages.LENGTHS, ids=name)
def test_ht_02_length_must_be_one_number(case: Case, broken: Broken) -> None:
    """A length that is repeated, signed, listed or no decimal number is refused."""
    refused(case, broken)


@pytest.mark.parametrize("broken", messages.PROMISES, ids=name)
def test_ht_03_promised_length_is_bounded_and_kept(case: Case, broken: Broken) -> None:
    """Too large a promise is refused before any of it comes, a broken one at the body's deadline."""
    refused(case, broken)


@pytest.mark.parametrize("broken", messages.CODINGS, ids=name)
def test_ht_04_only_one_transfer_coding_is_known(case: Case, broken: Broken) -> None:
    """Any transfer coding but `chunked`, however it is disguised, is refused; in HTTP/1.0 every one."""
    refused(case, broken)


@pytest.mark.parametrize("broken", messages.CHUNKS, ids=name)
def test_ht_05_broken_chunks_are_refused(case: Case, broken: Broken) -> None:
    """Chunks that do not keep to the grammar by the byte are refused."""
    refused(case, broken)


@pytest.mark.parametrize("broken", messages.LARGE_FRAMING, ids=["chunks", *("extension", "trailer", "trailers")])  # fmt: skip
def test_ht_06_framing_has_a_limit(case: Case, broken: Broken) -> None:
    """A hundred thousand one-byte chunks, or a megabyte of framing, cost less than half a second."""
    used_s, started = case.product.cpu_s(), time.monotonic()

    refused(case, broken)

    assert case.product.cpu_s() - used_s < 0.5
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("broken", messages.LINES, ids=name)
def test_ht_07_lines_of_the_head_are_strict(case: Case, broken: Broken) -> None:
    """Bare line feeds, folded lines, control bytes and odd names are refused."""
    refused(case, broken)


@pytest.mark.parametrize("broken", messages.NAMES, ids=name)
def test_ht_08_headers_cannot_be_doubled(case: Case, broken: Broken) -> None:
    """Two values where one is meant, and names that a proxy may rewrite to another, are refused."""
    refused(case, broken)


def test_ht_09_pipelined_requests_are_judged_alone(case: Case) -> None:
    """Of two requests sent at once the first, without a token, gets 401 and the second 200."""
    stranger = request("POST", INFER, "Content-Type: application/json", body=b"{}")
    with case.connect() as connection:
        connection.send(stranger + case.product.inference())

        assert [connection.receive().status for _ in range(2)] == [401, 200]


@pytest.mark.parametrize("broken", messages.HOSTS, ids=name)
def test_ht_10_host_and_version_are_required(case: Case, broken: Broken) -> None:
    """Exactly one valid Host and HTTP/1.0 or 1.1; anything else is refused."""
    refused(case, broken)


@pytest.mark.parametrize("broken", messages.METHODS, ids=lambda each: repr(each.raw[:12]))
def test_ht_11_methods_are_known_and_fit(case: Case, broken: Broken) -> None:
    """A method that HTTP does not know is a broken message; one that does not fit is told which do."""
    refused(case, broken)
