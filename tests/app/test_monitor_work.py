"""What the monitor does with a log: compares, judges, saves, and goes on wherever it was killed."""

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.app.monitor_work import MonitorWork
from serving.comparison_settings import ComparisonSettings
from serving.core.clock import ManualClock
from serving.core.outcomes import Outcome
from serving.core.predictions import Fate
from serving.governance.comparisons import ComparedVersion, ComparisonOrder, ComparisonReport
from serving.ledger.pairstore import PairStore
from serving.predictionlog.outcomes import encode_outcome
from tests.ledger.pairlogs import DIGESTS, MODEL, Said, Scribe, version_named
from tests.logs import NOW_NS

RULES: dict[str, Any] = {"min_samples": 50, "outputs": [{"output": "label"}]}


def order(*candidates: str, rules: dict[str, Any] | None = None, share: float | None = 1.0) -> Any:
    return ComparisonOrder(
        model=MODEL,
        primary=version_named("1"),
        candidates=tuple(
            ComparedVersion(version=each, digest=DIGESTS[each], share=share) for each in candidates
        ),
        specification=RULES if rules is None else rules,
    )


@dataclass(slots=True)
class Watch:
    """A monitor over a folder, that can be killed and started again."""

    folder: Path
    orders: tuple[ComparisonOrder, ...] = field(default_factory=lambda: (order("2"),))
    settings: ComparisonSettings = field(default_factory=ComparisonSettings)
    clock: ManualClock = field(default_factory=lambda: ManualClock(wall_ns=NOW_NS))
    _stack: ExitStack = field(default_factory=ExitStack)

    def start(self) -> MonitorWork:
        """Without a word to the one before: that is how a kill looks from the files."""
        self._stack.close()
        store = self._stack.enter_context(PairStore(self.folder / "monitor" / "monitor.sqlite"))
        work = MonitorWork(self.folder / "log", store, settings=self.settings, clock=self.clock)
        work.follow(self.orders)
        return work

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def scribe(tmp_path: Path) -> Scribe:
    return Scribe(tmp_path / "log" / "gateway-0").open()


def drain(work: MonitorWork) -> ComparisonReport:
    while work.turn():
        pass
    (report,) = work.look()
    return report


def figure(report: ComparisonReport, name: str, cut: str = "all") -> Any:
    return next(each for each in report.figures if (each.name, each.slice) == (name, cut))


def test_answers_are_compared_as_they_come(tmp_path: Path, scribe: Scribe) -> None:
    """Disagreements, failures and windows are those of the log."""
    said = [scribe.primary(n % 2) for n in range(200)]
    scribe.write(*said)
    scribe.write(
        *[scribe.copy(each, label=(0,)) for each in said[:190]],
        *[scribe.copy(each, fate=Fate.MODEL_ERROR) for each in said[190:]],
    )
    watch = Watch(tmp_path)
    report = drain(watch.start())
    watch.close()

    assert (report.counts.pairs, report.counts.failures) == (200, 10)
    flips = figure(report, "label.label_flip")
    assert (flips.n, flips.estimate) == (190, 0.5)
    assert report.decision.outcome == "reject"
    (window,) = report.windows
    assert (window.directory, window.pairs) == ("gateway-0", 200)
    assert (window.first, window.last) == (said[0].sequence, said[-1].sequence)
    assert report.gap == 0.0


def test_outcomes_are_joined_whenever_they_come(tmp_path: Path, scribe: Scribe) -> None:
    """Before the pair, after it, after a restart; each row is judged once, corrections not at all."""
    rules = {**RULES, "loss": "zero_one"}
    watch = Watch(tmp_path, (order("2", rules=rules),))
    said = [scribe.primary(1) for _ in range(4)]
    scribe.commit([_outcome(scribe, said[0], 1)])
    scribe.write(*said)
    scribe.write(*[scribe.copy(each, label=(0,)) for each in said])
    work = watch.start()
    drain(work)
    scribe.commit([_outcome(scribe, said[1], 1), _outcome(scribe, said[1], 0, revision=1)])
    drain(work)
    work.save()
    work = watch.start()
    scribe.commit([_outcome(scribe, said[2], 0), _outcome(scribe, Said("1", 4711), 1)])
    drain(work)
    work.save()
    report = drain(watch.start())
    watch.close()

    assert report.decision.outcomes == 3
    assert figure(report, "loss_difference").estimate == pytest.approx((1 + 1 - 1) / 3)


def _outcome(scribe: Scribe, of: Said, value: int, *, revision: int = 0) -> bytes:
    scribe.next += 1
    outcome = Outcome(
        of.identifier, 0, "label", value, NOW_NS, revision, MODEL, "p", NOW_NS + revision
    )
    return encode_outcome(outcome, sequence=scribe.next)


STEPS = st.lists(
    st.sampled_from(["primary", "copy", "turn", "turn", "save", "kill"]), min_size=5, max_size=40
)


@settings(deadline=None, max_examples=40)
@given(steps=STEPS)
def test_killed_anywhere_no_pair_comes_twice_or_is_lost(steps: list[str]) -> None:
    """However writing, turns, saves and kills follow each other: in the end every pair counts once."""
    folder = Path(tempfile.mkdtemp())
    scribe = Scribe(folder / "log" / "gateway-0").open()
    watch = Watch(folder)
    work = watch.start()
    owed: list[Said] = []
    pairs = 0
    for step in steps:
        if step == "primary":
            owed.append(scribe.primary(len(owed) % 2))
            scribe.write(owed[-1])
        elif step == "copy" and owed:
            scribe.write(scribe.copy(owed.pop(0)))
            pairs += 1
        elif step == "turn":
            work.turn()
        elif step == "save":
            work.save()
        elif step == "kill":
            work = watch.start()
    scribe.write(*[scribe.copy(each) for each in owed], scribe.primary())
    report = drain(work)
    watch.close()

    assert report.counts.pairs == pairs + len(owed)
    assert report.decision.pairs == report.counts.pairs
    assert sum(window.pairs for window in report.windows) == report.counts.pairs
    assert report.counts.unpaired == {}


def test_another_candidate_begins_anew_and_the_first_goes_on(
    tmp_path: Path, scribe: Scribe
) -> None:
    """A comparison is known by both digests and its rules; one that is asked for again is found."""
    said = [scribe.primary() for _ in range(5)]
    scribe.write(*said, *[scribe.copy(each) for each in said])
    watch = Watch(tmp_path)
    work = watch.start()
    drain(work)
    work.follow((order("2", rules={**RULES, "alpha": 0.1}),))
    (changed,) = work.look()
    work.follow((order("2"),))
    (again,) = work.look()
    watch.close()

    assert (changed.counts.pairs, changed.decision.pairs) == (0, 0)
    assert (again.counts.pairs, again.decision.pairs) == (5, 5)


def test_rules_that_do_not_fit_are_told_and_stop_nothing(
    tmp_path: Path, scribe: Scribe, caplog: pytest.LogCaptureFixture
) -> None:
    """A specification of another model's outputs: that model is not compared, the monitor lives."""
    scribe.write(scribe.primary())
    watch = Watch(tmp_path, (order("2", rules={"outputs": [{"output": "nothing"}]}),))
    work = watch.start()
    work.turn()
    watch.close()

    assert work.look() == ()
    assert "nothing" in caplog.text


def test_more_than_can_be_compared_is_sampled_and_said(tmp_path: Path, scribe: Scribe) -> None:
    """The share falls, the rest is counted as skipped, and no primary counts as missing for it."""
    watch = Watch(tmp_path, settings=ComparisonSettings(max_pairs_per_s=10.0, wait_s=1.0))
    work = watch.start()
    for _ in range(20):
        said = [scribe.primary() for _ in range(20)]
        scribe.write(*said, *[scribe.copy(each) for each in said])
        work.turn()
        watch.clock.advance(0.5)
    watch.clock.advance(60)
    report = drain(work)
    watch.close()

    assert report.share < 1.0
    assert report.counts.pairs + sum(work.skipped.values()) == 400
    assert report.counts.unpaired == {}
    assert report.windows[0].steps[-1].halvings > 0


def test_slices_are_cut_by_named_features(tmp_path: Path, scribe: Scribe) -> None:
    """By the feature names of the model's declaration, numbers between edges."""
    said = [scribe.primary(age=20.0 + 40 * (n % 2)) for n in range(40)]
    scribe.write(*said)
    scribe.write(*[scribe.copy(each, label=(int(each.age > 40),)) for each in said])
    rules = {**RULES, "slices": [{"by": "age", "edges": [40]}]}
    watch = Watch(tmp_path, (order("2", rules=rules),))
    report = drain(watch.start())
    watch.close()

    found = {e.slice: e.estimate for e in report.figures if e.name == "label.label_flip"}
    assert set(found.values()) == {0.0, 0.5, 1.0}
