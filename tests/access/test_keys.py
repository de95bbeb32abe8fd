"""Secrets are made once, stay private, and survive a race."""

import os
import stat
import threading
from pathlib import Path

import pytest

from serving.access.keys import carries_secret, internal_secret
from serving.errors import StartFailed
from serving.trust.privatefiles import read_or_create


def test_first_use_makes_a_private_secret_that_stays(tmp_path: Path) -> None:
    """The internal secret is 32 bytes in a 0600 file in a 0700 folder, the same at every call."""
    keys = tmp_path / "data" / "keys"

    secret = internal_secret(keys)

    assert len(bytes.fromhex(secret)) == 32
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    assert stat.S_IMODE((keys / "internal").stat().st_mode) == 0o600
    assert internal_secret(keys) == secret
    assert [path.name for path in keys.iterdir()] == ["internal"]


def test_racing_processes_agree_on_one_secret(tmp_path: Path) -> None:
    """Whoever creates the file first, everyone returns the same content."""
    together = threading.Barrier(8)
    seen: list[bytes] = []

    def create(number: int) -> None:
        together.wait()
        seen.append(read_or_create(tmp_path / "keys" / "secret", lambda: b"%d" % number))

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(seen) == 8
    assert len(set(seen)) == 1


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o660])
def test_a_secret_that_others_can_read_stops_the_start(tmp_path: Path, mode: int) -> None:
    """A secret file with rights for group or others is refused, naming file and permitted mode."""
    keys = tmp_path / "keys"
    internal_secret(keys)
    (keys / "internal").chmod(mode)

    with pytest.raises(StartFailed, match=r"internal has mode .* set it to 0600"):
        internal_secret(keys)


def test_a_folder_that_others_can_enter_stops_the_start(tmp_path: Path) -> None:
    """A keys folder with rights for others is refused."""
    keys = tmp_path / "keys"
    internal_secret(keys)
    keys.chmod(0o755)

    with pytest.raises(StartFailed, match="set it to 0700"):
        internal_secret(keys)


@pytest.mark.parametrize("content", [b"", b"zz" * 32, b"ab" * 31, b"ab" * 32 + b"\n", b"\xff" * 64])
def test_a_damaged_secret_stops_the_start(tmp_path: Path, content: bytes) -> None:
    """An empty, short or foreign secret file is refused, never replaced."""
    path = tmp_path / "keys" / "internal"
    read_or_create(path, lambda: content)

    with pytest.raises(StartFailed):
        internal_secret(path.parent)
    assert path.read_bytes() == content


def test_a_link_in_place_of_a_secret_is_refused(tmp_path: Path) -> None:
    """A symbolic link is not followed, wherever it points."""
    internal_secret(tmp_path / "elsewhere")
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    (keys / "internal").symlink_to(tmp_path / "elsewhere" / "internal")

    with pytest.raises(StartFailed, match="cannot keep a secret"):
        internal_secret(keys)


def test_a_pipe_in_place_of_a_secret_is_refused(tmp_path: Path) -> None:
    """Only an ordinary file is read; a pipe would keep the start waiting."""
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    os.mkfifo(keys / "internal", 0o600)

    with pytest.raises(StartFailed, match="ordinary file"):
        internal_secret(keys)


def test_only_the_whole_secret_is_recognised() -> None:
    """Our own processes are known by the exact value, nothing shorter, longer or absent."""
    secret = "ab" * 32

    assert carries_secret(b"Bearer " + secret.encode(), secret)
    for other in (None, b"", b"Bearer ", b"Bearer " + b"ab" * 31, b"Bearer " + b"ab" * 33):
        assert not carries_secret(other, secret)
