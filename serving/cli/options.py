"""Options that several verbs share, and the settings they lead to."""

from pathlib import Path
from typing import Annotated, Any

import typer

from serving import settings
from serving.app.directory import DataDirectory
from serving.errors import NotReady
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


def running(directory: DataDirectory) -> Settings:
    """The settings of what runs on a data directory. Raises NotReady."""
    if not directory.settings_file.exists():
        raise NotReady(f"nothing runs on {directory.root}; start it with `serving up`")
    return Settings.model_validate_json(directory.settings_file.read_bytes())
