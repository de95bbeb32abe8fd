"""`serving model upload`: an artifact to the control port, with what its inspection found."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from serving.cli.advance import Advance
from serving.cli.groups import AtRegistry, grouped
from serving.cli.model import app
from serving.cli.registry import read_definition_file
from serving.client.uploads import upload_artifact
from serving.core.clock import SystemClock
from serving.core.principals import Role
from serving.errors import ParameterInvalid

REJECTED = 1


@app.command("upload")
@grouped
def upload(
    source: Annotated[
        Path, typer.Argument(help="An ONNX file, or a folder with one and its external weights.")
    ],
    *,
    model: Annotated[str, typer.Option(help="The model, registered already.")],
    version: Annotated[str, typer.Option(help="The name of the new version.")],
    definition: Annotated[
        Path | None,
        typer.Option(
            help="A model.yaml, or its inputs, outputs and others. Default: as the graph."
        ),
    ] = None,
    parity: Annotated[
        Path | None,
        typer.Option(help=".npz or .json with inputs and what the source model answers to them."),
    ] = None,
    description: Annotated[str, typer.Option(help="What is new about it.")] = "",
    parent: Annotated[str, typer.Option(help="The version that it was made from.")] = "",
    at: AtRegistry,
) -> None:
    """Upload an artifact, have it inspected, and register the version.

    Interrupted, the same command goes on where it was. The artifact is loaded, warmed up and tried in a
    process that is thrown away; the version is then `validated`, or `rejected` with the reason (exit
    status 1). Archives and pickles are not taken: the files of an artifact are sent one by one.

    \b
    Examples:
      serving model upload fraud.onnx --model fraud-cards --version 3
      serving model upload exported/ --model fraud-cards --version 4 --parity answers.npz
    """
    if parity is not None and not parity.is_file():
        raise ParameterInvalid(f"{parity} is no file")
    facts: dict[str, Any] = {"description": description, "lineage": {"parent": parent}}
    if definition is not None:
        facts["definition"] = read_definition_file(definition)
    with at.client(Role.DEVELOPER) as client:
        state = upload_artifact(
            client,
            source,
            model=model,
            version=version,
            facts=facts,
            parity=parity,
            progress=_shown(),
        )
    why = f": {state.reason} ({state.code})" if state.code else ""
    at.tell(state, lambda: f"{model}@{version} is {state.stage}{why}")
    if state.stage != "validated":
        raise typer.Exit(REJECTED)


def _shown() -> Callable[[str, int, int], None]:
    """Shows how far each file is."""
    advances: dict[str, Advance] = {}

    def show(path: str, received: int, size: int) -> None:
        known = advances.setdefault(path, Advance("bytes", SystemClock(), total=size))
        known.to(received)
        if received == size:
            known.end()

    return show
