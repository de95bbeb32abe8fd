"""Artifacts by digest, sealed at rest.

    <aa>/<digest>.<object>.sealed   ciphertext (`trust.envelopes`), under a data key of its own
    <aa>/<digest>.key               which object it is, and its data key, wrapped (`trust.keystores`)

An artifact is there when its `.key` is: the sealed object is complete and synced before. No plaintext
is ever written, not even while an upload is being hashed. The data key is wrapped for the digest and the
ciphertext commits to the data key, so no object opens under the name of another; and what was opened is
hashed again before it is given out.

Rotation replaces `.key` files, one by one and each as a whole: stopped anywhere, every artifact opens
with the old or the new wrapping key, and ciphertext stays as it is. Destroying removes the wrapped
key first: what may be left of the ciphertext, in backups too, is then unreadable.
"""

import hashlib
import secrets
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Final, Protocol

import msgspec

from serving.artifacts.bundles import indexed_files, sha256
from serving.errors import ArtifactInvalid, ArtifactMissing, CiphertextInvalid
from serving.trust.envelopes import new_key, open_stream, seal_stream, unseal
from serving.trust.keystores import KeyStore, WrappedKey

OBJECT: Final = "artifact"
INDEX_START: Final = b'{"files":'
MAX_INDEX_BYTES: Final = 1024 * 1024
KEY_SUFFIX: Final = ".key"
_DIGEST_DIGITS: Final = 64


class Blobs(Protocol):
    """Where sealed objects and wrapped keys lie: `folders.FolderBlobs`, or an object store."""

    def written(self, pieces: Iterable[bytes]) -> AbstractContextManager[Path]: ...
    def add(self, name: str, file: Path) -> bool: ...
    def replace(self, name: str, content: bytes) -> None: ...
    def read(self, name: str) -> Iterator[bytes]: ...
    def stamp(self, name: str) -> str: ...
    def names(self) -> list[str]: ...
    def remove(self, name: str) -> None: ...


class _Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a `.key`."""

    object: str
    key: WrappedKey


class ArtifactStore:
    """All raise KeyStoreUnavailable when keys cannot be had, ArtifactInvalid for damage, OSError."""

    def __init__(self, blobs: Blobs, keys: KeyStore) -> None:
        self._blobs = blobs
        self._keys = keys

    def put(self, pieces: Iterable[bytes], *, expected: str = "") -> str:
        """Seals what `pieces` give and returns its digest, lower-case hexadecimal SHA-256.

        expected: refuse anything else, if given. Something that is there already stays as it is.
        """
        data_key, hasher = new_key(), hashlib.sha256()

        def hashed() -> Iterator[bytes]:
            for piece in pieces:
                hasher.update(piece)
                yield piece

        with self._blobs.written(seal_stream(hashed(), key=data_key, name=OBJECT)) as sealed:
            digest = hasher.hexdigest()
            if expected and digest != expected:
                raise ArtifactInvalid(f"the artifact has the SHA-256 {digest}, not {expected}")
            if not self.holds(digest):
                self._add(digest, sealed, data_key)
        return digest

    def open(self, digest: str) -> bytes:
        """The plaintext, in memory only. Raises ArtifactMissing when there is none."""
        entry = self._entry(digest)
        try:
            data_key = self._keys.unwrap(entry.key, name=digest)
            content = unseal(
                self._blobs.read(_sealed(digest, entry.object)), key=data_key, name=OBJECT
            )
        except CiphertextInvalid as error:
            raise ArtifactInvalid(f"the artifact {digest} is damaged: {error.message}") from error
        if sha256(content) != digest:
            raise ArtifactInvalid(f"the artifact {digest} does not have its digest")
        return content

    def stream(self, digest: str) -> Iterator[bytes]:
        """The same piece by piece; that it is damaged may be found with the last one."""
        entry = self._entry(digest)
        hasher = hashlib.sha256()
        try:
            data_key = self._keys.unwrap(entry.key, name=digest)
            sealed = self._blobs.read(_sealed(digest, entry.object))
            for piece in open_stream(sealed, key=data_key, name=OBJECT):
                hasher.update(piece)
                yield piece
        except CiphertextInvalid as error:
            raise ArtifactInvalid(f"the artifact {digest} is damaged: {error.message}") from error
        if hasher.hexdigest() != digest:
            raise ArtifactInvalid(f"the artifact {digest} does not have its digest")

    def holds(self, digest: str) -> bool:
        try:
            self._blobs.stamp(_key(digest))
        except ArtifactMissing:
            return False
        return True

    def stamp(self, digest: str) -> str:
        """Changes when the stored artifact is written anew. Raises ArtifactMissing."""
        entry = self._entry(digest)
        return self._blobs.stamp(_sealed(digest, entry.object))

    def digests(self) -> list[str]:
        """Of everything that is there, sorted."""
        keys = (name for name in self._blobs.names() if name.endswith(KEY_SUFFIX))
        return sorted(name.partition("/")[2].removesuffix(KEY_SUFFIX) for name in keys)

    def rewrap(self, digest: str, key_id: str) -> bool:
        """Wraps an artifact's data key with `key_id`, the current one; False when it is already."""
        entry = self._entry(digest)
        if entry.key.key_id == key_id:
            return False
        data_key = self._keys.unwrap(entry.key, name=digest)
        wrapped = self._keys.wrap(data_key, name=digest)
        self._blobs.replace(_key(digest), msgspec.json.encode(_Key(entry.object, wrapped)))
        return True

    def files(self, digest: str) -> dict[str, str] | None:
        """The files of an artifact of several, SHA-256 by path; None for one file."""
        content = b""
        for piece in self.stream(digest):
            content += piece
            if not content.startswith(INDEX_START) or len(content) > MAX_INDEX_BYTES:
                return None
        return indexed_files(content)

    def destroy(self, digest: str) -> None:
        """Makes an artifact unreadable for ever: wrapped keys go first.

        So do files that no other artifact of several files has.
        """
        files = self._readable_files(digest)
        shared = {
            each
            for other in (self.digests() if files else ())
            if other != digest and other not in files.values()
            for each in self._readable_files(other).values()
        }
        for each in (*(set(files.values()) - shared), digest):
            self._blobs.remove(_key(each))
            for name in self._blobs.names():
                if name.startswith(_place(each)):
                    self._blobs.remove(name)

    def _readable_files(self, digest: str) -> dict[str, str]:
        """As `files`, and none of an artifact that is gone or damaged."""
        with suppress(ArtifactInvalid):
            return self.files(digest) or {}
        return {}

    def _add(self, digest: str, sealed: Path, data_key: bytes) -> None:
        wrapped = self._keys.wrap(data_key, name=digest)
        entry = _Key(secrets.token_hex(8), wrapped)
        name = _sealed(digest, entry.object)
        self._blobs.add(name, sealed)
        with self._blobs.written((msgspec.json.encode(entry),)) as key:
            if not self._blobs.add(_key(digest), key):
                self._blobs.remove(name)  # Another was first, with a data key of its own.

    def _entry(self, digest: str) -> _Key:
        if len(digest) != _DIGEST_DIGITS or not digest.isalnum():
            raise ArtifactInvalid(f"{digest[:_DIGEST_DIGITS]!r} is no digest")
        content = b"".join(self._blobs.read(_key(digest)))
        try:
            entry = msgspec.json.decode(content, type=_Key)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ArtifactInvalid(f"the wrapped key of {digest} is damaged") from error
        if not entry.object.isalnum():
            raise ArtifactInvalid(f"the wrapped key of {digest} is damaged")
        return entry


def _place(digest: str) -> str:
    return f"{digest[:2]}/{digest}"


def _key(digest: str) -> str:
    return _place(digest) + KEY_SUFFIX


def _sealed(digest: str, object_id: str) -> str:
    return f"{_place(digest)}.{object_id}.sealed"
