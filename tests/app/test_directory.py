import os
import stat
from pathlib import Path

import pytest

from serving.app.directory import MAX_SOCKET_PATH_BYTES, DataDirectory
from serving.errors import DataDirectoryInUse, StartFailed


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def directory(tmp_path: Path) -> DataDirectory:
    return DataDirectory.at(tmp_path / "data")


def test_second_holder_is_refused_by_name(directory: DataDirectory) -> None:
    """Two instances never share a directory; the refusal names the holder."""
    refused = pytest.raises(DataDirectoryInUse, match=f"process {os.getpid()}")
    with directory.locked(), refused, directory.locked():
        pass


def test_lock_is_free_after_its_holder(directory: DataDirectory) -> None:
    """A directory can be used again, also by a process that finds an old lock file."""
    for _ in range(2):
        with directory.locked():
            pass

    assert (directory.root / "lock").exists()


def test_everything_is_private_from_the_start(directory: DataDirectory) -> None:
    """Folders that are made belong to their owner alone."""
    with directory.locked():
        directory.prepare()

    folders = [directory.root, directory.run, directory.keys, directory.replica_sockets]
    assert {0o700} == {mode_of(folder) for folder in folders}


def test_empty_folder_is_made_private(tmp_path: Path) -> None:
    """A volume that was mounted empty is taken over."""
    tmp_path.chmod(0o755)

    with DataDirectory.at(tmp_path).locked():
        pass

    assert mode_of(tmp_path) == 0o700


def test_folder_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """A directory in use by something else is not ours to change."""
    (tmp_path / "theirs").touch()
    tmp_path.chmod(0o755)

    with pytest.raises(StartFailed, match="chmod 700"), DataDirectory.at(tmp_path).locked():
        pass
    assert mode_of(tmp_path) == 0o755


def test_place_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    """A file in the way stops the start with its name."""
    (tmp_path / "data").touch()

    refused = pytest.raises(StartFailed, match=r"cannot use data_dir .*/data")
    with refused, DataDirectory.at(tmp_path / "data").locked():
        pass


def test_sockets_of_a_deep_directory_move_to_a_short_one(tmp_path: Path) -> None:
    """A socket's path always fits, and the short folder is private and removed again."""
    directory = DataDirectory.at(tmp_path / ("deep" * 30))
    with directory.locked():
        directory.prepare()
        sockets = directory.sockets
        longest = directory.replica_sockets / ("0" * 16 + ".sock")

        assert len(os.fsencode(longest)) <= MAX_SOCKET_PATH_BYTES
        assert mode_of(sockets) == 0o700
        assert sockets == directory.control_socket.parent == directory.gateway_socket(3).parent

        directory.clear_run()
    assert not sockets.exists()


def test_preparing_removes_what_an_earlier_run_left(directory: DataDirectory) -> None:
    """Addresses and sockets of a run that was killed are never believed."""
    with directory.locked():
        directory.prepare()
        directory.ray_file.write_text("old")
        directory.announce_stop()
        directory.process_log("control").write_text("old")
        directory.prepare()

    assert not directory.ray_file.exists()
    assert not directory.final_stop
    assert not directory.process_log("control").exists()


def test_log_that_has_grown_too_long_is_cut_once_and_kept_aside(directory: DataDirectory) -> None:
    """A process that writes without end fills two files at most, and goes on writing."""
    directory.logs.mkdir(parents=True)
    log = directory.process_log("control")
    with log.open("ab", buffering=0) as writer:
        writer.write(b"old" * 100)
        directory.cut_logs(max_bytes=100)
        writer.write(b"new")

    assert log.read_bytes() == b"new"
    assert (directory.logs / "control.log.1").read_bytes() == b"old" * 100
