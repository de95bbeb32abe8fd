"""The model catalogue kept as files: one folder per model, with its specification and artifacts.

    models/<model>/model.yaml     the specification: see `Specification` for every field
    models/<model>/<file>         one ONNX file per version, named and digested in the specification

All specifications are read and checked at once, so a typing error in one stops the start with the
file and the field. Artifacts are verified when an entry is asked for: the file must lie inside its
model's folder, be a regular file and have the SHA-256 that the specification declares. Whoever
loads it hashes again the bytes it really loads: this check is for a clear message early.

A name is at most 63 characters of `a-z 0-9 . _ -` and starts with a letter or digit, so that it can
be a path, a URL segment, a metric label and a Ray application without quoting.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from serving.core.models import BatchLimits, Digest, ModelName, ModelVersion, VersionName
from serving.core.tensors import DTYPES, MAX_RANK, TensorSpecification
from serving.errors import ArtifactInvalid, ArtifactMissing, SpecificationInvalid

FILE_NAME: Final = "model.yaml"
MAX_SPECIFICATION_BYTES: Final = 256 * 1024
DEFAULT_MODELS_DIR: Final = Path(__file__).resolve().parents[2] / "models"
"""What `settings.models_dir = None` means: `models/` beside the package."""
LIMITS: Final = BatchLimits()

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Part(BaseModel):
    """A part of a specification: frozen, no unknown field, nothing converted silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Tensor(Part):
    """One input or output. shape: -1 marks a dimension that may vary; the first counts rows."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    datatype: str
    shape: Annotated[list[int], Field(min_length=1, max_length=MAX_RANK)]
    meaning: str = ""

    @field_validator("datatype")
    @classmethod
    def _served(cls, datatype: str) -> str:
        if datatype not in DTYPES:
            raise ValueError(f"must be one of {', '.join(DTYPES)}")
        return datatype

    @field_validator("shape")
    @classmethod
    def _rows_first(cls, shape: list[int]) -> list[int]:
        if shape[0] != -1:
            raise ValueError("the first dimension counts rows and must be -1")
        if any(size < 1 and size != -1 for size in shape):
            raise ValueError("each dimension must be at least 1, or -1 where it may vary")
        return shape


class Batching(Part):
    """See `core.models.BatchLimits`."""

    max_batch_size: Annotated[int, Field(ge=1, le=1024)] = LIMITS.max_batch_size
    latency_objective_ms: Annotated[float, Field(gt=0, le=60_000)] = LIMITS.latency_objective_ms


class Version(Part):
    """One immutable version. file: relative to the model's folder."""

    version: Name
    file: Text
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    description: Text
    provenance: Text


class Specification(Part):
    """One `model.yaml`. obtain: the command that puts missing artifacts in place, if there is one.

    finite_inputs: refuse NaN and infinities before the model sees them.
    """

    model: Name
    owner: Text
    description: Text
    task: Text
    licence: Text
    source: Text
    inputs: Annotated[list[Tensor], Field(min_length=1)]
    outputs: Annotated[list[Tensor], Field(min_length=1)]
    batching: Batching = Batching()
    finite_inputs: bool = True
    obtain: Text | None = None
    versions: Annotated[list[Version], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for field, names in (
            ("inputs", [tensor.name for tensor in self.inputs]),
            ("outputs", [tensor.name for tensor in self.outputs]),
            ("versions", [version.version for version in self.versions]),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"{field} must have distinct names, not {', '.join(names)}")
        return self


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One version with its verified artifact, and what people want to know about it."""

    version: ModelVersion
    artifact: Path
    owner: str
    description: str
    task: str
    licence: str
    source: str
    version_description: str
    provenance: str


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

    def entry(self, model: str, version: str) -> CatalogueEntry:
        """The version, its artifact verified.

        Raises SpecificationInvalid when there is no such model or version, ArtifactMissing when the
        file is not on this machine, ArtifactInvalid when it is not the declared one.
        """
        specification = self._specification(model)
        found = [each for each in specification.versions if each.version == version]
        if not found:
            known = ", ".join(self.versions(model))
            raise SpecificationInvalid(f"{model} has no version {version!r}; it has: {known}")
        artifact = _verified(self._models_dir / model, specification, found[0])
        return CatalogueEntry(
            version=_model_version(specification, found[0]),
            artifact=artifact,
            owner=specification.owner,
            description=specification.description,
            task=specification.task,
            licence=specification.licence,
            source=specification.source,
            version_description=found[0].description,
            provenance=found[0].provenance,
        )

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


def read_specification(file: Path) -> Specification:
    """One checked specification. Raises SpecificationInvalid naming the file and the field."""
    try:
        if file.stat().st_size > MAX_SPECIFICATION_BYTES:
            raise SpecificationInvalid(f"{file} is larger than {MAX_SPECIFICATION_BYTES} bytes")
        specification = Specification.model_validate(yaml.safe_load(file.read_text()))
    except ValidationError as error:
        raise SpecificationInvalid(f"{file}: {_explain(error)}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecificationInvalid(f"cannot read {file}: {error}") from error
    if specification.model != file.parent.name:
        raise SpecificationInvalid(
            f"{file}: model: {specification.model!r} must be the folder's name {file.parent.name!r}"
        )
    return specification


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


def _model_version(specification: Specification, version: Version) -> ModelVersion:
    return ModelVersion(
        model=ModelName(specification.model),
        version=VersionName(version.version),
        digest=Digest(version.sha256),
        inputs=_tensors(specification.inputs),
        outputs=_tensors(specification.outputs),
        batching=BatchLimits(
            max_batch_size=specification.batching.max_batch_size,
            latency_objective_ms=specification.batching.latency_objective_ms,
        ),
        finite_inputs=specification.finite_inputs,
    )


def _tensors(tensors: list[Tensor]) -> tuple[TensorSpecification, ...]:
    return tuple(
        TensorSpecification(tensor.name, tensor.datatype, tuple(tensor.shape), tensor.meaning)
        for tensor in tensors
    )


def _explain(error: ValidationError) -> str:
    lines = []
    for detail in error.errors(include_url=False):
        field = ".".join(str(part) for part in detail["loc"]) or "specification"
        value = (
            "" if isinstance(detail["input"], dict | list) else f" = {str(detail['input'])[:80]!r}"
        )
        lines.append(f"{field}{value}: {detail['msg']}")
    return "; ".join(lines)
