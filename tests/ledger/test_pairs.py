"""Pairs of primaries and copies: each once, in any order, within bounds, and what is missing counted."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.core.clock import ManualClock
from serving.core.predictions import Fate, PredictionRecord
from serving.ledger.pairs import (
    Candidate,
    Pair,
    PairCounts,
    Pairing,
    PairingLimits,
    PairKey,
    Subject,
)
from serving.ledger.sampling import Sampling
from serving.ledger.selecting import PairSelection
from serving.ledger.tailing import Cursor, Follower
from serving.predictionlog.format import Flag
from tests.ledger.pairlogs import MODEL, Said, Scribe
from tests.logs import NOW_NS

KEY = PairKey(MODEL, "1", "2")
SUBJECT = Subject(MODEL, "1", (Candidate("2"),))


@pytest.fixture
def scribe(tmp_path: Path) -> Scribe:
    return Scribe(tmp_path / "log" / "gateway-0").open()


def records(scribe: Scribe) -> list[PredictionRecord]:
    """Everything written so far, in the order of the log."""
    root = scribe.directory.parent
    cursor = Cursor(root, root.parent / "unused", clock=ManualClock())
    found: list[PredictionRecord] = []
    while events := cursor.read(1000):
        found += [each for each in events if isinstance(each, PredictionRecord)]
    return found


def pairing(subject: Subject = SUBJECT, **limits: float) -> Pairing:
    made = Pairing(replace(PairingLimits(), **limits))  # type: ignore[arg-type]
    made.follow([subject])
    return made


def ids(pairs: Sequence[Pair]) -> list[tuple[int, int]]:
    return [(pair.primary.sequence, pair.candidate.sequence) for pair in pairs]


def taken(made: Pairing, found: Sequence[PredictionRecord]) -> list[Pair]:
    return [pair for record in found for pair in made.take(record)]


def test_a_primary_is_paired_with_its_copy(scribe: Scribe) -> None:
    """By `shadow_of`, whatever stands between the two."""
    first, second = scribe.primary(), scribe.primary(1)
    scribe.write(first, second, scribe.copy(second), scribe.copy(first))
    made = pairing()

    found = taken(made, records(scribe))

    assert [pair.primary.sequence for pair in found] == [second.sequence, first.sequence]
    assert {pair.candidate.shadow_of for pair in found} == {first.identifier, second.identifier}
    assert made.counts[KEY] == PairCounts(primaries=2, pairs=2)
    assert made.oldest_mark is None


def test_failed_and_chosen_primaries_are_left_out(scribe: Scribe) -> None:
    """They are compared with nothing, and counted by reason; a candidate's failure is a pair."""
    answered = scribe.primary()
    scribe.write(
        scribe.primary(fate=Fate.TIMEOUT),
        scribe.primary(kind=int(Flag.CHOSEN)),
        answered,
        scribe.copy(answered, fate=Fate.MODEL_ERROR),
    )
    made = pairing()

    found = taken(made, records(scribe))

    assert [pair.candidate.fate for pair in found] == [Fate.MODEL_ERROR]
    assert made.counts[KEY] == PairCounts(
        primaries=1, pairs=1, failures=1, left_out={"primary_failed": 1, "chosen": 1}
    )


def test_a_copy_that_never_comes_is_missing(scribe: Scribe) -> None:
    """After the wait, in the log's own time; a copy without a primary is an orphan."""
    lost, kept = scribe.primary(), scribe.primary()
    ghost = scribe.copy(Said("1", 9_999))
    scribe.write(lost, kept, ghost, scribe.copy(kept))
    late = scribe.primary(time_ns=NOW_NS + 31 * 10**9)
    scribe.write(late)
    made = pairing(wait_s=30.0)

    taken(made, records(scribe))
    made.expire(None)

    counts = made.counts[KEY]
    assert (counts.pairs, counts.unpaired) == (1, {"missing": 1, "orphan": 1})
    assert counts.gap(1.0) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("share", "unpaired", "gap"),
    [(0.5, {"unsampled": 4, "missing": 1}, 0.25), (None, {"unsampled": 5}, None)],
)
def test_of_a_partial_shadow_only_what_was_due_is_missing(
    scribe: Scribe, share: float | None, unpaired: dict[str, int], gap: float | None
) -> None:
    """The sequence of a primary tells whether a copy was to be made; else nothing is called missing."""
    said = [scribe.primary() for _ in range(8)]
    due = [each for each in said if each.sequence % 2]
    scribe.write(*said, *[scribe.copy(each) for each in due[1:]])
    made = Pairing(PairingLimits(wait_s=1.0), point_of=lambda sequence: 9_999 * (1 - sequence % 2))
    made.follow([Subject(MODEL, "1", (Candidate("2", share),))])

    taken(made, records(scribe))
    made.expire(NOW_NS + 60 * 10**9)

    assert made.counts[KEY].unpaired == unpaired
    assert made.counts[KEY].gap(share) == gap


@pytest.mark.parametrize(("later", "word"), [(0, "missing"), (1, "unsampled")])
def test_no_copy_is_missed_of_what_was_routed_before_there_were_copies(
    scribe: Scribe, later: int, word: str
) -> None:
    """A primary of an earlier snapshot than the one that said so is not due."""
    scribe.write(scribe.primary())
    [primary] = records(scribe)
    candidate = Candidate("2", epoch=primary.policy_epoch + later)
    made = pairing(Subject(MODEL, "1", (candidate,)), wait_s=1.0)

    taken(made, [primary])
    made.expire(NOW_NS + 60 * 10**9)

    assert made.counts[KEY].unpaired == {word: 1}


def test_what_is_held_is_bounded(scribe: Scribe) -> None:
    """The oldest go first, and are counted; the newest are still paired."""
    said = [scribe.primary() for _ in range(6)]
    scribe.write(*said, *[scribe.copy(each) for each in said])
    made = pairing(max_records=2)

    found = taken(made, records(scribe))

    assert {pair.primary.sequence for pair in found} == {each.sequence for each in said[-2:]}
    counts = made.counts[KEY]
    assert (counts.pairs, counts.unpaired) == (2, {"evicted": 4, "orphan": 4})


def test_two_candidates_of_one_primary(scribe: Scribe) -> None:
    """Each gets its own pair, and its own counts."""
    said = scribe.primary()
    scribe.write(said, scribe.copy(said, "2"), scribe.copy(said, "3"))
    made = pairing(Subject(MODEL, "1", (Candidate("2"), Candidate("3"))))

    found = taken(made, records(scribe))

    assert [pair.candidate.version for pair in found] == ["2", "3"]
    assert [each.pairs for each in made.counts.values()] == [1, 1]
    assert made.oldest_mark is None


@settings(deadline=None, max_examples=60)
@given(order=st.permutations(range(12)), cut=st.integers(0, 12))
def test_every_order_and_every_restart_pairs_the_same(order: list[int], cut: int) -> None:
    """Primaries and copies in any order, interrupted anywhere: the same pairs, windows and digest."""
    base = [_record(sequence) for sequence in range(1, 7)]
    everything = base + [_record(each.sequence + 100, of=each) for each in base]
    whole, first, second = pairing(), pairing(), pairing()
    taken(whole, everything)
    shuffled = [everything[place] for place in order]

    found = taken(first, shuffled[:cut])
    waiting = first.waiting()
    second.counts, second.windows = first.counts, first.windows
    for record in shuffled[:cut]:
        if record.prediction_id in {*waiting.primaries, *waiting.copies}:
            second.hold(record, still_open=waiting.primaries.get(record.prediction_id, ()))
    found += taken(second, shuffled[cut:])

    assert sorted(ids(found)) == [(n, n + 100) for n in range(1, 7)]
    assert second.windows[KEY] == whole.windows[KEY]
    assert second.counts[KEY] == whole.counts[KEY]


def _record(sequence: int, of: PredictionRecord | None = None) -> PredictionRecord:
    log = "ab" * 8
    return PredictionRecord(
        f"{log}-{sequence:x}", sequence, NOW_NS, Fate.OK, "", "p", "r", MODEL,
        "1" if of is None else "2", "d" * 64, 1, (), (), 1, 1, 1, 1, 1, 1, 0, "",
        "" if of is None else of.prediction_id,
    )  # fmt: skip


def test_a_share_is_fair_and_can_be_retold(tmp_path: Path) -> None:
    """A pair is taken or left as a whole; who reads again with the same steps takes the same ones."""
    scribe = Scribe(tmp_path / "log" / "gateway-0").open()
    said = [scribe.primary() for _ in range(400)]
    for each in said:
        scribe.write(each, scribe.copy(each))
    selection = PairSelection()
    selection.follow({MODEL: SUBJECT})
    selection.samplings[MODEL] = Sampling(halvings=2)
    follower = Follower(tmp_path / "log", {}, clock=ManualClock(), selection=selection)
    made = pairing()

    found: list[Pair] = []
    while events := follower.read(50):
        found += taken(made, [e for e in events if isinstance(e, PredictionRecord)])
    again = Sampling(selection.samplings[MODEL].steps)
    retold = [each.sequence for each in said if again.takes(scribe.log_id.hex(), each.sequence)]

    assert [pair.primary.sequence for pair in found] == retold
    assert 70 < len(found) < 130
    assert (made.counts[KEY].primaries, made.oldest_mark) == (len(found), None)
    assert selection.skipped == {MODEL: 400 - len(found)}


def test_a_new_share_never_judges_a_pair_otherwise() -> None:
    """It counts from the next sequence on: a primary that was taken keeps its copy."""
    sampling = Sampling()
    before = [sampling.takes("log", n) for n in range(100)]
    sampling.saw("log", 99)
    sampling.adapt(1000.0, most_per_s=100.0)

    assert (sampling.share, before) == (1 / 16, [True] * 100)
    assert [sampling.takes("log", n) for n in range(100)] == before
    assert sum(sampling.takes("log", n) for n in range(100, 1700)) == pytest.approx(100, abs=30)
    sampling.adapt(10.0, most_per_s=100.0)
    assert sampling.share == 1 / 8


def test_other_models_are_not_decoded(scribe: Scribe) -> None:
    """A selection that follows nothing lets every record pass, and follows what it is told later."""
    said = scribe.primary()
    scribe.write(said, scribe.copy(said))
    selection = PairSelection()
    follower = Follower(scribe.directory.parent, {}, clock=ManualClock(), selection=selection)
    nothing = follower.read(10)
    selection.follow({MODEL: SUBJECT})
    later = scribe.primary()
    scribe.write(later)
    found = follower.read(10)

    assert list(nothing) == []
    assert [each.sequence for each in found if isinstance(each, PredictionRecord)] == [
        later.sequence
    ]


def test_skipping_goes_to_the_end(scribe: Scribe) -> None:
    """What is there is left out, also sealed segments; what comes after is read."""
    for _ in range(3):
        scribe.write(*[scribe.primary() for _ in range(300)])
    follower = Follower(scribe.directory.parent, {}, clock=ManualClock())
    follower.skip()
    assert (list(follower.read(10)), follower.lag().records) == ([], 0)
    said = scribe.primary()
    scribe.write(said)

    (found,) = follower.read(10)

    assert isinstance(found, PredictionRecord)
    assert found.sequence == said.sequence
