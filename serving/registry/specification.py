"""`model.yaml`: what a model is, said by its owner and checked before anything is loaded.

Every field is checked, no unknown one is taken, and a mistake is named with its file and field. What
a version takes and answers is in `registry.definition`, what people say of it in `registry.entities`.
"""

from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import msgspec
import yaml
from pydantic import Field, StringConstraints, ValidationError, model_validator

from serving.core.models import ModelVersion
from serving.errors import SpecificationInvalid
from serving.registry.definition import (
    Definition,
    Name,
    Part,
    Text,
    check_distinct,
    define,
    explain,
)
from serving.registry.entities import Dataset, Lineage, Metric, ModelFacts, RiskTier

FILE_NAME: Final = "model.yaml"
MAX_SPECIFICATION_BYTES: Final = 256 * 1024


class Version(Part):
    """One immutable version. file: relative to the model's folder. The rest is its lineage."""

    version: Name
    file: Text
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    description: Text
    provenance: Text
    training_manifest: str = ""
    code_revision: str = ""
    parameters: Annotated[dict[str, Any], Field(default_factory=dict)]
    metrics: Annotated[list[dict[str, Any]], Field(default_factory=list)]
    parent: str = ""

    @model_validator(mode="after")
    def _measured(self) -> Self:
        lineage_of(self)
        return self


class Specification(Definition):
    """One `model.yaml`. obtain: the command that puts missing artifacts in place, if there is one."""

    model: Name
    owner: Text
    description: Text
    task: Text
    licence: Text
    source: Text
    team: str = ""
    purpose: str = ""
    risk_tier: Literal["demo", "minimal", "limited", "high"] = "demo"
    contacts: Annotated[list[Text], Field(default_factory=list)]
    tags: Annotated[dict[str, str], Field(default_factory=dict)]
    data_sets: Annotated[list[dict[str, str]], Field(default_factory=list)]
    intended_uses: Annotated[list[Text], Field(default_factory=list)]
    prohibited_uses: Annotated[list[Text], Field(default_factory=list)]
    limitations: Annotated[list[Text], Field(default_factory=list)]
    ethical_considerations: Annotated[list[Text], Field(default_factory=list)]
    obtain: Text | None = None
    versions: Annotated[list[Version], Field(min_length=1)]

    @model_validator(mode="after")
    def _versions_differ(self) -> Self:
        check_distinct("versions", [version.version for version in self.versions])
        return self

    @model_validator(mode="after")
    def _describes_its_data(self) -> Self:
        facts_of(self)
        return self


def read_specification(file: Path) -> Specification:
    """One checked specification. Raises SpecificationInvalid naming the file and the field."""
    try:
        if file.stat().st_size > MAX_SPECIFICATION_BYTES:
            raise SpecificationInvalid(f"{file} is larger than {MAX_SPECIFICATION_BYTES} bytes")
        specification = Specification.model_validate(yaml.safe_load(file.read_text()))
    except ValidationError as error:
        raise SpecificationInvalid(f"{file}: {explain(error)}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecificationInvalid(f"cannot read {file}: {error}") from error
    if specification.model != file.parent.name:
        raise SpecificationInvalid(
            f"{file}: model: {specification.model!r} must be the folder's name {file.parent.name!r}"
        )
    return specification


def model_version(specification: Specification, version: Version) -> ModelVersion:
    """The version as the data plane knows it."""
    return define(
        specification,
        model=specification.model,
        version=version.version,
        digest=version.sha256,
    )


def facts_of(specification: Specification) -> ModelFacts:
    """What its owner says of the model. Raises ValueError."""
    said = specification
    return ModelFacts(
        owner=said.owner,
        team=said.team,
        purpose=said.purpose,
        description=said.description,
        task=said.task,
        licence=said.licence,
        source=said.source,
        risk_tier=RiskTier(said.risk_tier),
        contacts=tuple(said.contacts),
        tags=said.tags,
        data_sets=msgspec.convert(said.data_sets, tuple[Dataset, ...]),
        intended_uses=tuple(said.intended_uses),
        prohibited_uses=tuple(said.prohibited_uses),
        limitations=tuple(said.limitations),
        ethical_considerations=tuple(said.ethical_considerations),
    )


def lineage_of(version: Version) -> Lineage:
    """Where the version comes from. Raises ValueError."""
    return Lineage(
        training_manifest=version.training_manifest,
        code_revision=version.code_revision,
        parameters=version.parameters,
        metrics=msgspec.convert(version.metrics, tuple[Metric, ...]),
        parent=version.parent,
        provenance=version.provenance,
    )
