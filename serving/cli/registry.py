"""How the verbs of `serving model` reach the registry and the artifact store of an instance."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec
import typer
import yaml

from serving.access.operators import operator_token
from serving.access.ownports import trust_in, url_of
from serving.app.directory import DataDirectory
from serving.artifacts.locations import open_artifacts
from serving.cli.options import effective, running
from serving.client import RegistryClient
from serving.core.clock import SystemClock
from serving.core.principals import Role
from serving.errors import ParameterInvalid
from serving.registry.definition import Definition
from serving.settings import Settings

PIECE_BYTES: Final = 1024 * 1024
TOKEN_VARIABLE: Final = "SERVING_TOKEN"  # noqa: S105 - the name of a variable

Model = Annotated[str, typer.Argument(help="The model's name.")]
VersionName = Annotated[str, typer.Argument(help="The version's name, or an alias.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the audit trail.")]
Url = Annotated[
    str | None,
    typer.Option(
        "--url", help="The control port of another machine; the token is taken from SERVING_TOKEN."
    ),
]

Kind = TypeVar("Kind")


def registry(
    config: Path | None, data_dir: Path | None, url: str | None = None, *, role: Role
) -> RegistryClient:
    """The registry of the instance on a data directory, asked in a role; or that at a URL.

    Raises NotReady when nothing runs, ParameterInvalid without a token.
    """
    if url is not None:
        token = os.environ.get(TOKEN_VARIABLE, "")
        if not token:
            raise ParameterInvalid(f"--url needs a token or API key in {TOKEN_VARIABLE}")
        return RegistryClient(url, token=token)
    directory, settings = _instance(config, data_dir)
    return RegistryClient(
        url_of(settings.control),
        token=lambda: operator_token(directory.keys, SystemClock(), role=role),
        verify=trust_in(settings.control),
    )


def keep_artifact(config: Path | None, data_dir: Path | None, file: Path) -> str:
    """Seals a file in the artifact store of the instance that runs here. Returns its SHA-256.

    Raises NotReady, ParameterInvalid.
    """
    directory, settings = _instance(config, data_dir)
    store = open_artifacts(
        settings, folder=directory.artifacts, keys_dir=directory.keys, clock=SystemClock()
    )
    try:
        digest = hashlib.sha256()
        for piece in _pieces(file):
            digest.update(piece)
        if not store.holds(digest.hexdigest()):
            store.put(_pieces(file), expected=digest.hexdigest())
    except OSError as error:
        raise ParameterInvalid(f"{file} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def read_definition_file(file: Path) -> dict[str, Any]:
    """What a version takes and answers, from a `model.yaml` or a file of these parts of one.

    Raises ParameterInvalid.
    """
    found = read_yaml(file, dict[str, Any])
    return {name: value for name, value in found.items() if name in Definition.model_fields}


def read_yaml(file: Path, kind: type[Kind]) -> Kind:
    """Raises ParameterInvalid."""
    try:
        return msgspec.convert(yaml.safe_load(file.read_text()), kind)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise ParameterInvalid(f"{file} cannot be used: {error}") from error


def _instance(config: Path | None, data_dir: Path | None) -> tuple[DataDirectory, Settings]:
    directory = DataDirectory.at(effective(config, data_dir).data_dir)
    return directory, running(directory)


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as content:
        while piece := content.read(PIECE_BYTES):
            yield piece
