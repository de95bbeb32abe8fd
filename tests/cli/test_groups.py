"""Groups of options: what a verb takes as one value is typed as options of its own."""

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from serving.cli.groups import Answers, grouped

Depth = Annotated[int, typer.Option(help="How deep.")]


@dataclass(frozen=True, slots=True)
class Water:
    """A group with an option that has no default."""

    depth: Depth


@dataclass(frozen=True, slots=True)
class Place(Answers):
    """A group that adds to another one."""

    name: Annotated[str, typer.Option("--called", help="Its name.")] = "sea"


app = typer.Typer(rich_markup_mode=None)


@app.command()
@grouped
def dive(
    who: Annotated[str, typer.Argument()], *, water: Water, place: Place, times: int = 1
) -> None:
    """Dive.

    \b
    Examples:
      dive me
    """
    facts = {"who": who, "depth": water.depth, "name": place.name, "times": times}
    place.tell(facts, lambda: f"{who} dives")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("me --depth 3", "me dives"),
        ("--depth 3 --json me", '{"who":"me","depth":3,"name":"sea","times":1}'),
        (
            "me --depth 3 --called lake --times 2 --json",
            '{"who":"me","depth":3,"name":"lake","times":2}',
        ),
    ],
)
def test_fields_of_a_group_are_options(typed: str, said: str) -> None:
    """Those of the group it adds to, too; with their own names, types and defaults."""
    result = CliRunner().invoke(app, typed.split())

    assert (result.exit_code, result.stdout.strip()) == (0, said)


def test_a_field_without_a_default_must_be_given() -> None:
    """The complaint names the option."""
    result = CliRunner().invoke(app, ["me"])

    assert result.exit_code == 2
    assert "--depth" in result.output


def test_help_shows_the_options_of_a_group() -> None:
    """Each with what it says, and the verb's own text."""
    shown = CliRunner().invoke(app, ["--help"]).output

    assert all(words in shown for words in ("Dive.", "How deep.", "Its name.", "--json"))
