"""The command `serving`: every verb parses, calls and prints, and decides nothing.

A refusal is one line on standard error and exit status 2, never a traceback.
"""

import sys

import typer

from serving.cli.output import complain
from serving.cli.verbs import Verbs
from serving.errors import ServingError

REFUSED = 2

app = typer.Typer(
    name="serving",
    cls=Verbs,
    help=(
        "Serve ONNX models: authenticated, batched, every prediction recorded before it is "
        "answered.\n\nStart with `serving up`; it prints what to paste next."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def serving() -> None:
    """Makes a group of it; the verbs are in `serving.cli.verbs`."""


def main() -> None:
    """The entry point of `serving` and of `python -m serving`."""
    try:
        app()
    except ServingError as error:
        complain(f"serving: {error.message}")
        sys.exit(REFUSED)
