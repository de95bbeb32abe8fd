"""LG-24: compaction that is killed in the middle."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.ledger import compaction, consolidation, places, writing
from serving.ledger.catalog import read_catalog
from serving.ledger.places import Folder
from tests.ledger.cold import SMALL, compact, found, write_log

pytestmark = pytest.mark.faults

STEPS: dict[str, tuple[Any, str]] = {
    "table written": (writing.TableWriter, "write"),
    "file moved": (places.Folder, "upload"),
    "catalog changed": (places.Folder, "create"),
    "name given": (Path, "hardlink_to"),
    "intent kept": (compaction, "replace_private"),
}
JOINING: dict[str, tuple[Any, str]] = {
    "rows written": (writing.TableWriter, "write"),
    "file checked": (consolidation, "file_sha256"),
    "file moved": (places.Folder, "upload"),
    "catalog changed": (places.Folder, "create"),
    "name kept": (consolidation, "replace_private"),
    "name forgotten": (Path, "unlink"),
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


@pytest.mark.parametrize("step", JOINING)
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_lg_24_small_files_or_the_joint_one_is_visible(
    tmp_path: Path, step: str, before: bool
) -> None:
    """Killed anywhere while small files are joined, every record is found once; nothing is left over."""
    write_log(tmp_path / "log", workers=8, steps=2, days=1)
    compact(tmp_path, settings=SMALL.model_copy(update={"merge_bytes": 1}))
    records = sorted(found(tmp_path))

    _compact_and_die(tmp_path, step, before=before, times=2)

    assert sorted(found(tmp_path)) == records
    compact(tmp_path)
    assert sorted(found(tmp_path)) == records
    catalog = read_catalog(Folder(tmp_path / "cold"))
    known = {file.name for file in catalog.files} | {each.name for each in catalog.removed}
    assert set(Folder(tmp_path / "cold").names("predictions")) == known
    assert {len(file.sources) for file in catalog.files} == {8}
    assert sum(file.records for file in catalog.files) == len(records)


def _compact_and_die(root: Path, step: str, *, before: bool, times: int) -> None:
    """In a process of its own, which is killed around the given step for the given time."""
    child = os.fork()
    if child == 0:
        try:
            owner, name = (STEPS | JOINING)[step]
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
