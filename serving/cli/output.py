"""The one place that writes to the terminal. Facts go to standard output, complaints do not."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
import typer


def say(text: str) -> None:
    """One line (or several) of facts, flushed: somebody may be reading through a pipe."""
    typer.echo(text)
    sys.stdout.flush()


def say_json(value: object) -> None:
    """One JSON value on one line."""
    say(msgspec.json.encode(value).decode())


def complain(text: str) -> None:
    """One line for the operator, on standard error."""
    typer.echo(text, err=True)


def instant(wall_s: int) -> str:
    """A wall time in seconds as UTC, `-` for 0."""
    if not wall_s:
        return "-"
    return datetime.fromtimestamp(wall_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Columns as wide as their widest cell, separated by two spaces."""
    lines = [heads, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
