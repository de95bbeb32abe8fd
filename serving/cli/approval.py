"""`serving approval`: who agrees that a version serves, or that it ends."""

from typing import Annotated, Literal
from urllib.parse import quote

import typer

from serving.cli.options import Config, DataDir, Json
from serving.cli.orders import ControlClient
from serving.cli.output import instant, say, say_json, table
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
Token = Annotated[
    str, typer.Option(envvar="SERVING_TOKEN", help="Your own token or API key.", show_default=False)
]


@app.command("request")
def request(
    version: Target,
    *,
    reason: Reason,
    kind: Annotated[Literal["serve", "retire"], typer.Option(help="What is asked for.")] = "serve",
    token: Token = "",
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
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
    client = ControlClient(config, data_dir, role=Role.DEVELOPER, token=token)
    _tell(client.post(APPROVALS, order, ApprovalRequest), as_json=json)


@app.command("list")
def list_requests(
    *,
    state: Annotated[RequestState | None, typer.Option(help="Only these. Default: all.")] = None,
    model: Annotated[str, typer.Option(help="Only of this model.")] = "",
    token: Token = "",
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """List requests, newest first.

    \b
    Examples:
      serving approval list --state open
      serving approval list --model fraud --json
    """
    query = {"model": model} | ({"state": state.value} if state else {})
    client = ControlClient(config, data_dir, role=Role.APPROVER, token=token)
    found = client.get(APPROVALS, RequestList, **query).requests
    if json:
        say_json({"requests": found})
        return
    heads = ("REQUEST", "KIND", "VERSION", "TIER", "STATE", "BY", "UNTIL", "WHY")
    say(table(heads, [_row(each) for each in found]))


@app.command("show")
def show(
    request: Id,
    *,
    token: Token = "",
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Show a request: what it is about, who said what, whether their signatures hold, what is missing.

    \b
    Examples:
      serving approval show 3f9a0c2d71b45e60
    """
    client = ControlClient(config, data_dir, role=Role.APPROVER, token=token)
    view = client.get(_path(request), RequestView)
    if json:
        say_json(view)
    else:
        _show(view)


@app.command("approve")
def approve(
    request: Id,
    *,
    reason: Reason,
    token: Token = "",
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Agree, as far as your word goes: signed, bound to the artifact's digest, for a limited time.

    \b
    Examples:
      SERVING_TOKEN=$(serving token --subject grace --role approver) \\
        serving approval approve 3f9a0c2d71b45e60 --reason "reports read"
    """
    client = ControlClient(config, data_dir, role=Role.APPROVER, token=token)
    _tell(_decide(client, request, "approve", reason), as_json=json)


@app.command("reject")
def reject(
    request: Id,
    *,
    reason: Reason,
    token: Token = "",
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Say no; the request is closed by it, whoever agreed before.

    \b
    Examples:
      serving approval reject 3f9a0c2d71b45e60 --reason "no bias report for slice age < 25"
    """
    client = ControlClient(config, data_dir, role=Role.APPROVER, token=token)
    _tell(_decide(client, request, "reject", reason), as_json=json)


@app.command("withdraw")
def withdraw(
    request: Id,
    *,
    reason: Reason,
    approval: Annotated[
        bool, typer.Option("--approval", help="Take back your approval instead of your request.")
    ] = False,
    token: Token = "",
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Withdraw the request that you opened, or with --approval the approval that you gave.

    A version that has no longer enough approvals loses its traffic at once.

    \b
    Examples:
      serving approval withdraw 3f9a0c2d71b45e60 --reason "wrong training data"
      serving approval withdraw 3f9a0c2d71b45e60 --approval --reason "the report was wrong"
    """
    role = Role.APPROVER if approval else Role.DEVELOPER
    client = ControlClient(config, data_dir, role=role, token=token)
    path = f"{_path(request)}/{'retraction' if approval else 'withdrawal'}"
    _tell(client.post(path, ReasonOrder(reason=reason), ApprovalRequest), as_json=json)


@app.command("comment")
def comment(
    request: Id,
    text: Annotated[str, typer.Argument(help="What to say.")],
    *,
    token: Token = "",
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Say something about a request; everybody who may see it reads it.

    \b
    Examples:
      serving approval comment 3f9a0c2d71b45e60 "which threshold is that?"
    """
    client = ControlClient(config, data_dir, role=Role.APPROVER, token=token)
    said = client.post(f"{_path(request)}/comments", CommentOrder(text=text), Comment)
    if json:
        say_json(said)
    else:
        say(f"{said.author}: {said.text}")


@app.command("override")
def override(
    version: Target,
    *,
    reason: Reason,
    token: Token = "",
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Let a version serve for some hours although approvals are missing: for emergencies.

    Takes an override role of the policies, leaves a signed statement and an event that nobody
    overlooks, and ends by itself.

    \b
    Examples:
      serving approval override fraud@2 --reason "3 answers garbage, incident 4711"
    """
    model, name = _parts(version)
    client = ControlClient(config, data_dir, role=Role.OPERATOR, token=token)
    path = f"/v1/models/{quote(model, safe='')}/versions/{quote(name, safe='')}"
    digest = client.get(path, RegisteredVersion).digest
    order = OverrideOrder(model=model, version=name, digest=digest, reason=reason)
    _tell(client.post("/v1/overrides", order, ApprovalRequest), as_json=json)


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


def _tell(request: ApprovalRequest, *, as_json: bool) -> None:
    if as_json:
        say_json(request)
    else:
        say(f"{request.id} {request.kind} {request.model}@{request.version}: {request.state}")


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


def _show(view: RequestView) -> None:
    found = view.request
    say(f"{found.kind} {found.model}@{found.version} ({found.digest}), tier {found.tier}")
    say(f"{found.state}; asked for by {found.requester}: {found.reason}")
    for each in view.decisions:
        at = instant(each.at_ns // 1_000_000_000)
        word = f"{at} {each.approver} {each.kind} {each.decision}: {each.reason}"
        say(word if each.valid else f"DOES NOT COUNT, {each.why}")
    for said in view.comments:
        say(f"{instant(said.at_ns // 1_000_000_000)} {said.author}: {said.text}")
    missing = "; ".join(view.standing.missing) or "nothing"
    say(f"missing: {missing}")
