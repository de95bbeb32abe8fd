"""`serving model`: the registry's models, their history, and the evidence made from them."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from serving.cli.groups import AtRegistry, grouped
from serving.cli.output import instant, say, say_json, table
from serving.cli.registry import Model, VersionName, read_yaml
from serving.core.principals import Role
from serving.registry.entities import ModelFacts, RegisteredModel, RiskTier
from serving.registry.lifecycle import State

app = typer.Typer(
    help="The registry: models and their versions, who answers for them, and what became of them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Facts = Annotated[
    Path | None,
    typer.Option(help="A YAML file of facts: owner, purpose, data_sets, intended_uses and others."),
]


@app.command("register")
@grouped
def register(  # noqa: PLR0913 -- one parameter for each option
    model: Model,
    *,
    owner: Annotated[str, typer.Option(help="Who answers for it.")] = "",
    team: Annotated[str, typer.Option(help="Their team.")] = "",
    purpose: Annotated[str, typer.Option(help="What it is for.")] = "",
    risk_tier: Annotated[
        RiskTier | None, typer.Option(help="What it takes to approve its versions.")
    ] = None,
    contact: Annotated[list[str] | None, typer.Option(help="Whom to ask; may be repeated.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; may be repeated.")] = None,
    facts: Facts = None,
    at: AtRegistry,
) -> None:
    """Register a model, or change what is said of one that is there. Options win over the file.

    \b
    Examples:
      serving model register fraud-cards --owner ada --team risk --purpose "Finds card fraud."
      serving model register fraud-cards --facts fraud.yaml --risk-tier limited --tag area=cards
    """
    said: dict[str, Any] = {} if facts is None else read_yaml(facts, dict[str, Any])
    options: dict[str, Any] = {
        "owner": owner,
        "team": team,
        "purpose": purpose,
        "risk_tier": risk_tier,
    }
    options |= {"contacts": contact, "tags": _tags(tag)}
    with at.client(Role.DEVELOPER) as client:
        found = [each for each in client.search(text=model) if each.name == model]
        known = msgspec.to_builtins(found[0].facts) if found else {}
        wanted = known | said | {name: value for name, value in options.items() if value}
        decided = _facts(wanted)
        if found:
            made = client.change_model(model, decided, if_revision=found[0].revision)
        else:
            made = client.register_model(model, decided)
    at.tell(made, lambda: _text(made))


@app.command("list")
@grouped
def list_models(*, at: AtRegistry) -> None:
    """List all models that you may see.

    \b
    Examples:
      serving model list
    """
    _find(at, text="")


@app.command("search")
@grouped
def search(
    text: Annotated[str, typer.Argument(help="Words that must all occur.")] = "",
    *,
    owner: Annotated[str, typer.Option(help="Who answers for it.")] = "",
    team: Annotated[str, typer.Option(help="Their team.")] = "",
    risk_tier: Annotated[RiskTier | None, typer.Option(help="Only of this tier.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="NAME or NAME=VALUE; may be repeated.")
    ] = None,
    state: Annotated[State | None, typer.Option(help="With a version in this state.")] = None,
    at: AtRegistry,
) -> None:
    """Find models by words in their names, purposes and tags, and by facts.

    \b
    Examples:
      serving model search "card fraud" --tag area=cards
      serving model search --state deprecated --json
    """
    _find(
        at,
        text=text,
        owner=owner,
        team=team,
        risk_tier=risk_tier or "",
        tags=tag or (),
        state=state or "",
    )


@app.command("show")
@grouped
def show(
    model: Model,
    *,
    at: AtRegistry,
) -> None:
    """Show all that is known of a model: its facts, versions and aliases.

    \b
    Examples:
      serving model show census-employment
    """
    with at.client(Role.AUDITOR) as client:
        found, versions = client.model(model), client.versions(model)
        aliases = client.aliases(model)
    facts = {"model": found, "versions": versions, "aliases": aliases}
    rows = [
        (each.version, each.state.value, each.author, instant(each.created_ns // 10**9))
        for each in versions
    ]
    heads = ("VERSION", "STATE", "AUTHOR", "REGISTERED")
    meanings = [f"{alias.alias} means {alias.version}" for alias in aliases]
    at.tell(facts, lambda: "\n".join([_text(found), "", table(heads, rows), *meanings]))


@app.command("history")
@grouped
def history(
    model: Model,
    *,
    at: AtRegistry,
) -> None:
    """Show everything that became of a model and its versions, oldest first.

    \b
    Examples:
      serving model history census-employment
    """
    with at.client(Role.AUDITOR) as client:
        found = list(client.history(model))
    rows = [
        (instant(each.at_ns // 10**9), each.name, each.object, each.actor, each.reason)
        for each in found
    ]
    at.tell(found, lambda: table(("WHEN", "WHAT", "OF", "BY", "WHY"), rows))


@app.command("card")
@grouped
def card(
    model: Model,
    version: VersionName,
    *,
    at: AtRegistry,
) -> None:
    """Print the model card of a version, made from the registry and nothing else.

    What nobody recorded is listed at its end.

    \b
    Examples:
      serving model card census-employment 1 > card.md
      serving model card census-employment 1 --json
    """
    with at.client(Role.AUDITOR) as client:
        if at.json:
            say_json(client.card(model, version))
        else:
            say(client.card_markdown(model, version).rstrip())


@app.command("bom")
@grouped
def bill_of_materials(
    model: Model,
    version: VersionName,
    *,
    at: AtRegistry,
) -> None:
    """Print the machine-learning bill of materials of a version: CycloneDX 1.6, always JSON.

    \b
    Examples:
      serving model bom census-employment 1 > bom.json
    """
    with at.client(Role.AUDITOR) as client:
        say_json(client.bill_of_materials(model, version))


def _find(at: AtRegistry, **wanted: Any) -> None:
    with at.client(Role.AUDITOR) as client:
        found = list(client.search(**wanted))
    heads = ("MODEL", "OWNER", "TEAM", "RISK", "TENANT", "PURPOSE")
    at.tell(found, lambda: table(heads, [_row(model) for model in found]))


def _facts(values: dict[str, Any]) -> ModelFacts:
    try:
        return msgspec.convert(values, ModelFacts)
    except msgspec.ValidationError as error:
        raise typer.BadParameter(f"the facts are not complete or not known: {error}") from error


def _tags(given: list[str] | None) -> dict[str, str]:
    pairs = [each.partition("=") for each in given or ()]
    return {name: value for name, _, value in pairs}


def _row(model: RegisteredModel) -> tuple[str, ...]:
    facts = model.facts
    purpose = facts.purpose or facts.description
    return (model.name, facts.owner, facts.team, facts.risk_tier, model.tenant or "-", purpose[:60])


def _text(model: RegisteredModel) -> str:
    lines = [f"{model.name}  (revision {model.revision})"]
    for name, value in msgspec.to_builtins(model.facts).items():
        if value:
            lines.append(f"  {name.replace('_', ' ')}: {_said(value)}")
    return "\n".join(lines)


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={each}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(_said(each) for each in value)
    return str(value)
