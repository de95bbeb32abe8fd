"""`serving model …`: versions of models, from their registration to their retirement."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from serving.cli.groups import AtRegistry, grouped
from serving.cli.model import app
from serving.cli.output import instant, table
from serving.cli.registry import (
    Model,
    Reason,
    VersionName,
    keep_artifact,
    read_definition_file,
)
from serving.client import RegistryClient
from serving.core.principals import Role
from serving.errors import ParameterInvalid
from serving.registry.entities import Lineage, RegisteredVersion
from serving.registry.lifecycle import Step


@app.command("add")
@grouped
def add(  # noqa: PLR0913 -- one parameter for each option
    model: Model,
    version: Annotated[str, typer.Argument(help="The new version's name.")],
    *,
    file: Annotated[
        Path | None, typer.Option(help="The ONNX file; it is sealed in the artifact store.")
    ] = None,
    digest: Annotated[
        str, typer.Option(help="SHA-256 of an artifact that is in the store already.")
    ] = "",
    definition: Annotated[
        Path, typer.Option(help="A model.yaml, or its inputs, outputs, batching and recording.")
    ],
    description: Annotated[str, typer.Option(help="What is new about it.")] = "",
    parent: Annotated[str, typer.Option(help="The version that it was made from.")] = "",
    code_revision: Annotated[str, typer.Option(help="Of the code that trained it.")] = "",
    training_manifest: Annotated[
        str, typer.Option(help="SHA-256 of the list of its training data.")
    ] = "",
    at: AtRegistry,
) -> None:
    """Register a version. It never changes; what it needs before it may serve depends on the model.

    \b
    Examples:
      serving model add fraud-cards 3 --file fraud.onnx --definition model.yaml --parent 2
      serving model add page-reader 1 --definition stages.yaml      # an ensemble has no file
    """
    defined = read_definition_file(definition)
    if defined.get("stages"):
        _check_ensemble(file)
    elif (file is None) == (not digest):
        raise ParameterInvalid("give --file or --digest, and only one of the two")
    if file is not None and at.url is not None:
        raise ParameterInvalid("--file is sealed on this machine; with --url give --digest")
    if file is not None:
        digest = keep_artifact(at.config, at.data_dir, file)
    lineage = Lineage(
        parent=parent, code_revision=code_revision, training_manifest=training_manifest
    )
    with at.client(Role.DEVELOPER) as client:
        made = client.register_version(
            model,
            version,
            digest=digest,
            definition=defined,
            description=description,
            lineage=lineage,
        )
    _show(made, at=at)


@app.command("versions")
@grouped
def versions(
    model: Model,
    *,
    at: AtRegistry,
) -> None:
    """List the versions of a model with their states, authors and digests.

    \b
    Examples:
      serving model versions census-employment
    """
    with at.client(Role.AUDITOR) as client:
        found = client.versions(model)
    heads = ("VERSION", "STATE", "AUTHOR", "REGISTERED", "SUNSET", "SUCCESSOR", "DIGEST")
    at.tell(found, lambda: table(heads, [_row(each) for each in found]))


@app.command("alias")
@grouped
def alias(
    model: Model,
    name: Annotated[str, typer.Argument(help="The alias, such as champion.")],
    version: Annotated[str | None, typer.Argument(help="What it means from now on.")] = None,
    *,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the alias.")] = False,
    at: AtRegistry,
) -> None:
    """Give a version another name, move the name to another version, or remove it.

    An alias is for people and programs that ask the registry; it moves no traffic.

    \b
    Examples:
      serving model alias census-employment champion 1
      serving model alias census-employment champion --remove
    """
    if (version is None) != remove:
        raise ParameterInvalid("give a version, or --remove")
    with at.client(Role.OPERATOR) as client:
        if version is None:
            client.remove_alias(model, name)
            at.tell({"removed": name}, lambda: f"removed {name}")
        else:
            made = client.set_alias(model, name, version)
            at.tell(made, lambda: f"{made.alias} means {made.version}")


@app.command("deprecate")
@grouped
def deprecate(
    model: Model,
    version: VersionName,
    *,
    reason: Reason,
    sunset: Annotated[
        datetime | None, typer.Option(help="When it stops answering, UTC: 2027-03-31.")
    ] = None,
    successor: Annotated[
        str, typer.Option(help="What to use instead: a version, or MODEL@VERSION.")
    ] = "",
    at: AtRegistry,
) -> None:
    """Announce the end of a version. It goes on answering, with headers that say so.

    \b
    Examples:
      serving model deprecate census-employment 0 --reason "worse" --successor 1 --sunset 2027-03-31
    """
    sunset_ns = 0 if sunset is None else round(sunset.replace(tzinfo=UTC).timestamp()) * 10**9
    with at.client(Role.OPERATOR) as client:
        moved = client.change_state(
            model,
            version,
            Step.DEPRECATE,
            reason=reason,
            sunset_ns=sunset_ns,
            successor=successor,
        )
    _show(moved, at=at)


@app.command("reinstate")
@grouped
def reinstate(
    model: Model,
    version: VersionName,
    *,
    reason: Reason,
    at: AtRegistry,
) -> None:
    """Take a deprecation back.

    \b
    Examples:
      serving model reinstate census-employment 0 --reason "still needed in May"
    """
    with at.client(Role.OPERATOR) as client:
        _step(client, Step.REINSTATE, model, version, reason=reason, at=at)


@app.command("retire")
@grouped
def retire(
    model: Model,
    version: VersionName,
    *,
    reason: Reason,
    override: Annotated[
        bool, typer.Option("--override", help="Though it still gets traffic, which is taken away.")
    ] = False,
    at: AtRegistry,
) -> None:
    """End a deprecated or rejected version for good; its entry stays.

    \b
    Examples:
      serving model retire census-employment 0 --reason "sunset of March"
    """
    with at.client(Role.OPERATOR) as client:
        moved = client.change_state(model, version, Step.RETIRE, reason=reason, override=override)
    _show(moved, at=at)


@app.command("reject")
@grouped
def reject(
    model: Model,
    version: VersionName,
    *,
    reason: Reason,
    at: AtRegistry,
) -> None:
    """Say that a version must not serve; it never will.

    \b
    Examples:
      serving model reject fraud-cards 4 --reason "trained on the test set"
    """
    with at.client(Role.APPROVER) as client:
        _step(client, Step.REJECT, model, version, reason=reason, at=at)


def _step(
    client: RegistryClient, step: Step, model: str, version: str, *, reason: str, at: AtRegistry
) -> None:
    _show(client.change_state(model, version, step, reason=reason), at=at)


def _check_ensemble(file: Path | None) -> None:
    """Raises ParameterInvalid."""
    if file is not None:
        raise ParameterInvalid("an ensemble has stages and no file; leave --file out")


def _row(version: RegisteredVersion) -> tuple[str, ...]:
    return (
        version.version,
        version.state.value,
        version.author,
        instant(version.created_ns // 10**9),
        instant(version.sunset_ns // 10**9),
        version.successor or "-",
        version.digest[:12],
    )


def _show(version: RegisteredVersion, *, at: AtRegistry) -> None:
    at.tell(version, lambda: f"{version.key} is {version.state}")
