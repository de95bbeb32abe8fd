"""`serving access`: who may do what, and why."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from serving.access.orders import Explanation, RevocationOrder, RuleOrder
from serving.access.patterns import ANY
from serving.access.state import Effect, Revocation, RevocationKind, Rule
from serving.cli.groups import AtControl, grouped
from serving.cli.output import instant, table
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


@dataclass(frozen=True, slots=True)
class RuleOptions:
    """What a grant and a denial have in common."""

    subject: Subject
    model: Model = ANY
    subject_tenant: SubjectTenant = ANY
    comment: Comment = ""

    def make(self, at: AtControl, effect: Effect, **what: Any) -> None:
        """what: the role or action, and the tenant of the models."""
        order = RuleOrder(effect=effect, **asdict(self), **what)
        rule = at.client().post("/v1/access/rules", order, Rule)
        at.tell(rule, lambda: rule.rule)


class _Rules(msgspec.Struct, frozen=True):
    rules: tuple[Rule, ...]


class _Revocations(msgspec.Struct, frozen=True):
    revocations: tuple[Revocation, ...]


@app.command("explain")
@grouped
def explain(
    *,
    action: Annotated[Action, typer.Option(help="What is to be done.")],
    subject: Annotated[str, typer.Option(help="By whom.")] = "",
    model: Annotated[str | None, typer.Option(help="With which model.")] = None,
    role: Annotated[
        list[Role] | None, typer.Option(help="A role that the credential has; may be repeated.")
    ] = None,
    tenant: Annotated[str, typer.Option(help="The tenant that the credential names.")] = "",
    key: Annotated[str, typer.Option(help="An API key to ask for instead of a subject.")] = "",
    at: AtControl,
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
    client = at.client()
    found = client.get("/v1/access/explain", Explanation, **query)
    verdict = "allowed" if found.allowed else "refused"
    why = f"{found.reason} ({found.ground}, rules of epoch {found.epoch})"
    at.tell(found, lambda: f"{verdict}: {why}")


@app.command("grant")
@grouped
def grant(
    *,
    rule: RuleOptions,
    role: Annotated[Role, typer.Option(help="The role that it gives.")],
    model_tenant: Annotated[
        str | None,
        typer.Option(help="Models of this tenant, * for all. Default: the subject's own."),
    ] = None,
    at: AtControl,
) -> None:
    """Give somebody a role on some models; in force everywhere within a second.

    A grant never holds for the one who made it.

    \b
    Examples:
      serving access grant --subject alice --role caller --model 'fraud-*'
      serving access grant --subject 'ops-*' --role operator --model-tenant '*'
    """
    rule.make(at, Effect.ALLOW, role=role, model_tenant=model_tenant)


@app.command("deny")
@grouped
def deny(
    *,
    rule: RuleOptions,
    action: Annotated[
        Action | None, typer.Option(help="What is forbidden. Default: everything.")
    ] = None,
    model_tenant: Annotated[
        str | None, typer.Option(help="Only models of this tenant. Default: all.")
    ] = None,
    at: AtControl,
) -> None:
    """Forbid something, whatever roles and grants permit; in force everywhere within a second.

    \b
    Examples:
      serving access deny --subject 'intern-*' --model 'fraud-*'
      serving access deny --subject bob --action infer --comment "left the team"
    """
    rule.make(at, Effect.DENY, action=action, model_tenant=model_tenant)


@app.command("revoke")
@grouped
def revoke(
    rule: Annotated[str, typer.Argument(help="The rule's identifier, as `list` shows it.")],
    *,
    at: AtControl,
) -> None:
    """Take back a grant or a denial.

    \b
    Examples:
      serving access revoke 5d2c90aa1f07
    """
    at.client().delete(f"/v1/access/rules/{quote(rule, safe='')}")
    at.tell({"removed": rule}, lambda: f"removed {rule}")


@app.command("disable")
@grouped
def disable(
    subject: Annotated[str, typer.Argument(help="Who may do nothing from now on.")],
    *,
    comment: Comment = "",
    at: AtControl,
) -> None:
    """Turn somebody away altogether: their tokens, their API keys, and the keys that they own.

    \b
    Examples:
      serving access disable bob --comment "left the company"
    """
    order = RevocationOrder(kind=RevocationKind.SUBJECT, value=subject, comment=comment)
    at.client().post("/v1/access/revocations", order, Revocation)
    at.tell({"disabled": subject}, lambda: f"disabled {subject}")


@app.command("enable")
@grouped
def enable(
    subject: Annotated[str, typer.Argument(help="Who was disabled.")],
    *,
    at: AtControl,
) -> None:
    """Let somebody in again who was disabled.

    \b
    Examples:
      serving access enable bob
    """
    path = f"/v1/access/revocations/subject/{quote(subject, safe='')}"
    at.client().delete(path)
    at.tell({"enabled": subject}, lambda: f"enabled {subject}")


@app.command("list")
@grouped
def list_rules(*, at: AtControl) -> None:
    """List grants, denials and revocations with who made each, and why.

    \b
    Examples:
      serving access list
      serving access list --json
    """
    client = at.client()
    rules = client.get("/v1/access/rules", _Rules).rules
    revocations = client.get("/v1/access/revocations", _Revocations).revocations
    heads = ("RULE", "EFFECT", "SUBJECT", "MODELS", "WHAT", "BY", "SINCE", "WHY")
    columns = ("REVOKED", "VALUE", "ISSUED UNTIL", "BY", "SINCE", "WHY")
    tables = (
        table(heads, [_rule_row(rule) for rule in rules]),
        table(columns, [_revocation_row(each) for each in revocations]),
    )
    at.tell({"rules": rules, "revocations": revocations}, lambda: "\n\n".join(tables))


def _rule_row(rule: Rule) -> tuple[str, ...]:
    who = rule.subject if rule.subject_tenant == ANY else f"{rule.subject} of {rule.subject_tenant}"
    models = rule.model if rule.model_tenant is None else f"{rule.model} of {rule.model_tenant}"
    what = rule.role or rule.action or "everything"
    made = instant(rule.made_s)
    return (rule.rule, rule.effect, who, models, what, rule.made_by, made, rule.comment)


def _revocation_row(each: Revocation) -> tuple[str, ...]:
    since = instant(each.since_s)
    return (each.kind, each.value, since, each.made_by, instant(each.made_s), each.comment)
