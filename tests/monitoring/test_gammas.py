import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.monitoring.gammas import log_beta, log_beta_tail, log_gamma

COUNTS = st.integers(1, 400)
RATES = st.floats(0.001, 0.999)


@given(st.floats(1e-3, 1e9))
def test_log_gamma_is_that_of_the_standard_library(x: float) -> None:
    """The array form agrees with math.lgamma over twelve decades."""
    assert float(log_gamma(x)) == pytest.approx(math.lgamma(x), rel=1e-13, abs=1e-12)


@given(COUNTS, COUNTS)
def test_log_beta_counts_combinations(a: int, b: int) -> None:
    """Of whole numbers, beta is one over a number of combinations."""
    expected = -math.log((a + b - 1) * math.comb(a + b - 2, a - 1))

    assert float(log_beta(a, b)) == pytest.approx(expected, rel=1e-12, abs=1e-11)


@given(COUNTS, COUNTS, RATES)
def test_the_tail_of_beta_is_a_sum_of_binomial_terms(a: int, b: int, x: float) -> None:
    """P(Q > x) is the probability of fewer than a successes in a + b - 1 trials."""
    n = a + b - 1
    terms = [
        math.lgamma(n + 1)
        - math.lgamma(k + 1)
        - math.lgamma(n - k + 1)
        + k * math.log(x)
        + (n - k) * math.log1p(-x)
        for k in range(a)
    ]
    top = max(terms)
    expected = min(top + math.log(math.fsum(math.exp(t - top) for t in terms)), 0.0)

    assert float(log_beta_tail(a, b, x)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(RATES)
def test_the_tail_of_the_arcsine_law_is_known(x: float) -> None:
    """With both parameters one half, the distribution is 2/pi arcsin(sqrt(x))."""
    expected = math.log(2.0 / math.pi * math.acos(math.sqrt(x)))

    assert float(log_beta_tail(0.5, 0.5, x)) == pytest.approx(expected, rel=1e-9, abs=1e-10)


@given(st.lists(st.floats(0.5, 1e6), min_size=1, max_size=20), st.data())
def test_an_element_does_not_depend_on_its_neighbours(
    values: list[float], data: st.DataObject
) -> None:
    """The same argument gives the same bits alone and in any array."""
    index = data.draw(st.integers(0, len(values) - 1))

    assert float(log_gamma(np.array(values))[index]) == float(log_gamma(values[index]))
