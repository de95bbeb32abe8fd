"""Artifacts on their way in: piece by piece, resumable, in no place where anybody takes them for whole.

    <id>/upload.json        what was declared, and how far it is (`Upload`)
    <id>/<file>.<offset>    one piece, sealed with a key of this upload's own, which is wrapped

File names of an artifact never become names here. A piece counts once it is on disk as a whole; what is
sent again must be what is there. Nothing is given out before every file has the size and the SHA-256
that were declared for it. Used by one thread.
"""

import hashlib
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from serving.artifacts.bundles import bundle_digest
from serving.artifacts.sniffing import LONGEST, foreign_kind
from serving.errors import (
    ArtifactUnsupported,
    BodyTooLarge,
    DigestChanged,
    NotFound,
    StateConflict,
)
from serving.trust.envelopes import new_key, seal, unseal
from serving.trust.keystores import KeyStore, WrappedKey
from serving.trust.privatefiles import replace_private

MAX_PIECE_BYTES: Final = 8 * 1024 * 1024
MODEL_SUFFIX: Final = ".onnx"
_FILE: Final = "upload.json"
_ID: Final = re.compile("[0-9a-f]{32}")

Stage = Literal["receiving", "inspecting", "validated", "rejected", "failed"]


class UploadFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file as it was declared."""

    path: str
    sha256: str
    bytes: int


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact on its way. files: of the artifact. parity: answers of the source model, which
    are no part of it. order, sender: opaque here. code, reason: why it is rejected, or failed."""

    id: str
    model: str
    version: str
    files: tuple[UploadFile, ...]
    parity: UploadFile | None
    order: dict[str, Any]
    sender: dict[str, Any]
    key: WrappedKey
    stage: Stage = "receiving"
    code: str = ""
    reason: str = ""
    touched_ns: int = 0

    @property
    def all_files(self) -> tuple[UploadFile, ...]:
        return self.files if self.parity is None else (*self.files, self.parity)

    @property
    def digests(self) -> dict[str, str]:
        return {file.path: file.sha256 for file in self.files}

    @property
    def digest(self) -> str:
        """Of the whole artifact."""
        return bundle_digest(self.digests)

    def find(self, path: str) -> int:
        """The number of a file. Raises NotFound."""
        for number, file in enumerate(self.all_files):
            if file.path == path:
                return number
        raise NotFound("the upload declares no file of this name")


class Uploads:
    """All raise OSError, KeyStoreUnavailable, CiphertextInvalid."""

    def __init__(self, folder: Path, keys: KeyStore) -> None:
        self._folder = folder
        self._keys = keys
        self._hashers: dict[tuple[str, int], tuple[int, Any]] = {}

    def open(self, **declared: Any) -> Upload:
        """Begins one. declared: fields of `Upload`, without `id` and `key`."""
        upload_id = secrets.token_hex(16)
        wrapped = self._keys.wrap(new_key(), name=upload_id)
        upload = Upload(id=upload_id, key=wrapped, **declared)
        (self._folder / upload_id).mkdir(mode=0o700, parents=True)
        self.write(upload)
        return upload

    def write(self, upload: Upload) -> None:
        replace_private(self._folder / upload.id / _FILE, msgspec.json.encode(upload))

    def find(self, upload_id: str) -> Upload:
        """Raises NotFound."""
        if _ID.fullmatch(upload_id):
            with suppress(FileNotFoundError):
                content = (self._folder / upload_id / _FILE).read_bytes()
                return msgspec.json.decode(content, type=Upload)
        raise NotFound("there is no such upload, or it was given up")

    def listed(self) -> list[Upload]:
        """All there are."""
        found = []
        for file in sorted(self._folder.glob(f"*/{_FILE}")):
            with suppress(NotFound):
                found.append(self.find(file.parent.name))
        return found

    def received(self, upload: Upload, number: int) -> int:
        """How many bytes of a file are there, from its begin on; hashed as they come."""
        if (upload.id, number) not in self._hashers:
            hasher, reached = hashlib.sha256(), 0
            for piece in self.content(upload, number):
                hasher.update(piece)
                reached += len(piece)
            self._hashers[upload.id, number] = (reached, hasher)
        return self._hashers[upload.id, number][0]

    def add(self, upload: Upload, number: int, *, offset: int, content: bytes) -> int:
        """One piece; how much is there then. Sent again it changes nothing.

        Raises BodyTooLarge, StateConflict.
        """
        if upload.stage != "receiving":
            raise StateConflict(f"the upload is {upload.stage}; nothing can be added")
        file = upload.all_files[number]
        if len(content) > MAX_PIECE_BYTES:
            raise BodyTooLarge(f"a piece has at most {MAX_PIECE_BYTES} bytes")
        if offset + len(content) > file.bytes:
            raise BodyTooLarge(f"the file was declared with {file.bytes} bytes")
        path = self._path(upload, number, offset)
        if path.exists():
            there = self._opened(upload, path)
            if there != content:
                raise StateConflict(f"other bytes are there from {offset} on; begin a new upload")
            return offset + len(there)
        reached = self.received(upload, number)
        if offset != reached or not content:
            raise StateConflict(f"{reached} bytes are there: go on from offset {reached}")
        sealed = seal(content, key=self._key(upload), name=path.name)
        replace_private(path, sealed)
        hasher = self._hashers[upload.id, number][1]
        hasher.update(content)
        self._hashers[upload.id, number] = (offset + len(content), hasher)
        return offset + len(content)

    def check(self, upload: Upload) -> None:
        """Passes when every byte is there and as declared.

        Raises StateConflict, DigestChanged, ArtifactUnsupported. A file with other bytes is forgotten,
        so that it can be sent again.
        """
        for number, file in enumerate(upload.all_files):
            reached = self.received(upload, number)
            if reached != file.bytes:
                raise StateConflict(f"{file.path!r} has {reached} of {file.bytes} bytes")
            if file is not upload.parity and file.path.endswith(MODEL_SUFFIX):
                start = next(iter(self.content(upload, number)), b"")[:LONGEST]
                kind = foreign_kind(start)
                if kind:
                    raise ArtifactUnsupported(f"{file.path!r} is {kind}, not an ONNX model")
        for number, file in enumerate(upload.all_files):
            digest = self._hashers[upload.id, number][1].hexdigest()
            if digest != file.sha256:
                self._forget(upload, number)
                raise DigestChanged(
                    f"{file.path!r} came with the SHA-256 {digest}, not {file.sha256}; send it again"
                )

    def content(self, upload: Upload, number: int) -> Iterator[bytes]:
        """A file, piece by piece."""
        for _, path in self._pieces(upload, number):
            yield self._opened(upload, path)

    def settle(self, upload: Upload, stage: Stage, *, code: str = "", reason: str = "") -> None:
        """Ends an upload: what became of it stays to be asked for, its bytes go."""
        self.write(msgspec.structs.replace(upload, stage=stage, code=code, reason=reason))
        for number, _ in enumerate(upload.all_files):
            self._forget(upload, number)

    def remove(self, upload: Upload) -> None:
        for number, _ in enumerate(upload.all_files):
            self._hashers.pop((upload.id, number), None)
        shutil.rmtree(self._folder / upload.id, ignore_errors=True)

    # -- inside ----------------------------------------------------------------------------------

    def _forget(self, upload: Upload, number: int) -> None:
        self._hashers.pop((upload.id, number), None)
        for _, path in self._pieces(upload, number):
            path.unlink(missing_ok=True)

    def _pieces(self, upload: Upload, number: int) -> list[tuple[int, Path]]:
        """By offset."""
        found = (self._folder / upload.id).glob(f"{number}.*")
        return sorted((int(path.suffix[1:]), path) for path in found if path.suffix[1:].isdigit())

    def _path(self, upload: Upload, number: int, offset: int) -> Path:
        return self._folder / upload.id / f"{number}.{offset}"

    def _opened(self, upload: Upload, path: Path) -> bytes:
        return unseal(path.read_bytes(), key=self._key(upload), name=path.name)

    def _key(self, upload: Upload) -> bytes:
        return self._keys.unwrap(upload.key, name=upload.id)
