"""The verbs of `serving` and where they live; a module is imported when its verb is asked for.

Some verbs bring a database, a column store or an engine with them, which takes seconds to import.
Help, completion of a name and the small verbs must not wait for those of the others.
"""

from importlib import import_module
from typing import Any, Final, NamedTuple

import typer
from typer.core import TyperGroup


class Verb(NamedTuple):
    """One verb. modules: the first one has it, the others add to it when they are imported.
    function: when it is a single command; else it is the module's `app`."""

    name: str
    help: str
    modules: tuple[str, ...]
    function: str = ""


VERBS: Final = (
    Verb("up", "Start everything on this machine.", ("instance",), "up"),
    Verb("apply", "Make what serves what a file says.", ("apply",), "apply"),
    Verb("status", "Show what runs.", ("status",), "status"),
    Verb("usage", "Sum up what callers used.", ("usage",), "print_usage"),
    Verb("replay", "Run recorded predictions by another version.", ("replay",), "run"),
    Verb("compare", "Compare a candidate with what answers.", ("compare",), "run"),
    Verb("verdict", "What comparisons came to, signed.", ("verdict",)),
    Verb("token", "Print a token, or revoke tokens.", ("credentials",)),
    Verb("key", "API keys for machines.", ("key",)),
    Verb("access", "Grants, denials, and why somebody may.", ("access",)),
    Verb(
        "model",
        "Models and versions: the registry.",
        ("model", "version", "importing", "consumers", "upload"),
    ),
    Verb("traffic", "Which version answers.", ("traffic",)),
    Verb("rollout", "Let a candidate take over step by step.", ("rollout",)),
    Verb(
        "experiment",
        "A/B tests, and challengers over months.",
        ("experiment", "readout", "challenger"),
    ),
    Verb("approval", "Approve what is to serve or to retire.", ("approval",)),
    Verb("audit", "The audit trail: read, verify, export.", ("audit",)),
    Verb("webhook", "Who is told of requests and decisions.", ("webhook",)),
    Verb("tls", "Certificates of a local authority, for trying TLS.", ("tls",)),
    Verb("trust", "Whose signatures count.", ("trust",)),
    Verb("artifact", "Sealed artifacts: keys and bundles.", ("artifact",)),
    Verb("log", "The prediction log: query, verify, export.", ("log", "reconcile")),
    Verb("outcomes", "Hand in what turned out to be true.", ("outcomes",)),
    Verb("privacy", "Data subjects: erasure, access, holds.", ("privacy",)),
    Verb("config", "Show the effective settings.", ("config",)),
)


class Verbs(TyperGroup):
    """The table above as a group of commands."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return [verb.name for verb in VERBS]

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        verb = next((each for each in VERBS if each.name == cmd_name), None)
        return _load(verb) if verb is not None else None

    def format_commands(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        with formatter.section("Commands"):
            formatter.write_dl([(verb.name, verb.help) for verb in VERBS])


def _load(verb: Verb) -> Any:
    modules = [import_module(f"serving.cli.{module}") for module in verb.modules]
    parent = typer.Typer(add_completion=False, rich_markup_mode=None)
    parent.callback()(_nothing)
    if verb.function:
        parent.command(verb.name)(getattr(modules[0], verb.function))
    else:
        parent.add_typer(modules[0].app, name=verb.name)
    group: Any = typer.main.get_command(parent)
    return group.commands[verb.name]


def _nothing() -> None:
    """Makes a group of what has one command only."""
