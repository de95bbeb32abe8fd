"""Where an installation keeps its sealed artifacts, and who holds the keys, as its settings say."""

from pathlib import Path

from serving.artifact_settings import ArtifactSettings
from serving.artifacts.folders import FolderBlobs
from serving.artifacts.store import ArtifactStore
from serving.core.clock import Clock
from serving.settings import Settings
from serving.storage.blobs import ObjectBlobs, open_bucket
from serving.trust.keystores import CachedKeyStore, CommandKeyStore, KeyStore, LocalKeyStore

PREFIX = "artifacts"


def open_artifacts(
    settings: Settings, *, folder: Path, keys_dir: Path, clock: Clock
) -> ArtifactStore:
    """The store of artifacts; unwrapped data keys stay known for `artifacts.key_life_s`.

    folder: where it lies, or, with an object store, where ciphertext waits to be sent there.
    """
    keys = CachedKeyStore(
        open_keys(settings.artifacts, keys_dir), life_s=settings.artifacts.key_life_s, clock=clock
    )
    if settings.blobs.url:
        return ArtifactStore(ObjectBlobs(open_bucket(settings.blobs, PREFIX), folder), keys)
    return ArtifactStore(FolderBlobs(folder), keys)


def open_keys(settings: ArtifactSettings, keys_dir: Path) -> KeyStore:
    """The key-management service behind the command, or the key file of this data directory."""
    if settings.key_command:
        return CommandKeyStore(settings.key_command, timeout_s=settings.key_timeout_s)
    return LocalKeyStore(keys_dir)
