import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.models import BatchLimits
from serving.inference.profile import SIZES, BatchProfile

FREE = BatchLimits(max_batch_size=64, latency_objective_ms=60_000)
WORTHWHILE = 1.1


def learned(per_row_s: dict[int, float], limits: BatchLimits = FREE) -> BatchProfile:
    """A profile whose warm-up measured these costs per row."""
    profile = BatchProfile(limits)
    for size in profile.sizes:
        profile.measured(size, per_row_s[size] * size)
    return profile


def best_of(costs: dict[int, float], limits: BatchLimits) -> float:
    """The least cost per row of any size within the limits; the reference, by trying all."""
    longest_s = limits.latency_objective_ms / 1000
    fitting = [
        cost
        for size, cost in costs.items()
        if size <= limits.max_batch_size and (size == 1 or 2 * size * cost <= longest_s)
    ]
    return min(fitting)


@given(
    costs=st.fixed_dictionaries({size: st.floats(1e-6, 1e-2) for size in SIZES}),
    most=st.integers(1, 256),
    objective_ms=st.floats(0.1, 1000),
)
def test_choice_is_the_best_within_the_objective(
    costs: dict[int, float], most: int, objective_ms: float
) -> None:
    """No size inside the limits runs more than a tenth more rows per second than the one chosen."""
    limits = BatchLimits(most, objective_ms)
    profile = learned(costs, limits)

    best = profile.best_rows
    assert best <= most
    assert best == 1 or 2 * best * costs[best] <= objective_ms / 1000
    assert costs[best] <= WORTHWHILE * best_of(costs, limits)


def test_largest_is_not_always_the_best() -> None:
    """Caches make a middle size the fastest; that one is learned."""
    costs = {size: 1e-3 / min(size, 16) * (1 if size <= 16 else 2) for size in SIZES}

    assert learned(costs).best_rows == 16


def test_model_that_gains_nothing_runs_rows_alone() -> None:
    """Where a row costs the same in any company, company is only delay."""
    assert learned(dict.fromkeys(SIZES, 1e-3)).best_rows == 1


def test_objective_bounds_two_runs() -> None:
    """A caller waits for one run and has its own: both must fit."""
    costs = dict.fromkeys(SIZES, 1e-3) | {16: 0.5e-3, 32: 0.4e-3, 64: 0.3e-3}

    assert learned(costs, BatchLimits(64, 2 * 16 * 0.5)).best_rows == 16
    assert learned(costs, BatchLimits(64, 2 * 16 * 0.5 - 0.1)).best_rows == 1


def test_before_anything_is_measured_the_limit_stands() -> None:
    """A replica that did not warm up runs what the specification permits."""
    assert BatchProfile(BatchLimits(20)).best_rows == 20


def test_sizes_stay_within_the_limit() -> None:
    """Nothing larger than the specification permits is even tried."""
    assert BatchProfile(BatchLimits(20)).sizes == (1, 2, 4, 8, 12, 16)


def test_real_runs_move_the_choice() -> None:
    """When the best size becomes slow in service, another one is chosen."""
    profile = learned(dict.fromkeys(SIZES, 1e-3) | {8: 0.5e-3, 4: 0.8e-3})
    assert profile.best_rows == 8

    for _ in range(200):
        profile.ran(8, 8 * 1e-3)

    assert profile.best_rows == 4


def test_one_slow_run_changes_nothing() -> None:
    """A run during which the machine was busy elsewhere says little about the model."""
    profile = learned(dict.fromkeys(SIZES, 1e-3) | {8: 0.5e-3})

    profile.ran(8, 60.0)

    assert profile.best_rows == 8
    assert profile.table[8] == pytest.approx(8 * 0.5e-3, rel=0.03)


def test_run_between_two_sizes_refreshes_the_lower() -> None:
    """Eleven rows say what about eight cost each."""
    profile = learned(dict.fromkeys(SIZES, 1e-3))

    profile.ran(11, 11 * 2e-3)

    assert profile.table[8] > 8e-3
    assert profile.table[12] == pytest.approx(12e-3)


def test_size_that_never_warmed_up_is_not_learned() -> None:
    """A real run of a size that warm-up left out does not become a choice."""
    profile = BatchProfile(FREE)
    profile.measured(1, 1e-3)

    profile.ran(32, 1e-9)

    assert (profile.best_rows, list(profile.table)) == (1, [1])
