import math

import numpy as np
import pytest

from serving.monitoring.fairness import (
    Selected,
    anytime_interval,
    judge,
    log_e_below,
    ratio_interval,
)
from serving.monitoring.intervals import Interval

Z95 = 1.959964


def test_katz_interval_is_its_formula() -> None:
    """exp(ln ratio ± z sqrt((1 - p1)/(n1 p1) + (1 - p2)/(n2 p2)))."""
    interval = ratio_interval(Selected(172, 308), Selected(1453, 2000), Z95)
    error = math.sqrt((1 - 172 / 308) / 172 + (1 - 1453 / 2000) / 1453)
    ratio = (172 / 308) / (1453 / 2000)

    assert interval.estimate == pytest.approx(ratio)
    assert interval.low == pytest.approx(ratio * math.exp(-Z95 * error))
    assert interval.high == pytest.approx(ratio * math.exp(Z95 * error))


@pytest.mark.parametrize(
    ("interval", "status"),
    [
        (Interval(0.77, 0.715, 0.839), "warn"),
        (Interval(0.68, 0.60, 0.79), "breach"),
        (Interval(0.98, 0.95, 1.02), "ok"),
        (Interval(0.75, 0.5, 1.1), "insufficient"),
        (Interval(math.nan, 0.0, math.inf), "insufficient"),
    ],
    ids=["mortgage-at-8", "mortgage-at-9", "census-by-sex", "few", "none"],
)
def test_the_guard_separates_value_from_interval(interval: Interval, status: str) -> None:
    """Alarm only if the whole interval is below .8, warn on the value, too wide says nothing."""
    assert judge(interval, 0.8) == status


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("minority", [30, 100, 500])
def test_small_groups_of_equal_rates_raise_no_alarm(rate: float, minority: int) -> None:
    """Where the value alone is below .8 in up to 42 % of samples, the guard alarms in none of 100."""
    random = np.random.default_rng(71)
    groups = random.binomial(minority, rate, 100)
    others = random.binomial(10 * minority, rate, 100)
    statuses = [
        judge(
            anytime_interval(Selected(int(a), minority), Selected(int(b), 10 * minority), 0.05), 0.8
        )
        for a, b in zip(groups, others, strict=True)
    ]

    assert "breach" not in statuses


def test_looking_at_every_record_raises_no_alarm() -> None:
    """1,000 runs of a group exactly at four fifths: interval and evidence stay within alpha."""
    random = np.random.default_rng(72)
    looks = range(200, 2001, 100)
    alarms = evident = 0
    for _ in range(1000):
        group = np.cumsum(random.random(2000) < 0.4)
        other = np.cumsum(random.random(2000) < 0.5)
        pairs = [(Selected(int(group[n - 1]), n), Selected(int(other[n - 1]), n)) for n in looks]
        alarms += any(not anytime_interval(a, b, 0.05).contains(0.8) for a, b in pairs)
        evident += any(log_e_below(a, b, 0.8) >= math.log(20) for a, b in pairs)

    assert alarms <= 50
    assert evident <= 50


def test_a_disparity_is_found() -> None:
    """A ratio of .64 in 2,000 records of each group is an alarm with evidence."""
    group, reference = Selected(640, 2000), Selected(1000, 2000)

    assert judge(anytime_interval(group, reference, 0.05), 0.8) == "breach"
    assert log_e_below(group, reference, 0.8) > math.log(100)


@pytest.mark.parametrize("selected", [0, 200])
def test_nobody_and_everybody_have_an_interval(selected: int) -> None:
    """Half a count keeps logarithms finite where a group selects nobody or everybody."""
    interval = anytime_interval(Selected(selected, 200), Selected(100, 200), 0.05)

    assert 0.0 < interval.low < interval.high < math.inf
