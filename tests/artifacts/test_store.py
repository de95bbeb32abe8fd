"""Sealed artifacts by digest: nothing readable on disk, nothing opened that is not whole."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from serving.artifacts.bundles import bundle_index, sha256
from serving.artifacts.folders import FolderBlobs
from serving.artifacts.locations import open_artifacts
from serving.artifacts.store import ArtifactStore
from serving.core.clock import ManualClock
from serving.errors import ArtifactInvalid, ArtifactMissing, KeyStoreUnavailable
from serving.settings import Settings
from serving.storage.blobs import ObjectBlobs
from serving.trust.keystores import CommandKeyStore, LocalKeyStore, WrappedKey
from tests.releases import flip

CANARY = b"canary-weights-0123456789abcdef-"
CONTENT = CANARY * 100_000
DIGEST = sha256(CONTENT)


@pytest.fixture
def keys(tmp_path: Path) -> LocalKeyStore:
    return LocalKeyStore(tmp_path / "keys")


@pytest.fixture
def store(tmp_path: Path, keys: LocalKeyStore) -> ArtifactStore:
    return ArtifactStore(FolderBlobs(tmp_path / "artifacts"), keys)


def the_sealed(folder: Path, digest: str = DIGEST) -> Path:
    (found,) = folder.glob(f"artifacts/*/{digest}.*.sealed")
    return found


def test_what_was_put_comes_back_by_its_digest(store: ArtifactStore) -> None:
    """In pieces or whole, once or again."""
    pieces = (CONTENT[:7], CONTENT[7:])

    assert store.put(pieces) == store.put((CONTENT,), expected=DIGEST) == DIGEST
    assert store.open(DIGEST) == CONTENT
    assert (store.digests(), store.holds(DIGEST), store.holds("0" * 64)) == ([DIGEST], True, False)


def test_no_plaintext_is_on_disk(store: ArtifactStore, tmp_path: Path) -> None:
    """Neither while it is put, nor after; every file is its owner's only."""
    found: list[bytes] = []

    def arriving() -> Iterator[bytes]:
        for start in range(0, len(CONTENT), 400_000):
            yield CONTENT[start : start + 400_000]
            found.extend(each.read_bytes() for each in tmp_path.rglob("*") if each.is_file())

    store.put(arriving())
    files = [each for each in tmp_path.rglob("*") if each.is_file()]
    found.extend(each.read_bytes() for each in files)

    assert len(found) > len(files)
    assert [content for content in found if CANARY in content] == []
    assert {each.stat().st_mode & 0o777 for each in files} == {0o600}


def test_another_artifact_than_expected_is_refused_and_leaves_nothing(
    store: ArtifactStore, tmp_path: Path
) -> None:
    """An upload by digest holds what it said, or nothing."""
    with pytest.raises(ArtifactInvalid, match="has the SHA-256"):
        store.put((b"other",), expected=DIGEST)

    assert [each for each in (tmp_path / "artifacts").rglob("*") if each.is_file()] == []
    with pytest.raises(ArtifactMissing):
        store.open(sha256(b"other"))


def test_put_at_once_leaves_one_that_opens(store: ArtifactStore, tmp_path: Path) -> None:
    """Several processes that import the same artifact agree on one."""
    threads = [threading.Thread(target=store.put, args=((CONTENT,),)) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert store.open(DIGEST) == CONTENT
    assert the_sealed(tmp_path).exists()


@pytest.mark.parametrize("at", [0, 40, 100, 1_000_000, -1])
def test_ar_17_one_changed_byte_is_refused(store: ArtifactStore, tmp_path: Path, at: int) -> None:
    """Anywhere in the sealed file."""
    store.put((CONTENT,))
    flip(the_sealed(tmp_path), at)

    with pytest.raises(ArtifactInvalid, match="damaged"):
        store.open(DIGEST)


def test_cr_01_objects_do_not_open_under_each_others_names(
    store: ArtifactStore, tmp_path: Path
) -> None:
    """Sealed files exchanged, wrapped keys exchanged, or both."""
    other = store.put((b"other",))
    store.put((CONTENT,))
    one, two = the_sealed(tmp_path), the_sealed(tmp_path, other)
    contents = one.read_bytes(), two.read_bytes()
    one.write_bytes(contents[1])
    two.write_bytes(contents[0])
    for digest in (DIGEST, other):
        with pytest.raises(ArtifactInvalid, match="damaged"):
            store.open(digest)

    for sealed, digest in ((one, DIGEST), (two, other)):
        key = sealed.with_name(f"{digest}.key")
        other_key = two.with_name(f"{other}.key") if digest == DIGEST else None
        if other_key is not None:
            swapped = key.read_bytes(), other_key.read_bytes()
            key.write_bytes(swapped[1])
            other_key.write_bytes(swapped[0])
    for digest in (DIGEST, other):
        with pytest.raises((ArtifactInvalid, ArtifactMissing)):
            store.open(digest)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"object":"../x","key":{}}'])
def test_damaged_wrapped_key_is_refused(
    store: ArtifactStore, tmp_path: Path, content: bytes
) -> None:
    """Whatever stands in its file."""
    store.put((CONTENT,))
    the_sealed(tmp_path).with_name(f"{DIGEST}.key").write_bytes(content)

    with pytest.raises(ArtifactInvalid, match="wrapped key"):
        store.open(DIGEST)


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "0" * 63, "0" * 62 + "/."])
def test_what_is_no_digest_names_no_file(store: ArtifactStore, digest: str) -> None:
    """No path is made of it."""
    with pytest.raises(ArtifactInvalid, match="is no digest"):
        store.open(digest)


class Failing(LocalKeyStore):
    """A key store that goes away after some calls."""

    calls = 10**9

    def wrap(self, key: bytes, *, name: str) -> WrappedKey:
        self.calls -= 1
        if self.calls < 0:
            raise KeyStoreUnavailable("gone")
        return super().wrap(key, name=name)


def test_cr_04_rotation_that_ends_in_the_middle_leaves_every_artifact_open(tmp_path: Path) -> None:
    """Stopped after each number of steps: all open, with the old or the new key; then it is finished.

    Ciphertext is not touched.
    """
    keys = Failing(tmp_path / "keys")
    store = ArtifactStore(FolderBlobs(tmp_path / "artifacts"), keys)
    contents = {store.put((content,)): content for content in (b"a", b"b", b"c", b"d")}
    before = {each: each.stat().st_mtime_ns for each in tmp_path.rglob("*.sealed")}
    key_id = ""
    for done in range(len(contents) + 1):
        key_id = keys.rotate()
        keys.calls = done
        try:
            for digest in store.digests():
                store.rewrap(digest, key_id)
        except KeyStoreUnavailable:
            assert done < len(contents)
        keys.calls = 10**9

        assert {digest: store.open(digest) for digest in contents} == contents
    assert [store.rewrap(digest, key_id) for digest in contents] == [False] * 4
    keys.forget(key_id)
    assert {digest: store.open(digest) for digest in contents} == contents
    assert {each: each.stat().st_mtime_ns for each in tmp_path.rglob("*.sealed")} == before


def test_cr_04_artifacts_open_while_keys_rotate(store: ArtifactStore, keys: LocalKeyStore) -> None:
    """A reader that never stops is never refused."""
    store.put((b"served",))
    (digest,) = store.digests()
    stop, read = threading.Event(), [0]

    def reading() -> None:
        while not stop.is_set():
            assert store.open(digest) == b"served"
            read[0] += 1

    reader = threading.Thread(target=reading)
    reader.start()
    for _ in range(20):
        store.rewrap(digest, keys.rotate())
    stop.set()
    reader.join()

    assert read[0] > 0


def test_cr_05_without_keys_nothing_is_stored(tmp_path: Path) -> None:
    """No wrapping key, no artifact: it is never kept unsealed, nor half."""
    keys = CommandKeyStore(("/nonexistent/kms",), timeout_s=1)
    store = ArtifactStore(FolderBlobs(tmp_path / "artifacts"), keys)

    with pytest.raises(KeyStoreUnavailable):
        store.put((CONTENT,))

    assert [each for each in (tmp_path / "artifacts").rglob("*") if each.is_file()] == []


def test_destroyed_artifact_is_gone(store: ArtifactStore, tmp_path: Path) -> None:
    """Its key first; destroying it again is harmless, and it may be put anew."""
    store.put((CONTENT,))
    kept = the_sealed(tmp_path)
    ciphertext = kept.read_bytes()
    store.destroy(DIGEST)
    store.destroy(DIGEST)

    with pytest.raises(ArtifactMissing):
        store.open(DIGEST)
    store.put((CONTENT,))
    the_sealed(tmp_path).write_bytes(ciphertext)
    with pytest.raises(ArtifactInvalid):
        store.open(DIGEST)


def test_artifact_of_several_files_goes_with_those_that_no_other_has(store: ArtifactStore) -> None:
    """Weights that another artifact shares stay; a list of files is known from a file."""
    weights, one, other = (store.put((each,)) for each in (b"weights", b"one", b"other"))
    lists = [{"w.bin": weights, "m.onnx": each} for each in (one, other)]
    first, second = (store.put((bundle_index(each),)) for each in lists)
    assert (store.files(first), store.files(weights)) == (lists[0], None)
    store.destroy(first)
    assert [store.holds(each) for each in (first, one, weights, second)] == [0, 0, 1, 1]
    store.destroy(second)
    assert store.digests() == []


def test_object_store_keeps_the_same_promises(keys: LocalKeyStore, tmp_path: Path) -> None:
    """Put, put again, open, rotate, destroy: as in a folder, and only ciphertext is sent there."""
    objects = MemoryStore()
    blobs = ObjectBlobs(objects, tmp_path / "scratch")
    store = ArtifactStore(blobs, keys)
    assert store.put((CONTENT,)) == store.put((CONTENT,)) == DIGEST
    stamp = store.stamp(DIGEST)

    assert store.rewrap(DIGEST, keys.rotate())
    assert (store.open(DIGEST), store.digests()) == (CONTENT, [DIGEST])
    assert store.stamp(DIGEST) == stamp
    assert len(blobs.names()) == 2
    assert not any(CANARY in b"".join(blobs.read(name)) for name in blobs.names())
    assert list((tmp_path / "scratch").iterdir()) == []
    store.destroy(DIGEST)
    assert not store.holds(DIGEST)
    assert blobs.names() == []


def test_settings_say_where_artifacts_lie_and_who_holds_the_keys(tmp_path: Path) -> None:
    """A folder and a key file by default; a command when one is named."""
    settings = Settings.model_validate({"artifacts": {"key_command": ["/nonexistent/kms"]}})
    places = {"folder": tmp_path / "artifacts", "keys_dir": tmp_path / "keys"}
    local = open_artifacts(Settings(), **places, clock=ManualClock())
    elsewhere = open_artifacts(settings, **places, clock=ManualClock())

    local.put((b"x",))
    with pytest.raises(KeyStoreUnavailable):
        elsewhere.put((b"y",))
    assert (tmp_path / "keys" / "artifact-keys.json").exists()
