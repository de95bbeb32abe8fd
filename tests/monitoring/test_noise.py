import numpy as np
import pytest

from serving.monitoring.comparison import Comparison
from serving.monitoring.noise import NoiseFloor
from tests.monitoring.pairing import a_comparison, pairs


def noisy(rows: int, seed: int, rate: float) -> np.ndarray:
    return np.where(np.random.default_rng(seed).random(rows) < rate, 1, 0)


def compared(comparison: Comparison, *, rows: int, seed: int, rate: float) -> Comparison:
    comparison.add_pairs(pairs(np.zeros(rows, np.int64), noisy(rows, seed, rate)))
    return comparison


def test_a_model_that_disagrees_with_itself_is_not_called_different() -> None:
    """Flipping 2 % against itself: rejected without a floor, promoted with the one measured."""
    floor = compared(a_comparison(), rows=20_000, seed=1, rate=0.02).noise()
    without = compared(a_comparison(), rows=20_000, seed=2, rate=0.02).decide()
    beside = compared(a_comparison(floor), rows=20_000, seed=2, rate=0.02).decide()

    hits, records = floor.counts["label.label_flip"]
    assert records == 20_000
    assert hits == pytest.approx(400, abs=60)
    assert (without.outcome, beside.outcome) == ("reject", "promote")


def test_a_difference_above_the_noise_is_found() -> None:
    """The same floor does not hide 5 %."""
    floor = compared(a_comparison(), rows=20_000, seed=1, rate=0.02).noise()

    assert (
        compared(a_comparison(floor), rows=20_000, seed=2, rate=0.05).decide().outcome == "reject"
    )


def test_a_short_measurement_decides_later_not_otherwise() -> None:
    """From 200 records the floor may be anything up to 6 %: neither breach nor promotion."""
    floor = NoiseFloor({"label.label_flip": (4, 200)})
    decision = compared(a_comparison(floor), rows=5000, seed=2, rate=0.03).decide()

    assert decision.outcome == "hold"


def test_a_floor_may_be_ignored() -> None:
    """noise_floor: false compares as if none had been measured, at the whole alpha."""
    floor = NoiseFloor({"label.label_flip": (900, 1000)})
    with_it = compared(a_comparison(floor, noise_floor=False), rows=600, seed=3, rate=0.03)
    without = compared(a_comparison(), rows=600, seed=3, rate=0.03)

    assert with_it.figures() == without.figures()


def test_what_was_never_measured_has_no_floor() -> None:
    """An output that the A/A comparison did not hold is judged by its bare limit."""
    assert NoiseFloor({}).bounds("label.label_flip", 0.05).high == 0.0
