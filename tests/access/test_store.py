"""The access state on disk: whole or not at all, private, never guessed at."""

from pathlib import Path

import msgspec
import pytest

from serving.access.state import AccessState, ApiKey, Effect, Revocation, RevocationKind, Rule
from serving.access.store import AccessStore
from serving.core.principals import Role
from serving.errors import NotReady, StartFailed

STATE = AccessState(
    epoch=7,
    keys=(ApiKey(key="k", digest="d", subject="ci", roles=(Role.CALLER,), expires_s=9),),
    rules=(Rule(rule="r", effect=Effect.DENY, model="fraud-*"),),
    revocations=(Revocation(kind=RevocationKind.TOKEN, value="jti"),),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "access.json"


def test_state_survives_a_restart_and_is_private(file: Path) -> None:
    """What was saved last is loaded; nobody else on the machine can read it; nothing lies about."""
    store = AccessStore(file)
    store.save(AccessState(epoch=6))
    store.save(STATE)
    store.save_uses({"k": 5})

    again = AccessStore(file)

    assert (again.load(), again.load_uses()) == (STATE, {"k": 5})
    assert {each.name for each in file.parent.iterdir()} == {"access.json", "access-uses.json"}
    assert {each.stat().st_mode & 0o777 for each in file.parent.iterdir()} == {0o600}


def test_there_is_an_empty_state_before_the_first(file: Path) -> None:
    """A fresh instance has no keys and no rules."""
    assert AccessStore(file).load() == AccessState()
    assert AccessStore(file).load_uses() == {}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"keys": 1}', b'{"format": 2}', b"\xff"])
def test_state_that_cannot_be_read_stops_the_start(file: Path, content: bytes) -> None:
    """An empty state in its place would let in everybody who was revoked."""
    file.write_bytes(content)

    with pytest.raises(StartFailed, match=r"access state|format 2"):
        AccessStore(file).load()


def test_change_that_cannot_be_kept_is_not_made(file: Path) -> None:
    """The state before stays whole when the disk says no."""
    store = AccessStore(file)
    store.save(STATE)
    before = file.read_bytes()
    gone = AccessStore(file.parent / "no-such-folder" / "access.json")

    with pytest.raises(NotReady):
        gone.save(STATE)

    assert file.read_bytes() == before


def test_every_part_of_a_state_travels(file: Path) -> None:
    """What a worker decodes is what was published."""
    assert msgspec.json.decode(msgspec.json.encode(STATE), type=AccessState) == STATE
