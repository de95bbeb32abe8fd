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
    MAX_STAGES,
    Definition,
    Name,
    Part,
    Staged,
    Text,
    check_distinct,
    define,
    explain,
)
from serving.registry.ensembles import declared
from serving.registry.entities import Dataset, Lineage, Metric, ModelFacts, RiskTier

FILE_NAME: Final = "model.yaml"
MAX_SPECIFICATION_BYTES: Final = 256 * 1024


class Version(Part):
    """One immutable version. file: relative to the model's folder. The rest is its lineage.

    An ensemble has no file: its `stages` are those of the model unless the version has its own, and
    its digest follows from them (a `sha256` pins it).
    """

    version: Name
    file: str = ""
    sha256: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""
    stages: Annotated[list[Staged], Field(default_factory=list, max_length=MAX_STAGES)]
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
    comparison: Annotated[dict[str, Any], Field(default_factory=dict)]
    obtain: Text | None = None
    versions: Annotated[list[Version], Field(min_length=1)]

    @model_validator(mode="after")
    def _versions_differ(self) -> Self:
        check_distinct("versions", [version.version for version in self.versions])
        return self

    @model_validator(mode="after")
    def _each_is_something(self) -> Self:
        for each in self.versions:
            is_ensemble = bool(each.stages or self.stages)
            if is_ensemble and each.file:
                raise ValueError(f"versions.{each.version}: an ensemble has stages and no file")
            if not is_ensemble and not (each.file and each.sha256):
                raise ValueError(f"versions.{each.version}: give a file and its sha256, or stages")
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
    """The version as the data plane knows it; of an ensemble, with digests still to be found."""
    definition = definition_of(specification, version)
    return define(
        definition,
        model=specification.model,
        version=version.version,
        digest=version.sha256,
        stages=declared(definition),
    )


def definition_of(specification: Specification, version: Version) -> Definition:
    """What the version takes and answers, and its stages, if it has any."""
    if not version.stages:
        return specification
    return specification.model_copy(update={"stages": version.stages})


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
        comparison=said.comparison,
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
