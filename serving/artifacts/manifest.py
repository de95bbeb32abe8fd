"""What an author releases: the signed list of every file, and what must be approved before it serves.

The requirement of the risk tier stands inside the signed manifest. Whoever edits a database row or a
file beside it can therefore not lower it.
"""

import re
from collections.abc import Mapping
from typing import Final, Self

import msgspec

from serving.artifacts.bundles import bundle_digest
from serving.artifacts.paths import check_paths
from serving.errors import ReleaseRefused
from serving.trust.signatures import Envelope, SigningKey

MANIFEST_TYPE: Final = "application/vnd.serving.manifest+json"
_DIGEST: Final = re.compile("[0-9a-f]{64}")


class Requirement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a version of this tier needs before it may serve.

    approvals: of so many people, none of them the author. roles: each counted approver has one of
    them, and each of them is held by some counted approver.
    """

    tier: str
    approvals: int
    roles: tuple[str, ...]


class ManifestFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One version of a model, as its author releases it.

    author: whose act the registration was; author_owner: who answers for the API key that was used.
    entry: the ONNX file. created_ns: wall time, for people.
    """

    model: str
    version: str
    author: str
    requirement: Requirement
    entry: str
    files: tuple[ManifestFile, ...]
    created_ns: int
    author_owner: str = ""

    @classmethod
    def of(
        cls,
        model: str,
        version: str,
        *,
        author: str,
        requirement: Requirement,
        digests: Mapping[str, str],
        entry: str,
        created_ns: int,
        author_owner: str = "",
    ) -> Self:
        """digests: SHA-256 by path. Raises ReleaseRefused for a list that no release may have."""
        files = tuple(ManifestFile(path, digests[path]) for path in sorted(digests))
        made = cls(
            model=model,
            version=version,
            author=author,
            author_owner=author_owner,
            requirement=requirement,
            entry=entry,
            files=files,
            created_ns=created_ns,
        )
        made.check()
        return made

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Raises ReleaseRefused for what is no manifest."""
        try:
            manifest = msgspec.json.decode(payload, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ReleaseRefused(f"the manifest cannot be read: {error}") from error
        manifest.check()
        return manifest

    @property
    def digests(self) -> dict[str, str]:
        return {file.path: file.sha256 for file in self.files}

    @property
    def digest(self) -> str:
        """Of the whole artifact: what approvals name and what `ModelVersion.digest` is."""
        return bundle_digest(self.digests)

    def sign(self, key: SigningKey) -> Envelope:
        return key.sign(MANIFEST_TYPE, msgspec.json.encode(self))

    def check(self) -> None:
        """Raises ReleaseRefused for files that no artifact may have."""
        try:
            check_paths(file.path for file in self.files)
        except ValueError as error:
            raise ReleaseRefused(f"the manifest is refused: {error}") from error
        if self.entry not in self.digests or not all(
            _DIGEST.fullmatch(file.sha256) for file in self.files
        ):
            raise ReleaseRefused("the manifest names no entry, or a digest that is none")


def check_files(manifest: Manifest, digests: Mapping[str, str]) -> None:
    """Passes when these are the manifest's files, each as it was signed. Raises ReleaseRefused."""
    signed = manifest.digests
    for path in sorted(signed.keys() | digests.keys()):
        if path not in digests:
            raise ReleaseRefused(f"{path!r} was signed and is missing")
        if path not in signed:
            raise ReleaseRefused(f"{path!r} is there and was not signed")
        if digests[path] != signed[path]:
            raise ReleaseRefused(f"{path!r} is not as it was signed")
