"""Replays: what is compared, what is passed over, and where an interrupted run goes on."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.core.clock import ManualClock
from serving.core.models import Digest, ModelName, ModelVersion, VersionName
from serving.core.predictions import Fate, NamedTensor, PredictionRecord
from serving.core.tensors import Array, TensorSpecification
from serving.errors import ModelFailed, ParameterInvalid
from serving.ledger.differences import Tolerance, compare
from serving.ledger.replay import Pace, Replay
from serving.ledger.results import ReplayCounts, ReplayHead, ResultFile

LOG = "0123456789abcdef"
HEAD = ReplayHead(
    model="doubler", recorded_version="", since_ns=0, until_ns=9, against="1", digest="d",
    absolute=1e-5, relative=1e-5,
)  # fmt: skip
DOUBLER = ModelVersion(
    ModelName("doubler"),
    VersionName("1"),
    Digest("d"),
    (TensorSpecification("x", "FP32", (-1, 2)),),
    (TensorSpecification("y", "FP32", (-1, 2)),),
)


class Doubler:
    """Doubles, and fails where it is told to."""

    version = DOUBLER

    def __init__(self, *, factor: float = 2.0, fails_on: float | None = None) -> None:
        self.runs = 0
        self._factor = factor
        self._fails_on = fails_on

    def run(self, inputs: Sequence[Array]) -> Sequence[Array]:
        self.runs += 1
        values = np.asarray(inputs[0], np.float32)
        if self._fails_on is not None and self._fails_on in values:
            raise ModelFailed("told to")
        return [values * np.float32(self._factor)]


def a_record(sequence: int, *, rows: int = 1) -> PredictionRecord:
    values = np.full((rows, 2), sequence, np.float32)
    values[:, 1] += 0.5
    return PredictionRecord(
        prediction_id=f"{LOG}-{sequence:x}", sequence=sequence, time_ns=sequence, fate=Fate.OK,
        reason="", principal="p", request_id="", model="doubler", version="1", digest="d",
        policy_epoch=1, inputs=(NamedTensor("x", "FP32", values),),
        outputs=(NamedTensor("y", "FP32", values * 2),), rows=rows, queue_us=1, run_us=1, total_us=1,
        batch_id=1, batch_size=1, batch_position=0, trace_id="", shadow_of="",
    )  # fmt: skip


def replayed(
    path: Path,
    records: Sequence[PredictionRecord],
    *,
    runner: Doubler | None = None,
    resume: bool = False,
    limit: int | None = None,
) -> ReplayCounts:
    with ResultFile(path, HEAD, resume=resume) as result:
        work = Replay(runner or Doubler(), result, tolerance=Tolerance())
        work.run(records, limit=limit, advanced=lambda _done: None)
    return work.counts


def test_the_same_version_differs_nowhere(tmp_path: Path) -> None:
    """Zero differences, row by row."""
    counts = replayed(tmp_path / "r.jsonl", [a_record(n, rows=3) for n in range(1, 5)])

    assert (counts.records, counts.rows, counts.exact_rows) == (4, 12, 12)
    assert (counts.differing_rows, counts.flipped_rows, counts.largest_distance) == (0, 0, 0.0)


def test_another_version_is_told_by_how_much(tmp_path: Path) -> None:
    """Rows that differ by more than the tolerance count, and the largest distance is known."""
    counts = replayed(tmp_path / "r.jsonl", [a_record(4)], runner=Doubler(factor=-2.0))

    assert (counts.rows, counts.differing_rows, counts.flipped_rows) == (1, 1, 1)
    assert counts.largest_distance == 18.0


def test_what_cannot_be_replayed_is_counted_by_reason(tmp_path: Path) -> None:
    """Nothing is guessed: not the erased, not the hashed, not what was never answered."""
    whole = a_record(1)
    erased = replace(whole, inputs=(replace(whole.inputs[0], keeping="erased"),))
    hashed = replace(whole, outputs=(replace(whole.outputs[0], keeping="hashed"),))
    wide = replace(whole, inputs=(NamedTensor("x", "FP32", np.zeros((1, 3), np.float32)),))
    unanswered = replace(whole, fate=Fate.TIMEOUT, outputs=())
    copy = replace(whole, shadow_of=f"{LOG}-9")

    counts = replayed(tmp_path / "r.jsonl", [erased, hashed, wide, unanswered, copy])

    assert counts.records == 0
    assert counts.skipped == {"erased": 1, "hashed": 1, "other_inputs": 1, "not_answered": 1}


def test_a_record_on_which_the_version_fails_is_in_the_result(tmp_path: Path) -> None:
    """A candidate that fails where the primary answered is a finding, not an accident."""
    records = [a_record(1), a_record(2)]

    counts = replayed(tmp_path / "r.jsonl", records, runner=Doubler(fails_on=2.0))

    assert (counts.records, counts.failed_records, counts.rows) == (2, 1, 1)
    assert b'"failed":true' in (tmp_path / "r.jsonl").read_bytes()


@settings(max_examples=40, deadline=None)
@given(cut=st.floats(0, 1))
def test_a_run_that_was_cut_off_anywhere_is_completed(
    cut: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever a crash left of the result, going on gives the same file as one run would have."""
    folder = tmp_path_factory.mktemp("replay")
    records = [a_record(n, rows=1 + n % 3) for n in range(1, 9)]
    whole, broken = folder / "whole.jsonl", folder / "broken.jsonl"
    expected = replayed(whole, records)
    content = whole.read_bytes()
    head = content.index(b"\n") + 1
    broken.write_bytes(content[: head + round(cut * (len(content) - head))])

    counts = replayed(broken, records, resume=True)

    assert counts == expected
    assert broken.read_bytes() == content


def test_a_finished_record_is_not_run_again(tmp_path: Path) -> None:
    """A limit ends the run; the next one does the rest and no more."""
    records = [a_record(n) for n in range(1, 7)]
    runner = Doubler()
    replayed(tmp_path / "r.jsonl", records, runner=runner, limit=4)
    assert runner.runs == 4

    counts = replayed(tmp_path / "r.jsonl", records, runner=runner, resume=True)

    assert (counts.records, runner.runs) == (6, 6)


def test_a_result_is_not_overwritten_nor_mixed(tmp_path: Path) -> None:
    """A file that is there needs --resume, and one of another replay is refused."""
    path = tmp_path / "r.jsonl"
    replayed(path, [a_record(1)])

    with pytest.raises(ParameterInvalid, match="--resume"):
        replayed(path, [a_record(1)])
    path.write_bytes(path.read_bytes().replace(b'"against":"1"', b'"against":"2"'))
    with pytest.raises(ParameterInvalid, match="another replay"):
        replayed(path, [a_record(1)], resume=True)


def test_the_rate_is_kept() -> None:
    """A hundred records at fifty a second take two seconds less one interval."""
    clock = ManualClock()

    for _ in Pace(clock, 50.0).keep(a_record(n) for n in range(1, 101)):
        pass

    assert clock.monotonic_ns() / 1e9 == pytest.approx(99 / 50)


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ([1.0, 2.0], [1.0, 2.0], (True, True, False)),
        ([1.0, 2.0], [1.000001, 2.0], (False, True, False)),
        ([1.0, 2.0], [2.0, 1.0], (False, False, True)),
        ([np.nan, 1.0], [np.nan, 1.0], (True, True, False)),
        ([np.nan, 1.0], [0.0, 1.0], (False, False, True)),
        ([np.inf, 1.0], [np.inf, 1.0], (True, True, False)),
        ([np.inf, 1.0], [5.0, 1.0], (False, False, False)),
        ([1e9, 0.0], [1e9 + 64, 0.0], (False, True, False)),
    ],
)
def test_floating_point_rows_are_compared_as_written(
    before: list[float], after: list[float], verdict: tuple[bool, bool, bool]
) -> None:
    """Exact, within, flipped. Not-a-number equals itself, infinity is far from everything else, large numbers are relative."""
    found = compare(np.array([before], np.float32), np.array([after], np.float32), Tolerance())

    assert (found.exact[0], found.within[0], found.flipped[0]) == verdict


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (np.array([3]), np.array([4])),
        (np.array([True]), np.array([False])),
        (np.array([b"cat"], object), np.array([b"dog"], object)),
        (np.zeros((1, 2)), np.zeros((1, 3))),
    ],
)
def test_labels_that_differ_are_decided_otherwise(before: Array, after: Array) -> None:
    """Whole numbers, booleans and texts have no tolerance; another shape is another answer."""
    found = compare(before, after, Tolerance())

    assert (found.exact[0], found.within[0], found.flipped[0]) == (False, False, True)
    assert compare(before, before, Tolerance()).exact[0]
