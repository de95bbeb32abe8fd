"""What a replay runs: a registered version, one of the models folder, or an ONNX file.

Nothing has to be approved to be replayed: what it answers goes to nobody. The bytes are hashed all the
same when they are loaded, so that it is the version that is named.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from serving.app.directory import DataDirectory
from serving.artifacts.bundles import Bundle
from serving.artifacts.locations import open_artifacts
from serving.artifacts.manifest import Manifest
from serving.artifacts.release import read_release
from serving.core.clock import Clock
from serving.core.models import Digest, ModelVersion, VersionName
from serving.errors import ArtifactInvalid, SpecificationInvalid
from serving.registry.entities import ModelFacts, RegisteredVersion
from serving.registry.folder import DEFAULT_MODELS_DIR, Catalogue, load_catalogue
from serving.registry.rows import find_model, find_version
from serving.settings import Settings
from serving.storage.database import FILE_NAME, Database

Found = TypeVar("Found")

FILE_SUFFIX: Final = ".onnx"


@dataclass(frozen=True, slots=True)
class Targets:
    """Where versions are looked for: the registry of the instance, then its models folder."""

    settings: Settings
    clock: Clock

    def find(self, model: str, against: str, *, like: str = "") -> tuple[ModelVersion, Bundle]:
        """against: a version, or the path of an ONNX file, which is taken for another `like`, or for
        another first version of the models folder.

        Raises SpecificationInvalid, ArtifactInvalid, RegistryUnavailable.
        """
        if not against.endswith(FILE_SUFFIX):
            return self._version(model, against)
        bundle = _bundle(Path(against))
        known, _ = self._version(model, like or self._first(model))
        name = VersionName(Path(against).name)
        return replace(known, version=name, digest=Digest(bundle.digest)), bundle

    def facts(self, model: str) -> ModelFacts:
        """What its owner says of a model. Raises SpecificationInvalid, RegistryUnavailable."""
        found = self._read(lambda connection: find_model(connection, model))
        return (
            self._catalogue.entry(model, self._first(model)).facts if found is None else found.facts
        )

    def _version(self, model: str, version: str) -> tuple[ModelVersion, Bundle]:
        registered = self._registered(model, version)
        if registered is not None:
            _check_runs_alone(registered.definition)
            return registered.definition, self._stored(registered)
        entry = self._catalogue.entry(model, version)
        _check_runs_alone(entry.version)
        return entry.version, Bundle.single(b"".join(entry.content()))

    def _first(self, model: str) -> str:
        return self._catalogue.versions(model)[0]

    @property
    def _catalogue(self) -> Catalogue:
        return load_catalogue(self.settings.models_dir or DEFAULT_MODELS_DIR)

    @property
    def _directory(self) -> DataDirectory:
        return DataDirectory.at(self.settings.data_dir)

    def _registered(self, model: str, version: str) -> RegisteredVersion | None:
        return self._read(lambda connection: find_version(connection, model, version))

    def _read(self, question: Callable[[Any], Found | None]) -> Found | None:
        """question: asked with a connection. None where there is no registry, either."""
        settings, root = self.settings.registry, self._directory.root
        if not settings.url and not (root / FILE_NAME).exists():
            return None
        database = Database.existing(settings, root / FILE_NAME, clock=self.clock)
        try:
            return database.read(question)
        finally:
            database.close()

    def _stored(self, version: RegisteredVersion) -> Bundle:
        directory = self._directory
        store = open_artifacts(
            self.settings, folder=directory.artifacts, keys_dir=directory.keys, clock=self.clock
        )
        if store.holds(version.digest):
            return Bundle.single(store.open(version.digest))
        release = read_release(directory.releases / f"{version.key}.json")
        manifest = Manifest.decode(release.manifest.payload)
        files = {path: store.open(digest) for path, digest in manifest.digests.items()}
        return Bundle(manifest.entry, files)


def _check_runs_alone(version: ModelVersion) -> None:
    """Raises SpecificationInvalid."""
    if version.stages:
        raise SpecificationInvalid(
            f"{version.key} is an ensemble, which gateways run: replay the records of its stages"
        )


def _bundle(artifact: Path) -> Bundle:
    try:
        return Bundle.single(artifact.read_bytes())
    except OSError as error:
        raise ArtifactInvalid(f"cannot read {artifact}: {error.strerror}") from error
