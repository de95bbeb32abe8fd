"""`serving config`."""

import typer
import yaml

from serving.cli.groups import AtDirectory, grouped
from serving.cli.output import say

app = typer.Typer(help="Look at the settings.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _verbs() -> None:
    """Keeps `show` a verb of its own while it is the only one."""


@app.command("show")
@grouped
def show(*, at: AtDirectory) -> None:
    """Print the effective settings: defaults, then file, then environment, then flags.

    The output is a valid configuration file. It holds no secrets: those are files in the data
    directory.

    \b
    Examples:
      serving config show
      serving config show --config configs/benchmark.yaml --json
      SERVING_HTTP_PORT=9000 serving config show
    """
    settings = at.settings()
    if at.json:
        say(settings.model_dump_json())
    else:
        values = settings.model_dump(mode="json")
        say(yaml.safe_dump(values, sort_keys=False, allow_unicode=True).rstrip())
