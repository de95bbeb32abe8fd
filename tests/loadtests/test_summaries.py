import pytest

from loadtests.summaries import summarise
from tests.loadtests.samples import a_result, a_window


def test_rates_and_latencies_are_medians_and_costs_are_minima() -> None:
    """One slow repetition moves neither; interference only adds CPU time."""
    result = a_result(
        "any",
        (a_window(1000, p50_ms=1, cpu_s=2),),
        (a_window(1000, p50_ms=2, cpu_s=1),),
        (a_window(10, p50_ms=90, cpu_s=1),),
    )

    (side,) = summarise(result).sides

    assert (side.rate_per_s, side.p50_ms, side.cpu_s_per_1000) == (1000, 2, 0.5)


def test_a_ratio_is_taken_inside_each_repetition() -> None:
    """A machine that is twice as fast in one repetition changes no ratio."""
    result = a_result(
        "any",
        (a_window(900), a_window(1000)),
        (a_window(1800), a_window(2000)),
        (a_window(450), a_window(500)),
    )

    ratio = summarise(result).ratio

    assert ratio is not None
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((0.9, 0.9, 0.9))


def test_few_repetitions_have_no_interval() -> None:
    """Two values say nothing about their spread."""
    ratio = summarise(a_result("any", (a_window(1), a_window(2)), (a_window(1), a_window(4)))).ratio

    assert ratio is not None
    assert (ratio.low, ratio.high) == (None, None)


def test_a_single_side_has_no_ratio() -> None:
    """There is nothing to compare with."""
    assert summarise(a_result("any", (a_window(1),))).ratio is None
