import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.monitoring.multiplicity import average, e_bh

LOGS = st.lists(st.floats(-50.0, 50.0), min_size=1, max_size=30)


@given(LOGS)
def test_the_average_is_taken_of_the_numbers_not_their_logs(logs: list[float]) -> None:
    """Log of the mean of exponentials; of nothing, no evidence."""
    expected = math.log(math.fsum(math.exp(x) for x in logs) / len(logs))

    assert average(logs) == pytest.approx(expected, abs=1e-9)
    assert (average([]), average([math.inf, 0.0])) == (0.0, math.inf)


@given(LOGS, st.sampled_from([0.01, 0.05, 0.2]))
def test_e_bh_rejects_the_largest_by_its_rule(logs: list[float], alpha: float) -> None:
    """The rejected are the k largest for the largest k whose k-th is at least m / (alpha k)."""
    ranked = sorted(logs, reverse=True)
    k = max(
        (k for k, x in enumerate(ranked, 1) if x >= math.log(len(logs) / (alpha * k))), default=0
    )
    rejected = e_bh(logs, alpha)

    assert sum(rejected) == k
    assert sorted((x for x, r in zip(logs, rejected, strict=True) if r), reverse=True) == ranked[:k]


@given(LOGS, st.sampled_from([0.01, 0.05, 0.2]))
def test_e_bh_speaks_only_where_the_average_does(logs: list[float], alpha: float) -> None:
    """Any rejection means an average of at least 1/alpha: why it may be looked at any time."""
    if any(e_bh(logs, alpha)):
        assert average(logs) >= math.log(1.0 / alpha) - 1e-9


def test_members_without_evidence_count() -> None:
    """The family is what could be looked at, not only what has spoken."""
    assert e_bh([math.log(25.0)], 0.05) == [True]
    assert e_bh([math.log(25.0)], 0.05, family=2) == [False]
