"""Signed releases for tests: sealed, signed and approved by the installation of a data folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from serving.artifacts.bundles import ENTRY, Bundle, sha256
from serving.artifacts.folders import FolderBlobs
from serving.artifacts.manifest import Manifest, Requirement
from serving.artifacts.release import Release, release_file, write_release
from serving.artifacts.statements import SERVE, Approval
from serving.artifacts.store import ArtifactStore
from serving.core.clock import SystemClock
from serving.core.models import ModelVersion
from serving.inference.plans import ReplicaOrder
from serving.trust.installation import installation_key
from serving.trust.keystores import LocalKeyStore
from serving.trust.signatures import SigningKey

AUTHOR = "author"
APPROVER = "approver"
DEMO = Requirement("demo", 1, ("approver",))


def bundle_of(artifact: Path) -> Bundle:
    """An artifact of one file."""
    return Bundle.single(artifact.read_bytes())


def flip(path: Path, at: int = -1) -> None:
    """Changes one bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


class Vault:
    """The artifacts, releases and keys below one folder, and the hand that signs there."""

    def __init__(self, folder: Path) -> None:
        self.artifacts = folder / "artifacts"
        self.releases = folder / "releases"
        self.keys = folder / "keys"
        self.key: SigningKey = installation_key(self.keys)

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(FolderBlobs(self.artifacts), LocalKeyStore(self.keys))

    def release(self, version: ModelVersion, content: bytes | Bundle, **changes: Any) -> Path:
        """Seals and releases a version; changes: of the manifest. Returns the release's file."""
        bundle = content if isinstance(content, Bundle) else Bundle.single(content)
        for each in bundle.files.values():
            self.store.put((each,))
        digests = {path: sha256(each) for path, each in bundle.files.items()}
        manifest = manifest_of(version, digests, entry=bundle.entry, **changes)
        return self.write(manifest, [approval_of(manifest)])

    def write(self, manifest: Manifest, approvals: list[Approval]) -> Path:
        """Signs both with the installation's key and replaces the release of that version."""
        signed = tuple(each.sign(self.key) for each in approvals)
        path = release_file(self.releases, manifest.model, manifest.version)
        write_release(path, Release(manifest.sign(self.key), signed))
        return path

    def order(self, order: ReplicaOrder, content: bytes | Bundle) -> ReplicaOrder:
        """The order, able to run `content`."""
        return msgspec.structs.replace(
            order,
            release=str(self.release(order.version, content)),
            artifacts=str(self.artifacts),
            keys=str(self.keys),
        )


def manifest_of(
    version: ModelVersion, digests: Mapping[str, str] | None = None, **changes: Any
) -> Manifest:
    """By default of one file that has the version's digest, in tier demo."""
    values: dict[str, Any] = {
        "author": AUTHOR,
        "requirement": DEMO,
        "digests": digests or {ENTRY: version.digest},
        "entry": ENTRY,
        "created_ns": SystemClock.wall_ns(),
    }
    return Manifest.of(version.model, version.version, **(values | changes))


def approval_of(manifest: Manifest, **changes: Any) -> Approval:
    """One that counts, unless changed."""
    approval = Approval(
        kind=SERVE,
        model=manifest.model,
        version=manifest.version,
        digest=manifest.digest,
        approver=APPROVER,
        roles=("approver",),
        author=manifest.author,
        decision="approved",
        reason="tested",
        issued_ns=manifest.created_ns,
    )
    return msgspec.structs.replace(approval, **changes)
