"""What tests of verbs call: a verb of `serving model` as somebody types it."""

from collections.abc import Callable

from typer.testing import Result

Run = Callable[..., Result]
