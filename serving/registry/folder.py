"""The model catalogue kept as files: one folder per model, with its specification and artifacts.

    models/<model>/model.yaml     the specification: see `registry.specification`
    models/<model>/<file>         one ONNX file per version, named and digested in the specification

All specifications are read and checked at once, so a typing error in one stops the start with the
file and the field. Artifacts are verified when an entry is asked for: the file must lie inside its
model's folder, be a regular file and have the SHA-256 that the specification declares. Whoever
loads it hashes again the bytes it really loads: this check is for a clear message early.

A name is at most 63 characters of `a-z 0-9 . _ -` and starts with a letter or digit, so that it can
be a path, a URL segment, a metric label and a Ray application without quoting.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serving.core.models import ModelVersion
from serving.errors import (
    ArtifactInvalid,
    ArtifactMissing,
    ParameterInvalid,
    SpecificationInvalid,
)
from serving.registry.definition import define
from serving.registry.ensembles import artifact_of, digest_of, resolve
from serving.registry.entities import Lineage, ModelFacts
from serving.registry.specification import (
    FILE_NAME,
    Specification,
    Version,
    definition_of,
    facts_of,
    lineage_of,
    model_version,
    read_specification,
)

DEFAULT_MODELS_DIR: Final = Path(__file__).resolve().parents[2] / "models"
"""What `settings.models_dir = None` means: `models/` beside the package."""

PIECE_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One version with its verified artifact, and what people want to know about it.

    artifact: of an ensemble its `model.yaml`; the artifact itself follows from the stages (`content`).
    """

    version: ModelVersion
    artifact: Path
    owner: str
    description: str
    task: str
    licence: str
    source: str
    version_description: str
    provenance: str
    facts: ModelFacts
    lineage: Lineage

    def content(self) -> Iterator[bytes]:
        """The bytes of the artifact, piece by piece."""
        if self.version.stages:
            yield artifact_of(self.version.stages)
            return
        with self.artifact.open("rb") as content:
            while piece := content.read(PIECE_BYTES):
                yield piece


class Catalogue:
    """Every specification of a models folder, by model name."""

    def __init__(self, models_dir: Path, specifications: Mapping[str, Specification]) -> None:
        self._models_dir = models_dir
        self._specifications = dict(specifications)

    def models(self) -> tuple[str, ...]:
        return tuple(self._specifications)

    def versions(self, model: str) -> tuple[str, ...]:
        """Names in the order of the specification. Raises SpecificationInvalid for no such model."""
        return tuple(version.version for version in self._specification(model).versions)

    def is_ensemble(self, model: str) -> bool:
        """Whether any version is made of stages. Raises SpecificationInvalid for no such model."""
        specification = self._specification(model)
        return any(each.stages or specification.stages for each in specification.versions)

    def entry(self, model: str, version: str) -> CatalogueEntry:
        """The version, its artifact verified.

        Raises SpecificationInvalid when there is no such model or version, ArtifactMissing when the
        file is not on this machine, ArtifactInvalid when it is not the declared one.
        """
        specification = self._specification(model)
        found = self._found(specification, version)
        known = model_version(specification, found)
        artifact = self._models_dir / model / FILE_NAME
        if known.stages:
            known = self._ensemble(specification, found)
        else:
            artifact = _verified(self._models_dir / model, specification, found)
        return CatalogueEntry(
            version=known,
            artifact=artifact,
            owner=specification.owner,
            description=specification.description,
            task=specification.task,
            licence=specification.licence,
            source=specification.source,
            version_description=found.description,
            provenance=found.provenance,
            facts=facts_of(specification),
            lineage=lineage_of(found),
        )

    def _found(self, specification: Specification, version: str) -> Version:
        found = [each for each in specification.versions if each.version == version]
        if not found:
            known = ", ".join(each.version for each in specification.versions)
            raise SpecificationInvalid(
                f"{specification.model} has no version {version!r}; it has: {known}"
            )
        return found[0]

    def _ensemble(self, specification: Specification, version: Version) -> ModelVersion:
        """Its stages checked, and the artifact of each of them verified."""
        named = f"{specification.model}@{version.version}"
        definition = definition_of(specification, version)
        try:
            stages = resolve(
                definition, self._stage, model=specification.model, version=version.version
            )
        except ParameterInvalid as error:
            raise SpecificationInvalid(f"{named}: {error.message}") from error
        for stage in stages:
            self.entry(stage.model, stage.version)
        digest = digest_of(stages)
        if version.sha256 not in ("", digest):
            raise ArtifactInvalid(
                f"{named}: its stages have the SHA-256 {digest}; {FILE_NAME} declares "
                f"{version.sha256}"
            )
        return define(
            definition,
            model=specification.model,
            version=version.version,
            digest=digest,
            stages=stages,
        )

    def _stage(self, model: str, version: str) -> ModelVersion | None:
        specification = self._specifications.get(model)
        versions = specification.versions if specification is not None else []
        for each in versions:
            if specification is not None and each.version == version:
                return model_version(specification, each)
        return None

    def _specification(self, model: str) -> Specification:
        if model not in self._specifications:
            known = ", ".join(self._specifications) or "none"
            raise SpecificationInvalid(
                f"no model {model!r} in {self._models_dir}; there are: {known}"
            )
        return self._specifications[model]


def load_catalogue(models_dir: Path) -> Catalogue:
    """Reads and checks every specification below `models_dir`. Raises SpecificationInvalid."""
    if not models_dir.is_dir():
        raise SpecificationInvalid(f"models_dir {models_dir} is no folder")
    files = sorted(models_dir.glob(f"*/{FILE_NAME}"))
    return Catalogue(models_dir, {file.parent.name: read_specification(file) for file in files})


def _verified(folder: Path, specification: Specification, version: Version) -> Path:
    artifact = folder / version.file
    named = f"{specification.model}@{version.version}: {artifact}"
    if not artifact.resolve().is_relative_to(folder.resolve()):
        raise ArtifactInvalid(f"{named} lies outside the model's folder")
    if not artifact.exists():
        remedy = f"; to put it there: {specification.obtain}" if specification.obtain else ""
        raise ArtifactMissing(f"{named} is not there{remedy}")
    if artifact.is_symlink() or not artifact.is_file():
        raise ArtifactInvalid(f"{named} must be a regular file, not a link, folder or device")
    with artifact.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != version.sha256:
        raise ArtifactInvalid(
            f"{named} has the SHA-256 {digest}; {FILE_NAME} declares {version.sha256}"
        )
    return artifact
