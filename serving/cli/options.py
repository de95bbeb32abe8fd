"""Options that several verbs share, and the settings they lead to."""

from pathlib import Path
from typing import Annotated, Any

import typer

from serving import settings
from serving.settings import Settings

Config = Annotated[
    Path | None,
    typer.Option("--config", help="A YAML file of settings; see configs/ for commented examples."),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Where keys, logs and sockets live. Default: .serving in the working directory.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON for programs instead of text.")]


def effective(config: Path | None, data_dir: Path | None, **flags: Any) -> Settings:
    """The settings after file, environment and flags. flags: `http_port=…` means `http.port`."""
    dotted = {name.replace("__", "."): value for name, value in flags.items()}
    return settings.load(config=config, flags={"data_dir": data_dir, **dotted})
