"""LG-24: compaction that is killed in the middle."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.ledger import compaction, places, writing
from serving.ledger.catalog import read_catalog
from serving.ledger.places import Folder
from tests.ledger.cold import compact, found, write_log

pytestmark = pytest.mark.faults

STEPS: dict[str, tuple[Any, str]] = {
    "table written": (writing.TableWriter, "write"),
    "file moved": (places.Folder, "upload"),
    "catalog changed": (places.Folder, "create"),
    "name given": (Path, "hardlink_to"),
    "intent kept": (compaction, "replace_private"),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_lg_24_old_or_new_is_visible(tmp_path: Path, step: str, before: bool) -> None:
    """Killed anywhere, every record is found once and unchanged; the next run leaves no orphan."""
    for times in (1, 3):
        root = tmp_path / str(times)
        write_log(root / "log", steps=4)
        records = sorted(found(root))

        _compact_and_die(root, step, before=before, times=times)

        assert sorted(found(root)) == records
        compact(root)
        assert sorted(found(root)) == records
        files = read_catalog(Folder(root / "cold")).files
        assert Folder(root / "cold").names("predictions") == sorted(file.name for file in files)
        assert sum(file.records for file in files) == len(records)


def _compact_and_die(root: Path, step: str, *, before: bool, times: int) -> None:
    """In a process of its own, which is killed around the given step for the given time."""
    child = os.fork()
    if child == 0:
        try:
            owner, name = STEPS[step]
            setattr(owner, name, _deadly(getattr(owner, name), before=before, times=times))
            compact(root)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or times > 1


def _deadly(function: Callable[..., Any], *, before: bool, times: int) -> Callable[..., Any]:
    calls = iter(range(1, 1000))

    def call(*arguments: Any, **named: Any) -> Any:
        dies = next(calls) == times
        if dies and before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **named)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call
