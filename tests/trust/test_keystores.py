"""Where wrapping keys are: rotation, outages, wrong answers, and nothing of them in any text."""

import base64
import sys
import threading
from pathlib import Path

import pytest

from serving.core.clock import ManualClock
from serving.errors import CiphertextInvalid, KeyStoreUnavailable, ServingError, StartFailed
from serving.trust.envelopes import new_key
from serving.trust.keystores import MAX_CACHED, CachedKeyStore, CommandKeyStore, LocalKeyStore

SERVICE = """
import base64, json, sys, pathlib, time
mode = pathlib.Path(sys.argv[1]).read_text()
order = json.load(sys.stdin)
if mode == "denies":
    sys.exit("no, not with this key: " + json.dumps(order))
if mode == "slow":
    time.sleep(60)
if mode == "babbles":
    print("hello"); sys.exit()
text = base64.b64decode(order.get("key") or order.get("wrapped") or "")
turned = bytes(each ^ 0x5a for each in text)
if mode == "another" and order["verb"] == "unwrap":
    turned = bytes(32)
answers = {
    "wrap": {"key_id": "kms-1", "wrapped": base64.b64encode(turned).decode()},
    "unwrap": {"key": base64.b64encode(turned).decode()},
    "rotate": {"key_id": "kms-2"},
}
print(json.dumps(answers[order["verb"]]))
"""


class Service:
    """A key-management service of the test's making, as a command."""

    def __init__(self, folder: Path) -> None:
        self._mode = folder / "mode"
        script = folder / "kms.py"
        script.write_text(SERVICE)
        self.command = (sys.executable, "-S", str(script), str(self._mode))
        self.becomes("works")

    def becomes(self, mode: str) -> None:
        self._mode.write_text(mode)

    def store(self, *, timeout_s: float = 2.0) -> CommandKeyStore:
        return CommandKeyStore(self.command, timeout_s=timeout_s)


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


def test_data_key_comes_back_from_the_local_store(tmp_path: Path) -> None:
    """Under its own name only, from another process too."""
    key = new_key()
    wrapped = LocalKeyStore(tmp_path / "keys").wrap(key, name="one")

    assert LocalKeyStore(tmp_path / "keys").unwrap(wrapped, name="one") == key
    with pytest.raises(CiphertextInvalid):
        LocalKeyStore(tmp_path / "keys").unwrap(wrapped, name="two")
    assert (tmp_path / "keys" / "artifact-keys.json").stat().st_mode & 0o777 == 0o600


def test_cr_04_older_generations_open_what_they_wrapped(tmp_path: Path) -> None:
    """After a rotation the new generation wraps, and the old one still opens."""
    store, key = LocalKeyStore(tmp_path), new_key()
    old = store.wrap(key, name="x")
    store.rotate()
    new = store.wrap(key, name="x")

    assert old.key_id != new.key_id
    assert store.unwrap(old, name="x") == store.unwrap(new, name="x") == key


def test_cr_04_rotations_at_once_lose_no_generation(tmp_path: Path) -> None:
    """Six processes' worth of rotations: what was wrapped between them still opens."""
    key, wrapped = new_key(), []

    def turn() -> None:
        store = LocalKeyStore(tmp_path)
        store.rotate()
        wrapped.append(store.wrap(key, name="x"))

    threads = [threading.Thread(target=turn) for _ in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    store = LocalKeyStore(tmp_path)
    assert [store.unwrap(each, name="x") for each in wrapped] == [key] * 6


def test_forgotten_generation_opens_nothing(tmp_path: Path) -> None:
    """What it wrapped is refused by its id; the one that is kept goes on, and one always stays."""
    store, key = LocalKeyStore(tmp_path), new_key()
    old = store.wrap(key, name="x")
    kept = store.rotate()

    assert store.forget(kept) == (old.key_id,)
    with pytest.raises(CiphertextInvalid, match="not in the key store"):
        store.unwrap(old, name="x")
    with pytest.raises(CiphertextInvalid, match="at least one"):
        store.forget(old.key_id)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b'{"generations": []}', b'{"generations":[{"key_id":"a","key":"c2VjcmV0"}]}'],
)
def test_damaged_store_stops_and_quotes_nothing(tmp_path: Path, content: bytes) -> None:
    """No new keys are made over old ones."""
    path = tmp_path / "artifact-keys.json"
    path.write_bytes(content)
    path.chmod(0o600)

    with pytest.raises(StartFailed, match="damaged") as refused:
        LocalKeyStore(tmp_path).wrap(new_key(), name="x")
    assert "c2VjcmV0" not in repr(refused.value.__cause__)
    assert path.read_bytes() == content


def test_cr_05_service_wraps_and_unwraps_through_a_command(service: Service) -> None:
    """Keys go through pipes; a rotation is passed on."""
    store, key = service.store(), new_key()
    wrapped = store.wrap(key, name="x")

    assert (wrapped.key_id, store.rotate()) == ("kms-1", "kms-2")
    assert store.unwrap(wrapped, name="x") == key


OUTAGES = {
    "slow": "no answer in 2 s",
    "denies": "failed with status 1",
    "another": "another key",
    "babbles": "answer that is none",
}


@pytest.mark.parametrize(("mode", "reason"), OUTAGES.items(), ids=list(OUTAGES))
def test_cr_05_known_keys_bridge_an_outage_for_their_life(
    service: Service, mode: str, reason: str
) -> None:
    """Slow, denying, answering with another key or with nonsense: what is known goes on for its
    life, what is not is refused, and nothing is wrapped by anyone else.
    """
    clock, key = ManualClock(), new_key()
    store = CachedKeyStore(service.store(), life_s=60, clock=clock)
    wrapped = store.wrap(key, name="x")
    assert store.unwrap(wrapped, name="x") == key

    service.becomes(mode)
    clock.advance(59)
    assert store.unwrap(wrapped, name="x") == key
    clock.advance(1)
    with pytest.raises(KeyStoreUnavailable, match=reason):
        store.unwrap(wrapped, name="x")


@pytest.mark.parametrize("mode", ["denies", "babbles"])
def test_cr_05_nothing_is_wrapped_by_anyone_else(service: Service, mode: str) -> None:
    """No service, no new sealed object."""
    service.becomes(mode)

    with pytest.raises(KeyStoreUnavailable):
        service.store().wrap(new_key(), name="x")


def test_cr_05_command_that_is_not_there_is_an_outage() -> None:
    """Not an error that ends whoever asked."""
    with pytest.raises(KeyStoreUnavailable, match="cannot be run"):
        CommandKeyStore(("/nonexistent/kms",), timeout_s=1).rotate()


def test_cache_holds_a_bounded_number_of_keys(tmp_path: Path) -> None:
    """The oldest leave first; all of them still open through the store."""
    store = CachedKeyStore(LocalKeyStore(tmp_path), life_s=60, clock=ManualClock())
    key = new_key()
    wrapped = [store.wrap(key, name="x") for _ in range(MAX_CACHED + 2)]

    for each in (*wrapped, *wrapped[:2]):
        assert store.unwrap(each, name="x") == key
    assert store.rotate() != wrapped[0].key_id


def test_cr_08_no_key_in_any_text_of_a_failure(service: Service, tmp_path: Path) -> None:
    """Messages, causes and values in their `repr`: neither the key nor its wrapped form's content."""
    key = new_key()
    texts: list[str] = []
    for mode in ("denies", "babbles", "another"):
        service.becomes("works")
        wrapped = service.store().wrap(key, name="x")
        service.becomes(mode)
        with pytest.raises(ServingError) as refused:
            service.store().unwrap(wrapped, name="x")
        failure: BaseException | None = refused.value
        while failure is not None:
            texts += [str(failure), repr(failure), repr(vars(failure))]
            failure = failure.__cause__ or failure.__context__
    texts.append(repr(vars(LocalKeyStore(tmp_path / "keys"))))

    canaries = (key.hex(), repr(key)[2:-1], base64.b64encode(key).decode())
    assert [canary for canary in canaries for text in texts if canary in text] == []
