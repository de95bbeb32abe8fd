import itertools
import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.monitoring.comparison import Comparison, Figure, LossBatch, PairBatch, PairCounts
from serving.monitoring.figures import ALL
from serving.monitoring.proportions import log_e_above, rate_span
from tests.monitoring.pairing import a_comparison, flipped, pairs

SLICED: dict[str, Any] = {
    "slices": [
        {"by": "age", "edges": [30]},
        {"by": "sex", "values": [1, 2], "protected": True},
        {"by": "principal"},
    ],
    "selection": {"output": "label", "reference": ["sex=1"]},
    "limits": {"max_loss_difference": 0.05, "win_margin": 0.1, "max_latency_ratio": 1.2},
    "outputs": [
        {"output": "label"},
        {"output": "label", "comparator": {"type": "distribution", "edges": [0.5]}},
        {"output": "label", "comparator": {"type": "tolerance"}, "max_mean_score": 0.5},
    ],
}


def figure(comparison: Comparison, name: str, on: str = ALL) -> Figure:
    return next(f for f in comparison.figures() if (f.name, f.slice) == (name, on))


def test_disagreements_are_counted_and_bounded() -> None:
    """The figure of an output is the rate of disagreement with its sequence and its evidence."""
    comparison = a_comparison()
    comparison.add_pairs(flipped(1000, 50))
    found = figure(comparison, "label.label_flip")

    assert (found.n, found.estimate, found.counts) == (1000, 0.02, {"hits": 20, "n": 1000})
    assert (found.low, found.high) == rate_span(20, 1000, 0.05)
    assert found.e_value == pytest.approx(math.exp(float(log_e_above(20, 980, 0.01))))
    assert (found.limit, found.status) == (0.01, "insufficient")


def test_rows_a_version_failed_are_failures_not_disagreements() -> None:
    """What stands where the candidate did not answer is never compared."""
    ok = np.arange(1000) % 10 != 0
    comparison = a_comparison()
    comparison.add_pairs(pairs(np.zeros(1000, np.int64), np.where(ok, 0, 7), ok=ok))

    assert figure(comparison, "label.label_flip").counts == {"hits": 0, "n": 900}
    assert figure(comparison, "failure").counts == {"hits": 100, "n": 1000}
    assert figure(comparison, "failure").status == "breach"


def test_latency_and_failure_count_once_for_each_request() -> None:
    """Rows of one request are one latency; unit `request` makes them one record of all measures."""
    request = np.arange(1000) // 4
    batch = pairs(np.zeros(1000, np.int64), np.zeros(1000, np.int64), request=request, slower=1.1)
    by_row, by_request = a_comparison(), a_comparison(unit="request")
    for comparison in (by_row, by_request):
        comparison.add_pairs(batch)

    assert figure(by_row, "latency_ratio").n == figure(by_row, "failure").n == 250
    assert figure(by_row, "latency_ratio").estimate == pytest.approx(1.103, abs=1e-3)
    assert figure(by_row, "latency_difference_ms").estimate == pytest.approx(0.103, abs=1e-3)
    assert (by_row.pairs, by_request.pairs) == (1000, 250)
    assert figure(by_request, "label.label_flip").n == 250


def test_unknown_times_are_left_out() -> None:
    """A record without its time has an answer all the same."""
    batch = pairs(np.zeros(200, np.int64), np.zeros(200, np.int64))
    batch.candidate_us[:50] = math.nan
    batch.primary_us[50:60] = 0.0
    comparison = a_comparison()
    comparison.add_pairs(batch)

    assert figure(comparison, "latency_ratio").n == 140
    assert figure(comparison, "label.label_flip").n == 200


def test_losses_are_paired_differences_and_wins() -> None:
    """A candidate that is wrong where the primary is right loses that outcome."""
    comparison = a_comparison(limits={"max_loss_difference": 0.02, "win_margin": 0.05})
    worse = (np.arange(4000) % 10 == 0).astype(np.float64)
    comparison.add_losses(LossBatch(np.zeros(4000), worse))
    difference, wins = figure(comparison, "loss_difference"), figure(comparison, "wins")

    assert comparison.outcomes == 4000
    assert difference.estimate == pytest.approx(0.1)
    assert difference.status == "breach"
    assert (wins.counts, wins.limit, wins.sense) == ({"wins": 0, "losses": 400}, 0.45, "at_least")
    assert wins.status == "breach"


def test_a_breach_on_a_slice_is_found_though_the_whole_is_fine() -> None:
    """One principal in twenty gets flips; all records together stay within the limit."""
    comparison = a_comparison(
        slices=[{"by": "principal", "values": ["a", "b"]}], limits={"max_disagreement": 0.02}
    )
    who = np.where(np.arange(8000) % 20 == 0, "b", "a")
    before = np.zeros(8000, np.int64)
    after = np.where((who == "b") & (np.arange(8000) % 100 < 20), 1, 0)
    comparison.add_pairs(pairs(before, after, principal=who))

    assert figure(comparison, "label.label_flip").status == "ok"
    assert figure(comparison, "label.label_flip", "principal=a").status == "ok"
    assert figure(comparison, "label.label_flip", "principal=b").status == "breach"
    assert comparison.decide().outcome == "reject"


def test_selection_rates_of_groups_are_divided() -> None:
    """The candidate selects one group half as often as the reference: breach, with both counts."""
    sex = 1 + np.arange(4000) % 2
    after = ((sex == 1) & (np.arange(4000) % 4 < 2) | (np.arange(4000) % 8 == 1)).astype(np.int64)
    comparison = a_comparison(
        slices=[{"by": "sex", "values": [1, 2], "protected": True}],
        selection={"output": "label", "reference": ["sex=1"]},
        limits={"max_disagreement": 1.0},
    )
    comparison.add_pairs(pairs(after, after, sex=sex))
    found = figure(comparison, "selection_ratio", "sex=2")

    assert found.estimate == pytest.approx(0.5)
    assert found.counts == {
        "selected": 500,
        "n": 2000,
        "reference_selected": 1000,
        "reference_n": 2000,
    }
    assert (found.status, found.limit, found.protected) == ("breach", 0.8, True)


def test_missing_pairs_stop_a_promotion_and_reject_nobody() -> None:
    """A tenth of the shadows left no record: nothing can be said about the candidate."""
    comparison = a_comparison()
    comparison.add_pairs(flipped(4000, 0))
    before = comparison.decide().outcome
    comparison.add_counts(PairCounts(expected=4000, missing=400))
    decision = comparison.decide()

    assert (before, decision.outcome) == ("promote", "hold")
    assert any("missing" in reason and "beyond" in reason for reason in decision.reasons)


def test_an_output_that_only_one_has_is_no_pair() -> None:
    """What cannot be compared stays without a record, and keeps the candidate from promotion."""
    batch = flipped(2000, 0)
    comparison = a_comparison(outputs=[{"output": "label"}, {"output": "score"}])
    comparison.add_pairs(batch)

    assert figure(comparison, "score.probability_shift").n == 0
    assert comparison.decide().outcome == "hold"


def random_batch(seed: int, rows: int) -> PairBatch:
    random = np.random.default_rng(seed)
    before = random.integers(0, 2, rows)
    return pairs(
        before,
        np.where(random.random(rows) < 0.05, 1 - before, before),
        ok=random.random(rows) < 0.98,
        slower=1.05,
        request=np.sort(random.integers(0, rows, rows)),
        age=random.integers(18, 90, rows),
        sex=random.integers(1, 3, rows),
        principal=np.array(["ann", "bob", "eve"], object)[random.integers(0, 3, rows)],
    )


def part_of(batch: PairBatch, start: int, stop: int) -> PairBatch:
    at = slice(start, stop)
    return PairBatch(
        {name: array[at] for name, array in batch.primary.items()},
        {name: array[at] for name, array in batch.candidate.items()},
        batch.request[at],
        batch.primary_ok[at],
        batch.candidate_ok[at],
        batch.primary_us[at],
        batch.candidate_us[at],
        {name: array[at] for name, array in batch.features.items()},
    )


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(1, 299), max_size=3))
def test_cuts_and_deaths_change_nothing_that_is_known(seed: int, cuts: list[int]) -> None:
    """Cut between requests, each part by a process that dies after it: the same state, to the bit."""
    batch = random_batch(seed, 300)
    losses = LossBatch(np.zeros(300), np.arange(300) % 3 / 2.0, batch.features)
    whole, parts = a_comparison(**SLICED), a_comparison(**SLICED)
    whole.add_pairs(batch)
    whole.add_losses(losses)
    begins = np.flatnonzero(batch.firsts)
    edges = sorted({0, 300, *(int(begins[cut % len(begins)]) for cut in cuts)})
    for start, stop in itertools.pairwise(edges):
        parts.add_pairs(part_of(batch, start, stop))
        state = json.loads(json.dumps(parts.state()))
        parts = a_comparison(**SLICED)
        parts.restore(state)
    parts.add_losses(losses)

    assert known_by(parts) == known_by(whole)


def known_by(comparison: Comparison) -> dict[str, Any]:
    """The state, whatever the order in which an open slice met its values."""
    state = comparison.state()
    return {**state, "values": {by: sorted(values) for by, values in state["values"].items()}}


def test_what_is_restored_says_the_same() -> None:
    """Figures and decision are functions of the state alone."""
    first, second = a_comparison(**SLICED), a_comparison(**SLICED)
    first.add_pairs(random_batch(1, 300))
    second.restore(json.loads(json.dumps(first.state())))

    assert second.figures() == first.figures()
    assert second.decide() == first.decide()


def test_a_state_belongs_to_its_specification() -> None:
    """Counts against one set of slices and limits are not taken for another."""
    with pytest.raises(ValueError, match="another specification"):
        a_comparison(alpha=0.1).restore(a_comparison().state())


def test_figures_and_decisions_are_json() -> None:
    """With infinities and what is not known yet left out, they are read back as they were."""
    comparison = a_comparison(**SLICED)
    comparison.add_pairs(random_batch(1, 60))
    figures = comparison.figures()

    assert msgspec.json.decode(msgspec.json.encode(figures), type=tuple[Figure, ...]) == figures
    assert "NaN" not in msgspec.json.encode(figures).decode()


def test_wins_that_are_even_show_non_inferiority() -> None:
    """Half of 1,200 discordant outcomes won, with a margin of a tenth: within the limit."""
    comparison = a_comparison(limits={"win_margin": 0.1})
    first = (np.arange(1200) % 2).astype(np.float64)
    comparison.add_losses(LossBatch(first, 1.0 - first))
    found = figure(comparison, "wins")

    assert (found.estimate, found.limit, found.status) == (0.5, 0.4, "ok")
