"""The files of one artifact in memory, and the one digest that means all of them.

An artifact of one file has that file's SHA-256 as its digest. With external data the digest is over the
paths and digests of all files, so that none can be added, removed, renamed or swapped unnoticed.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import msgspec

from serving.trust.canonical import canonical

ENTRY: Final = "model.onnx"
"""What the file of an artifact with one file is called."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a session is made from. entry: the ONNX file; files: by path, the entry among them."""

    entry: str
    files: Mapping[str, bytes]

    @classmethod
    def single(cls, content: bytes) -> Self:
        return cls(ENTRY, {ENTRY: content})

    @property
    def digest(self) -> str:
        """Hashes every byte, each time."""
        return bundle_digest({path: sha256(content) for path, content in self.files.items()})

    @property
    def external(self) -> dict[str, bytes]:
        """Every file but the entry."""
        return {path: content for path, content in self.files.items() if path != self.entry}


def bundle_digest(digests: Mapping[str, str]) -> str:
    """The digest of an artifact from those of its files, lower-case hexadecimal SHA-256 by path."""
    if len(digests) == 1:
        (only,) = digests.values()
        return only
    return sha256(bundle_index(digests))


def bundle_index(digests: Mapping[str, str]) -> bytes:
    """What the digest of several files is of. Kept like a file, it says which files a digest means."""
    return canonical({"files": dict(digests)})


def indexed_files(content: bytes) -> dict[str, str] | None:
    """The files of an index, by path; None for content that is none."""
    try:
        index = msgspec.json.decode(content, type=_Index)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return index.files if bundle_index(index.files) == content else None


class _Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    files: dict[str, str]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
