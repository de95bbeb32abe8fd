"""`serving model import`: models from a folder of model folders, or from an MLflow registry."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from serving.cli.groups import AtDirectory, grouped
from serving.cli.model import app
from serving.cli.output import complain
from serving.cli.registry import keep_artifact, read_definition_file, registry
from serving.client import RegistryClient
from serving.client.mlflow import MlflowModel, MlflowRegistry, MlflowVersion
from serving.core.models import ModelVersion
from serving.core.principals import Role
from serving.errors import (
    ArtifactInvalid,
    DigestChanged,
    ModelNotFound,
    NotFound,
    ParameterInvalid,
)
from serving.registry.entities import Lineage, ModelFacts
from serving.registry.folder import load_catalogue

NETWORK: Final = "model.onnx"


class Imported(msgspec.Struct, frozen=True):
    """registered: versions that are new. known: those that were there, with the same digest.
    aliases: that they had where they come from."""

    model: str
    registered: tuple[str, ...]
    known: tuple[str, ...]
    aliases: dict[str, str] = {}


class _Version(msgspec.Struct, frozen=True):
    """One version on its way. file: the network, None for an ensemble."""

    name: str
    file: Path | None
    definition: dict[str, Any]
    description: str
    lineage: Lineage


@dataclass(frozen=True, slots=True)
class Source:
    """Where models come from: a folder, or an MLflow server."""

    folder: Annotated[
        Path | None, typer.Option(help="A folder of model folders, each with its model.yaml.")
    ] = None
    mlflow: Annotated[
        str | None, typer.Option(help="URL of an MLflow server; a token in MLFLOW_TRACKING_TOKEN.")
    ] = None
    mlflow_token: Annotated[str, typer.Option(envvar="MLFLOW_TRACKING_TOKEN", hidden=True)] = ""
    called: Annotated[
        str, typer.Option("--as", help="The name here, where MLflow's does not fit or is taken.")
    ] = ""
    owner: Annotated[str, typer.Option(help="Who answers for it; from MLflow only.")] = ""
    definition: Annotated[
        Path | None,
        typer.Option(help="What it takes and answers, where MLflow has no tensor signature."),
    ] = None

    def bring(self, names: Sequence[str], importer: "_Importer") -> list[Imported]:
        """Those of these names; of a folder all where none is named. Raises ParameterInvalid."""
        if self.folder is not None:
            found = names or _all_of(self.folder)
            return [_from_folder(importer, self.folder, name) for name in found]
        if self.mlflow is None or not names:
            raise ParameterInvalid("name the models to import from MLflow")
        given = None if self.definition is None else read_definition_file(self.definition)
        with MlflowRegistry(self.mlflow, token=self.mlflow_token) as server:
            bringing = _MlflowImport(importer, server, owner=self.owner, definition=given)
            return [bringing.model(name, self.called or name) for name in names]


@app.command("import")
@grouped
def import_models(
    names: Annotated[
        list[str] | None, typer.Argument(help="Which models; with --folder all when none is named.")
    ] = None,
    *,
    source: Source,
    at: AtDirectory,
) -> None:
    """Register models, their versions and artifacts from elsewhere. Repeating it adds what is new.

    Nothing that is imported serves: it is approved here, as every version is.

    \b
    Examples:
      serving model import --folder models
      serving model import --mlflow http://mlflow.example.org:5000 fraud --owner ada
    """
    if (source.folder is None) == (source.mlflow is None):
        raise ParameterInvalid("give --folder or --mlflow, and only one of the two")
    with registry(at.config, at.data_dir, role=Role.DEVELOPER) as client:
        done = source.bring(names or (), _Importer(client, at))
    with registry(at.config, at.data_dir, role=Role.OPERATOR) as client:
        for each in done:
            _point(client, each)
    at.tell(done, lambda: "\n".join(map(_line, done)) or "nothing to import")


def _line(done: Imported) -> str:
    return f"{done.model}: {len(done.registered)} registered, {len(done.known)} known"


class _Importer:
    """Brings one version after the other into the registry of the instance that runs here."""

    def __init__(self, client: RegistryClient, at: AtDirectory) -> None:
        self.client = client
        self._at = at

    def model(self, name: str, facts: ModelFacts) -> None:
        """Registers the model unless it is there."""
        try:
            self.client.model(name)
        except ModelNotFound:
            self.client.register_model(name, facts)

    def version(self, model: str, version: _Version) -> bool:
        """Whether it is new. Raises DigestChanged."""
        digest = ""
        if version.file is not None:
            digest = keep_artifact(self._at.config, self._at.data_dir, version.file)
        try:
            known = self.client.version(model, version.name)
        except NotFound:
            self.client.register_version(
                model,
                version.name,
                digest=digest,
                definition=version.definition,
                description=version.description,
                lineage=version.lineage,
            )
            return True
        if digest and known.digest != digest:
            raise DigestChanged(f"{known.key} is there with another artifact; nothing was changed")
        return False


def _all_of(folder: Path) -> list[str]:
    """Ensembles last: what they are made of must be there."""
    catalogue = load_catalogue(folder)
    return sorted(catalogue.models(), key=catalogue.is_ensemble)


def _from_folder(importer: _Importer, folder: Path, model: str) -> Imported:
    catalogue = load_catalogue(folder)
    specification = folder / model / "model.yaml"
    new: list[str] = []
    known: list[str] = []
    for name in catalogue.versions(model):
        entry = catalogue.entry(model, name)
        importer.model(model, entry.facts)
        version = _Version(
            name,
            None if entry.version.stages else entry.artifact,
            read_definition_file(specification) | _stages(entry.version),
            entry.version_description,
            entry.lineage,
        )
        (new if importer.version(model, version) else known).append(name)
    return Imported(model, tuple(new), tuple(known))


def _stages(version: ModelVersion) -> dict[str, Any]:
    """Those of an ensemble, as a definition has them."""
    stages = [
        {
            "name": stage.name,
            "model": stage.model,
            "version": stage.version,
            "inputs": dict(stage.inputs),
            "outputs": dict(stage.outputs),
        }
        for stage in version.stages
    ]
    return {"stages": stages} if stages else {}


class _MlflowImport:
    """Models of one MLflow registry. definition: for versions without a tensor signature."""

    def __init__(
        self,
        importer: _Importer,
        source: MlflowRegistry,
        *,
        owner: str,
        definition: dict[str, Any] | None,
    ) -> None:
        self._importer = importer
        self._source = source
        self._owner = owner
        self._definition = definition

    def model(self, name: str, target: str) -> Imported:
        """Its versions that can be served, oldest first; the others are named and left out."""
        found = self._source.model(name)
        self._importer.model(target, _facts(found, self._owner))
        new: list[str] = []
        known: list[str] = []
        for version in sorted(self._source.versions(name), key=lambda each: int(each.version)):
            try:
                is_new = self._bring(version, target)
            except ArtifactInvalid as error:
                complain(f"left out {name} {version.version}: {error.message}")
            else:
                (new if is_new else known).append(version.version)
        aliases = {each.alias: each.version for each in found.aliases}
        return Imported(target, tuple(new), tuple(known), aliases)

    def _bring(self, version: MlflowVersion, target: str) -> bool:
        described = self._source.described(version)
        definition = self._definition or described.definition
        if definition is None:
            raise ArtifactInvalid("it has no tensor signature; say what it takes with --definition")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / NETWORK
            self._source.download(version, described.file, file)
            brought = _Version(
                name=version.version,
                file=file,
                definition=definition,
                description=version.description,
                lineage=self._source.lineage(version),
            )
            return self._importer.version(target, brought)


def _point(client: RegistryClient, imported: Imported) -> None:
    """Gives versions the aliases that they had, but for those that mean something here already."""
    taken = {each.alias for each in client.aliases(imported.model)} if imported.aliases else set()
    for alias, version in imported.aliases.items():
        if alias not in taken and version in {*imported.registered, *imported.known}:
            client.set_alias(imported.model, alias, version)


def _facts(model: MlflowModel, owner: str) -> ModelFacts:
    tags = {tag.key: tag.value for tag in model.tags}
    return ModelFacts(
        owner=owner or tags.get("owner", "unknown"), description=model.description, tags=tags
    )
