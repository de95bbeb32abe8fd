"""`serving access`: who may do what, and why."""

from typing import Annotated
from urllib.parse import quote

import msgspec
import typer

from serving.access.orders import Explanation, RevocationOrder, RuleOrder
from serving.access.patterns import ANY
from serving.access.state import Effect, Revocation, RevocationKind, Rule
from serving.cli.options import Config, DataDir, Json
from serving.cli.orders import ControlClient
from serving.cli.output import instant, say, say_json, table
from serving.core.principals import Action, Role

app = typer.Typer(
    help="Who may do what, and why: grants, denials, disabled principals.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Subject = Annotated[str, typer.Option(help="Whom: a subject, or a pattern such as ci-*.")]
SubjectTenant = Annotated[str, typer.Option(help="Only members of this tenant.")]
Model = Annotated[str, typer.Option(help="On which models, such as fraud-*.")]
Comment = Annotated[str, typer.Option(help="Why; kept with it.")]


class _Rules(msgspec.Struct, frozen=True):
    rules: tuple[Rule, ...]


class _Revocations(msgspec.Struct, frozen=True):
    revocations: tuple[Revocation, ...]


@app.command("explain")
def explain(  # noqa: PLR0913 -- one parameter for each option
    *,
    action: Annotated[Action, typer.Option(help="What is to be done.")],
    subject: Annotated[str, typer.Option(help="By whom.")] = "",
    model: Annotated[str | None, typer.Option(help="With which model.")] = None,
    role: Annotated[
        list[Role] | None, typer.Option(help="A role that the credential has; may be repeated.")
    ] = None,
    tenant: Annotated[str, typer.Option(help="The tenant that the credential names.")] = "",
    key: Annotated[str, typer.Option(help="An API key to ask for instead of a subject.")] = "",
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Say whether somebody may do something now, and what decides it.

    Roles that a token brings along are not known here: name them with --role. The exit status is 0
    whatever the answer is.

    \b
    Examples:
      serving access explain --subject alice --action infer --model fraud-cards
      serving access explain --subject alice --role caller --action read_status
      serving access explain --key 3f9a0c2d71b4 --action infer --model fraud-cards --json
    """
    query = {"action": action.value, "subject": subject, "tenant": tenant}
    query |= {"roles": ",".join(role or ()), "key": key}
    query |= {} if model is None else {"model": model}
    client = ControlClient(config, data_dir)
    found = client.get("/v1/access/explain", Explanation, **query)
    if json:
        say_json(found)
        return
    verdict = "allowed" if found.allowed else "refused"
    say(f"{verdict}: {found.reason} ({found.ground}, rules of epoch {found.epoch})")


@app.command("grant")
def grant(  # noqa: PLR0913 -- one parameter for each option
    *,
    subject: Subject,
    role: Annotated[Role, typer.Option(help="The role that it gives.")],
    model: Model = ANY,
    subject_tenant: SubjectTenant = ANY,
    model_tenant: Annotated[
        str | None,
        typer.Option(help="Models of this tenant, * for all. Default: the subject's own."),
    ] = None,
    comment: Comment = "",
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Give somebody a role on some models; in force everywhere within a second.

    A grant never holds for the one who made it.

    \b
    Examples:
      serving access grant --subject alice --role caller --model 'fraud-*'
      serving access grant --subject 'ops-*' --role operator --model-tenant '*'
    """
    order = RuleOrder(
        effect=Effect.ALLOW,
        subject=subject,
        subject_tenant=subject_tenant,
        model=model,
        model_tenant=model_tenant,
        role=role,
        comment=comment,
    )
    _make(order, ControlClient(config, data_dir), as_json=json)


@app.command("deny")
def deny(  # noqa: PLR0913 -- one parameter for each option
    *,
    subject: Subject,
    action: Annotated[
        Action | None, typer.Option(help="What is forbidden. Default: everything.")
    ] = None,
    model: Model = ANY,
    subject_tenant: SubjectTenant = ANY,
    model_tenant: Annotated[
        str | None, typer.Option(help="Only models of this tenant. Default: all.")
    ] = None,
    comment: Comment = "",
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Forbid something, whatever roles and grants permit; in force everywhere within a second.

    \b
    Examples:
      serving access deny --subject 'intern-*' --model 'fraud-*'
      serving access deny --subject bob --action infer --comment "left the team"
    """
    order = RuleOrder(
        effect=Effect.DENY,
        subject=subject,
        subject_tenant=subject_tenant,
        model=model,
        model_tenant=model_tenant,
        action=action,
        comment=comment,
    )
    _make(order, ControlClient(config, data_dir), as_json=json)


@app.command("revoke")
def revoke(
    rule: Annotated[str, typer.Argument(help="The rule's identifier, as `list` shows it.")],
    *,
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Take back a grant or a denial.

    \b
    Examples:
      serving access revoke 5d2c90aa1f07
    """
    ControlClient(config, data_dir).delete(f"/v1/access/rules/{quote(rule, safe='')}")
    _tell("removed", rule, as_json=json)


@app.command("disable")
def disable(
    subject: Annotated[str, typer.Argument(help="Who may do nothing from now on.")],
    *,
    comment: Comment = "",
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Turn somebody away altogether: their tokens, their API keys, and the keys that they own.

    \b
    Examples:
      serving access disable bob --comment "left the company"
    """
    order = RevocationOrder(kind=RevocationKind.SUBJECT, value=subject, comment=comment)
    ControlClient(config, data_dir).post("/v1/access/revocations", order, Revocation)
    _tell("disabled", subject, as_json=json)


@app.command("enable")
def enable(
    subject: Annotated[str, typer.Argument(help="Who was disabled.")],
    *,
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Let somebody in again who was disabled.

    \b
    Examples:
      serving access enable bob
    """
    path = f"/v1/access/revocations/subject/{quote(subject, safe='')}"
    ControlClient(config, data_dir).delete(path)
    _tell("enabled", subject, as_json=json)


@app.command("list")
def list_rules(*, json: Json = False, config: Config = None, data_dir: DataDir = None) -> None:
    """List grants, denials and revocations with who made each, and why.

    \b
    Examples:
      serving access list
      serving access list --json
    """
    client = ControlClient(config, data_dir)
    rules = client.get("/v1/access/rules", _Rules).rules
    revocations = client.get("/v1/access/revocations", _Revocations).revocations
    if json:
        say_json({"rules": rules, "revocations": revocations})
        return
    heads = ("RULE", "EFFECT", "SUBJECT", "MODELS", "WHAT", "BY", "SINCE", "WHY")
    say(table(heads, [_rule_row(rule) for rule in rules]))
    say("")
    columns = ("REVOKED", "VALUE", "ISSUED UNTIL", "BY", "SINCE", "WHY")
    say(table(columns, [_revocation_row(each) for each in revocations]))


def _make(order: RuleOrder, client: ControlClient, *, as_json: bool) -> None:
    rule = client.post("/v1/access/rules", order, Rule)
    if as_json:
        say_json(rule)
    else:
        say(rule.rule)


def _tell(what: str, value: str, *, as_json: bool) -> None:
    if as_json:
        say_json({what: value})
    else:
        say(f"{what} {value}")


def _rule_row(rule: Rule) -> tuple[str, ...]:
    who = rule.subject if rule.subject_tenant == ANY else f"{rule.subject} of {rule.subject_tenant}"
    models = rule.model if rule.model_tenant is None else f"{rule.model} of {rule.model_tenant}"
    what = rule.role or rule.action or "everything"
    made = instant(rule.made_s)
    return (rule.rule, rule.effect, who, models, what, rule.made_by, made, rule.comment)


def _revocation_row(each: Revocation) -> tuple[str, ...]:
    since = instant(each.since_s)
    return (each.kind, each.value, since, each.made_by, instant(each.made_s), each.comment)
