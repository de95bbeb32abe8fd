from pathlib import Path

import pytest

from serving.gateway.memory import used_share

NONE = Path("/nowhere")


def write(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")
    return folder


@pytest.mark.parametrize(
    ("limit", "share"), [(1000, 0.5), ("max", 0)], ids=["with a limit", "without"]
)
def test_limit_of_a_container_counts(tmp_path: Path, limit: object, share: float) -> None:
    """What is used, but for files that can be dropped, over the limit."""
    stat = "anon 400\ninactive_file 200"
    write(tmp_path, memory__max=limit, memory__current=700, memory__stat=stat)

    assert used_share(cgroups=tmp_path, membership=NONE, meminfo=NONE) == share


def test_limit_of_the_first_version_counts_too(tmp_path: Path) -> None:
    """Where the process is in a cgroup of its own, that one's limit is the one."""
    membership = tmp_path / "cgroup"
    membership.write_text("3:cpu:/\n2:memory:/box\n")
    write(
        tmp_path / "memory" / "box",
        memory__limit_in_bytes=1000,
        memory__usage_in_bytes=900,
        memory__stat="total_inactive_file 100",
    )

    assert used_share(cgroups=tmp_path, membership=membership, meminfo=NONE) == 0.8


def test_machine_counts_where_it_has_less(tmp_path: Path) -> None:
    """A limit that is far away does not help on a machine that is full."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 1000 kB\nMemFree: 5 kB\nMemAvailable: 100 kB\n")
    write(tmp_path, memory__max=1000, memory__current=10, memory__stat="inactive_file 0")

    assert used_share(cgroups=tmp_path, membership=NONE, meminfo=meminfo) == pytest.approx(0.9)


def test_nothing_that_tells_is_no_pressure() -> None:
    """A system without these files is not refused service."""
    assert used_share(cgroups=NONE, membership=NONE, meminfo=NONE) == 0


def test_this_machine_tells() -> None:
    """The files are where they are looked for."""
    assert 0 < used_share() < 1
