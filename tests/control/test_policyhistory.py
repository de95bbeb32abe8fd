"""Which policy an epoch stands for can be told as long as the file goes back."""

from dataclasses import replace
from pathlib import Path

import pytest

from serving.control.policyhistory import PolicyHistory
from serving.core.clock import ManualClock
from serving.core.models import ModelName, VersionName
from serving.core.traffic import Arm, Snapshot, TrafficPolicy

FIRST = TrafficPolicy(ModelName("m"), VersionName("1"))
SECOND = replace(FIRST, arms=(Arm(VersionName("2"), 1000),), sticky="principal", salt="spring")
OTHER = TrafficPolicy(ModelName("n"), VersionName("1"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "policies.jsonl"


@pytest.fixture
def history(file: Path) -> PolicyHistory:
    return PolicyHistory(file, ManualClock())


def note(history: PolicyHistory, epoch: int, *policies: TrafficPolicy) -> None:
    history.note(Snapshot(epoch, policies=policies))


def test_policy_of_an_epoch_is_the_last_one_told_before_it(history: PolicyHistory) -> None:
    """Between two changes every epoch has the earlier policy; before the first there is none."""
    note(history, 10, FIRST)
    note(history, 11, FIRST)
    note(history, 20, SECOND)

    found = [history.of("m", epoch=epoch) for epoch in (9, 10, 15, 19, 20, 99)]

    assert [each[0].policy if each else None for each in found] == [
        None, FIRST, FIRST, FIRST, SECOND, SECOND,
    ]  # fmt: skip


def test_only_changes_are_written(history: PolicyHistory, file: Path) -> None:
    """Replicas that come and go make epochs, not lines; a model that goes makes its last line."""
    note(history, 1, FIRST, OTHER)
    for epoch in range(2, 50):
        note(history, epoch, FIRST, OTHER)
    note(history, 50, OTHER)

    assert [(each.epoch, each.policy) for each in history.of("m")] == [(1, FIRST), (50, None)]
    assert len(list(filter(None, file.read_bytes().splitlines()))) == 3


def test_restart_goes_on_where_it_was(history: PolicyHistory, file: Path) -> None:
    """A control process that starts again writes nothing twice, and reads a torn line as none."""
    note(history, 1, FIRST)
    with file.open("ab") as torn:
        torn.write(b'{"epoch": 7, "mod')
    again = PolicyHistory(file, ManualClock())
    note(again, 8, FIRST)
    note(again, 9, SECOND)

    assert [each.epoch for each in PolicyHistory(file, ManualClock()).of("m")] == [1, 9]


def test_file_is_bounded(file: Path) -> None:
    """The newest lines stay; what is in force is known in the newer of the two files alone."""
    history = PolicyHistory(file, ManualClock(), max_bytes=2000)
    for epoch in range(1, 400):
        note(history, epoch, OTHER, SECOND if epoch % 2 else FIRST)

    files = list(file.parent.iterdir())
    assert (len(files), sum(each.stat().st_size for each in files) < 6000) == (2, True)
    assert [each.policy for each in history.of("m", epoch=399)] == [SECOND]
    assert [each.policy for each in history.of("n", epoch=399)] == [OTHER]


def test_history_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    """Traffic goes on; the question about the past has no answer."""
    history = PolicyHistory(tmp_path / "gone" / "policies.jsonl", ManualClock())
    note(history, 1, FIRST)

    assert history.of("m") == ()
