"""P2 and LG-05: whatever a power cut leaves, recovery finds everything that was acknowledged."""

import pytest

from tests.powerloss.disks import Operation, Sync, SyncNames
from tests.powerloss.states import crash_states
from tests.powerloss.survivors import Survivors
from tests.powerloss.workloads import Run, sizes


def test_lg_05_no_power_cut_loses_what_fsync_acknowledged() -> None:
    """Two lives of a writer, the first one killed: no state loses, invents or repeats a record."""
    run = Run()
    run.write(sizes(66), killed=True)
    run.write(sizes(84))
    survivors = Survivors(run.frames)

    for state, acknowledged in crash_states(run.disk.journal):
        assert acknowledged <= survivors.of(state)

    assert survivors.states >= 50_000
    assert survivors.distinct >= 12_000


def test_lg_05_no_power_cut_after_failed_syncs_loses_anything() -> None:
    """The same while the disk fails now and then: suspect segments, commits written twice."""
    run = Run()
    run.write(sizes(40), failing=(4, 9, 10, 15, 30))
    run.write(sizes(8), failing=(1,), killed=True)
    run.write(sizes(2))
    survivors = Survivors(run.frames)

    for state, acknowledged in crash_states(run.disk.journal):
        assert acknowledged <= survivors.of(state)

    assert survivors.states >= 10_000


def test_lg_05_a_power_cut_in_process_mode_invents_nothing() -> None:
    """Without syncs a power cut may cost records; recovery works all the same, on every subset."""
    run = Run()
    run.write(sizes(16), durability="process", killed=True)
    run.write(sizes(16), durability="process")
    survivors = Survivors(run.frames)

    for state, _ in crash_states(run.disk.journal):
        survivors.of(state)

    assert survivors.states >= 5_000
    assert survivors.distinct >= 2_000


@pytest.mark.parametrize("forgotten", [Sync, SyncNames], ids=["file", "directory"])
def test_a_forgotten_sync_would_be_found(forgotten: type[Operation]) -> None:
    """The proof of the proof: without any one kind of sync, some state loses a record."""
    run = Run()
    run.write(sizes(3), killed=True)
    journal = [operation for operation in run.disk.journal if not isinstance(operation, forgotten)]
    survivors = Survivors(run.frames)

    lost = [1 for state, told in crash_states(journal) if not told <= survivors.of(state)]

    assert lost
