"""The keys of an installation."""

import threading
from pathlib import Path

import msgspec
import pytest

from serving.errors import SignatureInvalid, StartFailed
from serving.trust.installation import Keys, edit_trusted, installation_key, read_trusted
from serving.trust.signatures import ROLES, SigningKey, TrustedKey


def a_key(name: str) -> TrustedKey:
    key = SigningKey.create()
    return TrustedKey(key.key_id, key.public.text, name, ("approval",))


def test_key_is_made_once_and_trusted_in_every_role(tmp_path: Path) -> None:
    """In private files; the next start finds the same."""
    key = installation_key(tmp_path / "keys")
    (own,) = read_trusted(tmp_path / "keys").keys

    assert installation_key(tmp_path / "keys").key_id == key.key_id == own.key_id
    assert own.roles == ROLES
    assert {0o600} == {each.stat().st_mode & 0o777 for each in (tmp_path / "keys").iterdir()}


def test_key_taken_out_of_the_list_does_not_come_back(tmp_path: Path) -> None:
    """The list belongs to people."""
    installation_key(tmp_path)
    edit_trusted(tmp_path, lambda _: ())
    installation_key(tmp_path)

    assert read_trusted(tmp_path).keys == ()


def test_editors_wait_for_each_other(tmp_path: Path) -> None:
    """Eight at once: no change is lost."""

    def add(name: str) -> None:
        def change(keys: Keys) -> Keys:
            return (*keys, a_key(name))

        edit_trusted(tmp_path, change)

    threads = [threading.Thread(target=add, args=(str(number),)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    names = {each.name for each in read_trusted(tmp_path).keys}
    assert names == {"installation", *map(str, range(8))}


def test_change_that_is_refused_changes_nothing(tmp_path: Path) -> None:
    """The file is replaced as a whole, after it was checked."""
    key = installation_key(tmp_path)

    with pytest.raises(SignatureInvalid, match="listed wrongly"):
        edit_trusted(tmp_path, lambda keys: keys * 2)

    assert [each.key_id for each in read_trusted(tmp_path).keys] == [key.key_id]


@pytest.mark.parametrize("content", [b"", b"{}", b'{"keys": [], "more": 1}', b"\xff"])
def test_damaged_list_is_refused(tmp_path: Path, content: bytes) -> None:
    """Nobody is trusted by mistake."""
    path = tmp_path / "trusted-keys.json"
    path.write_bytes(content)
    path.chmod(0o600)

    with pytest.raises(SignatureInvalid, match="does not list"):
        read_trusted(tmp_path)


def test_absent_list_and_list_open_to_others_are_refused(tmp_path: Path) -> None:
    """Who may write it decides what runs."""
    with pytest.raises(SignatureInvalid, match="cannot read"):
        read_trusted(tmp_path)
    path = tmp_path / "trusted-keys.json"
    path.write_bytes(msgspec.json.encode({"keys": []}))
    path.chmod(0o640)
    with pytest.raises(StartFailed, match="mode 0640"):
        read_trusted(tmp_path)
