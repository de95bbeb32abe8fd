"""P4 and P5: EIO and ENOSPC at every operation that the writer does, one after the other."""

import errno
from collections.abc import Mapping

import pytest

from tests.powerloss.disks import Acknowledged, Failed, Rename, Sync, Write
from tests.powerloss.survivors import Survivors
from tests.powerloss.workloads import Run, sizes

COMMITS = 14
KINDS = {"create", "head", "intact", "rename", "space", "sync", "truncate", "write"}


def lives(failures: Mapping[int | str, int]) -> Run:
    """Two lives of a writer on a disk that fails so; the third finds a disk that works."""
    run = Run(failures)
    for _ in range(2):
        run.try_to_write(sizes(COMMITS))
    return run


def check(run: Run) -> None:
    """Everything that was acknowledged is found, once, and nothing that was never written."""
    told = {
        sequence
        for operation in run.disk.journal
        if isinstance(operation, Acknowledged)
        for sequence in operation.sequences
    }
    assert told <= Survivors(run.frames).of(run.disk.copy())


def operations() -> list[str]:
    return lives({}).disk.operations


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_lg_08_lg_10_any_operation_may_fail(code: int) -> None:
    """At each operation in turn, alone and with the one after it: nothing acknowledged is lost."""
    kinds = operations()
    assert set(kinds) >= KINDS

    for nth in range(1, len(kinds) + 1):
        check(lives({nth: code}))
        check(lives({nth: code, nth + 1: code}))


@pytest.mark.parametrize("nth", range(1, 21))
def test_lg_08_a_failed_sync_is_final(nth: int) -> None:
    """EIO at the n-th sync: that file is neither written nor synced again, and no ack rests on it."""
    run = lives({f"sync {nth}": errno.EIO})
    journal = run.disk.journal
    [at] = [n for n, operation in enumerate(journal) if isinstance(operation, Failed)]
    failed = journal[at]
    assert isinstance(failed, Failed)

    # A later life recovers the file from what it reads back.
    end = min((start for start in run.starts if start > at), default=len(journal))
    later = [
        operation
        for operation in journal[at:end]
        if isinstance(operation, Sync | Write) and operation.file == failed.file
    ]

    assert later == []
    check(run)


def test_lg_10_a_head_that_cannot_be_renamed_costs_nothing() -> None:
    """The signed head is a service to verification; no record waits for it."""
    run = lives({"rename": errno.ENOSPC})

    assert not any(isinstance(operation, Rename) for operation in run.disk.journal)
    check(run)
    assert len(run.frames) == sum(records for records, _ in sizes(COMMITS)) * 2
