import numpy as np
import pytest

from serving.monitoring.comparison import LossBatch
from tests.monitoring.pairing import a_comparison, flipped, pairs


def test_equal_versions_are_promoted_when_enough_is_known() -> None:
    """Too few pairs, then not yet shown, then promoted with each limit as a reason."""
    comparison = a_comparison(min_samples=200)
    outcomes = []
    for _ in range(10):
        comparison.add_pairs(flipped(100, 0))
        outcomes.append(comparison.decide().outcome)
    decision = comparison.decide()

    assert outcomes[0] == "hold"
    assert outcomes[-1] == "promote"
    assert decision.final
    assert len([reason for reason in decision.reasons if "within the limit" in reason]) == 2


def test_no_decision_before_the_minimum() -> None:
    """Even a candidate that always disagrees is rejected only after `min_samples`."""
    comparison = a_comparison(min_samples=500)
    comparison.add_pairs(flipped(400, 1))
    early = comparison.decide()
    comparison.add_pairs(flipped(100, 1))

    assert (early.outcome, early.reasons[0]) == ("hold", "400 pairs of at least 500")
    assert comparison.decide().outcome == "reject"


def test_a_rejection_says_what_was_seen() -> None:
    """Name, estimate, interval, number, evidence and limit stand in its reason."""
    comparison = a_comparison()
    comparison.add_pairs(flipped(3000, 20))
    decision = comparison.decide()

    assert decision.outcome == "reject"
    assert decision.reasons[0].startswith("label.label_flip 0.05 (0.0")
    assert "n 3000" in decision.reasons[0]
    assert decision.reasons[0].endswith("at most 0.01: beyond the limit")


def test_the_horizon_ends_waiting() -> None:
    """A candidate at its limit is neither shown to be within nor beyond: hold, for good."""
    comparison = a_comparison(max_samples=2000, limits={"max_disagreement": 0.01})
    comparison.add_pairs(flipped(2000, 100))
    decision = comparison.decide()

    assert (decision.outcome, decision.final) == ("hold", True)
    assert decision.reasons[0] == "the horizon of 2000 pairs is reached"


def test_futile_waiting_ends_before_the_horizon() -> None:
    """Twice the limit with little evidence yet, and too few pairs left to show the opposite."""
    comparison = a_comparison(min_samples=500, max_samples=1500)
    comparison.add_pairs(flipped(800, 60))
    decision = comparison.decide()

    assert (decision.outcome, decision.final) == ("hold", True)
    assert "futile" in decision.reasons[0]


def test_waiting_goes_on_while_it_can_help() -> None:
    """Below the limit with a far horizon, hold is not final."""
    comparison = a_comparison(min_samples=500, max_samples=100_000)
    comparison.add_pairs(flipped(600, 150))
    decision = comparison.decide()

    assert (decision.outcome, decision.final) == ("hold", False)


def test_a_limit_on_losses_demands_outcomes() -> None:
    """Without outcomes nothing is shown about losses; with equal ones it is."""
    comparison = a_comparison(limits={"max_loss_difference": 0.02}, min_outcomes=2000)
    comparison.add_pairs(flipped(4000, 0))
    before = comparison.decide()
    comparison.add_losses(LossBatch(np.ones(4000), np.ones(4000)))

    assert before.outcome == "hold"
    assert "0 outcomes of at least 2000" in before.reasons
    assert "loss_difference: no record: not yet shown to be within the limit" in before.reasons
    assert comparison.decide().outcome == "promote"


@pytest.mark.parametrize(
    ("share", "outcome"), [(0.3, "hold"), (0.02, "promote")], ids=["large-group", "small-group"]
)
def test_a_protected_slice_must_be_shown_to_be_within(share: float, outcome: str) -> None:
    """Of a group with `min_samples` records the limits must be shown; a smaller one is named."""
    comparison = a_comparison(slices=[{"by": "group", "values": ["m", "r"], "protected": True}])
    rows = 2500
    group = np.where(np.arange(rows) < rows * share, "m", "r")
    after = np.zeros(rows, np.int64)
    after[:4] = 1  # all of them in the minority
    comparison.add_pairs(pairs(np.zeros(rows, np.int64), after, group=group))
    decision = comparison.decide()

    assert decision.outcome == outcome
    assert any("group=m" in reason for reason in decision.reasons)


def test_identical_noisy_versions_are_never_rejected_while_peeked_at() -> None:
    """The whole decision with slices, 40 runs of 10 looks each, at the very limit: within alpha."""
    random = np.random.default_rng(81)
    rejected = 0
    for _ in range(40):
        comparison = a_comparison(
            min_samples=1, limits={"max_disagreement": 0.02}, slices=[{"by": "g", "values": [0, 1]}]
        )
        seen = False
        for _ in range(10):
            after = (random.random(100) < 0.02).astype(np.int64)
            comparison.add_pairs(
                pairs(np.zeros(100, np.int64), after, g=random.integers(0, 2, 100))
            )
            seen |= comparison.decide().outcome == "reject"
        rejected += seen

    assert rejected <= 2
