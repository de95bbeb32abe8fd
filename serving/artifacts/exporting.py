"""A released version as a folder for other tools: its files, and their OpenSSF signature.

What is written there is readable: it leaves the protection of the store because somebody asked for it.
"""

import os
from pathlib import Path

from serving.artifacts.bundles import sha256
from serving.artifacts.manifest import Manifest, check_files
from serving.artifacts.modelsigning import SIGNATURE_NAME, sign_files
from serving.artifacts.store import ArtifactStore
from serving.errors import ArtifactInvalid
from serving.trust.bundlekeys import BundleKey


def export_bundle(manifest: Manifest, store: ArtifactStore, key: BundleKey, folder: Path) -> Path:
    """Writes the files of a verified manifest and `model.sig` into a new folder.

    Returns the path of the signature. Raises ArtifactInvalid, KeyStoreUnavailable.
    """
    if SIGNATURE_NAME in manifest.digests:
        raise ArtifactInvalid(f"the artifact holds a file {SIGNATURE_NAME} of its own")
    contents = {path: store.open(digest) for path, digest in manifest.digests.items()}
    check_files(manifest, {path: sha256(content) for path, content in contents.items()})
    contents[SIGNATURE_NAME] = sign_files(manifest.model, manifest.digests, key)
    try:
        folder.mkdir(parents=True)
        for path, content in contents.items():
            _write(folder / path, content)
    except OSError as error:
        raise ArtifactInvalid(f"{folder} cannot be written: {error.strerror}") from error
    return folder / SIGNATURE_NAME


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
