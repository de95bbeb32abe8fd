"""`serving approval`: who agrees that a version serves, or that it ends."""

from typing import Annotated, Literal
from urllib.parse import quote

import typer

from serving.cli.groups import AsSomebody, grouped
from serving.cli.orders import ControlClient
from serving.cli.output import instant, table
from serving.core.principals import Role
from serving.errors import ParameterInvalid
from serving.governance.desk import RequestList
from serving.governance.entities import (
    ApprovalRequest,
    Comment,
    CommentOrder,
    DecisionOrder,
    OverrideOrder,
    ReasonOrder,
    RequestOrder,
    RequestState,
    RequestView,
)
from serving.registry.entities import RegisteredVersion

app = typer.Typer(
    help=(
        "Approvals: ask for one, look at it, agree, reject, take it back.\n\nYou act as this "
        "machine's user unless SERVING_TOKEN holds a token of your own: nobody decides about what "
        "they registered or asked for themselves."
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
)

APPROVALS = "/v1/approvals"

Id = Annotated[str, typer.Argument(help="The request's identifier, as `list` shows it.")]
Reason = Annotated[str, typer.Option(help="Why; it is part of what is signed.")]
Target = Annotated[str, typer.Argument(help="The version, as MODEL@VERSION.")]


@app.command("request")
@grouped
def request(
    version: Target,
    *,
    reason: Reason,
    kind: Annotated[Literal["serve", "retire"], typer.Option(help="What is asked for.")] = "serve",
    by: AsSomebody,
) -> None:
    """Ask that a version may serve, or may be retired.

    How many people have to agree, of which roles and having seen which evidence, is decided by the
    model's tier of risk. The request is bound to the artifact that the version has now.

    \b
    Examples:
      serving approval request fraud@3 --reason "retrained on May, AUC 0.91"
      serving approval request fraud@1 --kind retire --reason "replaced by 3"
    """
    model, name = _parts(version)
    order = RequestOrder(kind=kind, model=model, version=name, reason=reason)
    client = by.client(Role.DEVELOPER)
    _tell(client.post(APPROVALS, order, ApprovalRequest), by=by)


@app.command("list")
@grouped
def list_requests(
    *,
    state: Annotated[RequestState | None, typer.Option(help="Only these. Default: all.")] = None,
    model: Annotated[str, typer.Option(help="Only of this model.")] = "",
    by: AsSomebody,
) -> None:
    """List requests, newest first.

    \b
    Examples:
      serving approval list --state open
      serving approval list --model fraud --json
    """
    query = {"model": model} | ({"state": state.value} if state else {})
    client = by.client(Role.APPROVER)
    found = client.get(APPROVALS, RequestList, **query).requests
    heads = ("REQUEST", "KIND", "VERSION", "TIER", "STATE", "BY", "UNTIL", "WHY")
    by.tell({"requests": found}, lambda: table(heads, [_row(each) for each in found]))


@app.command("show")
@grouped
def show(
    request: Id,
    *,
    by: AsSomebody,
) -> None:
    """Show a request: what it is about, who said what, whether their signatures hold, what is missing.

    \b
    Examples:
      serving approval show 3f9a0c2d71b45e60
    """
    client = by.client(Role.APPROVER)
    view = client.get(_path(request), RequestView)
    by.tell(view, lambda: _text(view))


@app.command("approve")
@grouped
def approve(
    request: Id,
    *,
    reason: Reason,
    by: AsSomebody,
) -> None:
    """Agree, as far as your word goes: signed, bound to the artifact's digest, for a limited time.

    \b
    Examples:
      SERVING_TOKEN=$(serving token --subject grace --role approver) \\
        serving approval approve 3f9a0c2d71b45e60 --reason "reports read"
    """
    client = by.client(Role.APPROVER)
    _tell(_decide(client, request, "approve", reason), by=by)


@app.command("reject")
@grouped
def reject(
    request: Id,
    *,
    reason: Reason,
    by: AsSomebody,
) -> None:
    """Say no; the request is closed by it, whoever agreed before.

    \b
    Examples:
      serving approval reject 3f9a0c2d71b45e60 --reason "no bias report for slice age < 25"
    """
    client = by.client(Role.APPROVER)
    _tell(_decide(client, request, "reject", reason), by=by)


@app.command("withdraw")
@grouped
def withdraw(
    request: Id,
    *,
    reason: Reason,
    approval: Annotated[
        bool, typer.Option("--approval", help="Take back your approval instead of your request.")
    ] = False,
    by: AsSomebody,
) -> None:
    """Withdraw the request that you opened, or with --approval the approval that you gave.

    A version that has no longer enough approvals loses its traffic at once.

    \b
    Examples:
      serving approval withdraw 3f9a0c2d71b45e60 --reason "wrong training data"
      serving approval withdraw 3f9a0c2d71b45e60 --approval --reason "the report was wrong"
    """
    role = Role.APPROVER if approval else Role.DEVELOPER
    client = by.client(role)
    path = f"{_path(request)}/{'retraction' if approval else 'withdrawal'}"
    _tell(client.post(path, ReasonOrder(reason=reason), ApprovalRequest), by=by)


@app.command("comment")
@grouped
def comment(
    request: Id,
    text: Annotated[str, typer.Argument(help="What to say.")],
    *,
    by: AsSomebody,
) -> None:
    """Say something about a request; everybody who may see it reads it.

    \b
    Examples:
      serving approval comment 3f9a0c2d71b45e60 "which threshold is that?"
    """
    client = by.client(Role.APPROVER)
    said = client.post(f"{_path(request)}/comments", CommentOrder(text=text), Comment)
    by.tell(said, lambda: f"{said.author}: {said.text}")


@app.command("override")
@grouped
def override(
    version: Target,
    *,
    reason: Reason,
    by: AsSomebody,
) -> None:
    """Let a version serve for some hours although approvals are missing: for emergencies.

    Takes an override role of the policies, leaves a signed statement and an event that nobody
    overlooks, and ends by itself.

    \b
    Examples:
      serving approval override fraud@2 --reason "3 answers garbage, incident 4711"
    """
    model, name = _parts(version)
    client = by.client(Role.OPERATOR)
    path = f"/v1/models/{quote(model, safe='')}/versions/{quote(name, safe='')}"
    digest = client.get(path, RegisteredVersion).digest
    order = OverrideOrder(model=model, version=name, digest=digest, reason=reason)
    _tell(client.post("/v1/overrides", order, ApprovalRequest), by=by)


# -- inside ------------------------------------------------------------------------------------------


def _decide(
    client: ControlClient, request: str, decision: Literal["approve", "reject"], reason: str
) -> ApprovalRequest:
    digest = client.get(_path(request), RequestView).request.digest
    order = DecisionOrder(decision=decision, digest=digest, reason=reason)
    return client.post(f"{_path(request)}/decisions", order, ApprovalRequest)


def _path(request: str) -> str:
    return f"{APPROVALS}/{quote(request, safe='')}"


def _parts(version: str) -> tuple[str, str]:
    model, separator, name = version.partition("@")
    if not (model and separator and name):
        raise ParameterInvalid(f"{version[:80]!r} must be MODEL@VERSION")
    return model, name


def _tell(request: ApprovalRequest, *, by: AsSomebody) -> None:
    version = f"{request.model}@{request.version}"
    by.tell(request, lambda: f"{request.id} {request.kind} {version}: {request.state}")


def _row(request: ApprovalRequest) -> tuple[str, ...]:
    return (
        request.id,
        request.kind,
        f"{request.model}@{request.version}",
        request.tier,
        request.state,
        request.requester,
        instant(request.expires_ns // 1_000_000_000),
        request.reason,
    )


def _text(view: RequestView) -> str:
    found = view.request
    lines = [
        f"{found.kind} {found.model}@{found.version} ({found.digest}), tier {found.tier}",
        f"{found.state}; asked for by {found.requester}: {found.reason}",
    ]
    for each in view.decisions:
        at = instant(each.at_ns // 1_000_000_000)
        word = f"{at} {each.approver} {each.kind} {each.decision}: {each.reason}"
        lines.append(word if each.valid else f"DOES NOT COUNT, {each.why}")
    lines += [
        f"{instant(said.at_ns // 1_000_000_000)} {said.author}: {said.text}"
        for said in view.comments
    ]
    missing = "; ".join(view.standing.missing) or "nothing"
    return "\n".join([*lines, f"missing: {missing}"])
