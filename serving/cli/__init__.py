"""The command `serving`: every verb parses, calls and prints, and decides nothing.

A refusal is one line on standard error and exit status 2, never a traceback.
"""

import sys

import typer

from serving.cli import access, config, credentials, instance, key, log, status, tls, usage
from serving.cli.output import complain
from serving.errors import ServingError

REFUSED = 2

app = typer.Typer(
    name="serving",
    help=(
        "Serve ONNX models: authenticated, batched, every prediction recorded before it is "
        "answered.\n\nStart with `serving up`; it prints what to paste next."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("up", short_help="Start everything on this machine.")(instance.up)
app.command("status", short_help="Show what runs.")(status.status)
app.command("usage", short_help="Sum up what callers used.")(usage.print_usage)
app.add_typer(credentials.app, name="token", short_help="Print a token, or revoke tokens.")
app.add_typer(key.app, name="key")
app.add_typer(access.app, name="access")
app.add_typer(tls.app, name="tls")
app.add_typer(log.app, name="log")
app.add_typer(config.app, name="config")


def main() -> None:
    """The entry point of `serving` and of `python -m serving`."""
    try:
        app()
    except ServingError as error:
        complain(f"serving: {error.message}")
        sys.exit(REFUSED)
