"""What h2load prints, as an outcome: only messages that came count as answers."""

import numpy as np
import pytest

from loadtests import h2load, wrk

PRINTED = """
finished in 1.00s, 100.00 req/s, 30.9KB/s
requests: 103 total, 103 started, 100 done, 98 succeeded, 2 failed, 2 errored, 0 timeout
status codes: 98 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 30.9KB (31641) total, 6.25KB (6400) headers (space savings 18.99%), 2.93KB (3000) data
"""


def outcome(*, answer_bytes: int) -> wrk.Outcome:
    times_us = np.array([1000.0, 2000.0, 3000.0])
    return h2load.parse(PRINTED, times_us=times_us, answer_bytes=answer_bytes, seconds=1, cpu_s=0.1)


@pytest.mark.parametrize(("answer_bytes", "answered"), [(25, 98), (35, 75), (2995, 1)])
def test_answers_without_their_message_are_refusals(answer_bytes: int, answered: int) -> None:
    """A refused call has a status of HTTP that is good, and no message."""
    found = outcome(answer_bytes=answer_bytes)

    assert (found.requests, found.refused, found.broken) == (answered, 98 - answered, 2)
    assert (found.p50_ms, found.max_ms) == (2.0, 3.0)


def test_nothing_was_answered_before_the_run() -> None:
    """Then at least one call is broken, whatever the generator saw."""
    assert outcome(answer_bytes=0).broken == 3


def test_log_tells_the_times_of_what_was_answered() -> None:
    """Streams that failed have no status."""
    assert list(h2load.times_of("1\t200\t50\n2\t-1\t60\n3\t200\t70\n")) == [50.0, 70.0]


def test_other_words_are_no_counts() -> None:
    """A version that prints something else is not taken for one that counted nothing."""
    with pytest.raises(wrk.WrkFailed, match="no counts"):
        h2load.parse("hello", times_us=np.array([]), answer_bytes=1, seconds=1, cpu_s=0.0)
