import errno
import os
from collections.abc import Sequence
from pathlib import Path

import google_crc32c
import pytest

from serving.errors import DataDirectoryInUse
from serving.predictionlog.files import SystemFiles


def test_checksums_are_computed_in_c() -> None:
    """The pure-Python fallback would take a hundred times longer on the path of every answer."""
    assert google_crc32c.implementation == "c"


def test_files_are_private_and_never_overwritten(tmp_path: Path) -> None:
    """Directories are 0700 and files 0600 whatever the umask; a file that exists is an error."""
    files = SystemFiles()
    umask = os.umask(0)
    try:
        files.make_directory(tmp_path / "a" / "log")
        files.close(files.create(tmp_path / "a" / "log" / "x"))
    finally:
        os.umask(umask)

    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a" / "log").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a" / "log" / "x").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        files.create(tmp_path / "a" / "log" / "x")


@pytest.mark.parametrize("durable", [True, False])
def test_a_write_lands_where_it_was_told(tmp_path: Path, durable: bool) -> None:
    """Buffers are written one after the other from the offset on."""
    files = SystemFiles()
    descriptor = files.create(tmp_path / "x")

    written = files.write(descriptor, [b"ab", b"cd"], 3, durable=durable)
    files.close(descriptor)

    assert (written, (tmp_path / "x").read_bytes()) == (4, b"\0\0\0abcd")


def test_a_file_system_without_synchronous_writes_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel knows no RWF_DSYNC, a durable write is a write and a sync."""
    real = os.pwritev
    synced: list[int] = []

    def pwritev(descriptor: int, buffers: Sequence[bytes], offset: int, flags: int = 0) -> int:
        if flags:
            raise OSError(errno.EOPNOTSUPP, "not here")
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "pwritev", pwritev)
    monkeypatch.setattr(os, "fdatasync", synced.append)
    files = SystemFiles()
    descriptor = files.create(tmp_path / "x")

    written = [files.write(descriptor, [b"abc"], 3 * n, durable=True) for n in range(2)]
    files.close(descriptor)

    assert (written, synced) == ([3, 3], [descriptor] * 2)


def test_lg_15_a_lock_ends_with_its_holder(tmp_path: Path) -> None:
    """A second holder is refused; closing, as a killed process does, frees the lock."""
    files = SystemFiles()
    held = files.lock(tmp_path / "lock")
    with pytest.raises(DataDirectoryInUse):
        files.lock(tmp_path / "lock")

    files.close(held)

    files.close(files.lock(tmp_path / "lock"))
