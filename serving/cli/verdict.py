"""`serving verdict`: what comparisons came to, signed; verified without asking anybody."""

from pathlib import Path
from typing import Annotated, Final
from urllib.parse import quote

import msgspec
import typer

from serving.app.comparing_once import Comparer
from serving.app.directory import DataDirectory
from serving.cli.advance import Advance
from serving.cli.audit import read_keys
from serving.cli.compare import (
    Candidate,
    DataFile,
    Label,
    Primary,
    ReplayFile,
    Until,
    describe,
    order_of,
)
from serving.cli.options import Config, DataDir, Json, effective
from serving.cli.orders import ControlClient
from serving.cli.output import complain, instant, say, say_json, table
from serving.core.clock import SystemClock
from serving.core.principals import Role
from serving.errors import NotFound, SignatureInvalid
from serving.governance.comparisons import ComparisonList, ComparisonReport
from serving.governance.desk import VerdictList
from serving.governance.verdictbook import IssuedVerdict, VerdictOrder
from serving.governance.verdicts import Verdict, read_verdict
from serving.ledger.pairs import FROM_LEDGER
from serving.ledger.recounting import Compared, Recount, recount
from serving.trust.installation import read_trusted
from serving.trust.signatures import Envelope

app = typer.Typer(
    help="Verdicts on candidates: live comparisons, issue, show, verify offline.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

WRONG: Final = 1
NS_PER_S: Final = 1_000_000_000

Model = Annotated[str, typer.Argument(help="Whose versions.")]
Token = Annotated[
    str, typer.Option(envvar="SERVING_TOKEN", help="Your own token or API key.", show_default=False)
]


@app.command("live")
def live(
    model: Model,
    *,
    token: Token = "",
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Show how the candidates of a model compare now, as the monitor reports it.

    \b
    Examples:
      serving verdict live census-employment
    """
    client = ControlClient(config, data_dir, role=Role.OPERATOR, token=token)
    found = client.get(f"/v1/models/{quote(model, safe='')}/comparisons", ComparisonList)
    if json:
        say_json(found)
    elif not found.comparisons:
        say(f"no candidate of {model} is being compared")
    else:
        say("\n\n".join(describe(each) for each in found.comparisons))


@app.command("issue")
def issue(  # noqa: PLR0913 -- one parameter for each option
    model: Model,
    *,
    candidate: Candidate,
    reason: Annotated[str, typer.Option(help="Why; part of what is signed.")] = "",
    primary: Primary = "",
    since: Annotated[
        str, typer.Option(help="Of recorded pairs from when on, instead of the live comparison.")
    ] = "",
    until: Until = None,
    replay: ReplayFile = None,
    data: DataFile = None,
    label: Label = "label",
    token: Token = "",
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Have a verdict drawn and signed: on the live comparison, or on one that is made now.

    Whatever it says (promote, hold or reject) is kept as evidence of the candidate. With --since,
    --replay or --data the comparison is made here, as `serving compare` does; nobody hands one in
    about a version that they registered.

    \b
    Examples:
      serving verdict issue census-employment --candidate 2 --reason "a week of shadow"
      serving verdict issue census-employment --candidate 2 --data holdout.npz
    """
    comparison: ComparisonReport | None = None
    if since or replay is not None or data is not None:
        settings = effective(config, data_dir)
        order = order_of(
            settings, model, candidate=candidate, primary=primary, since=since or "1d",
            until=until, replay=replay, data=data, label=label,
        )  # fmt: skip
        advance = Advance("records", SystemClock())
        try:
            comparison = Comparer(settings, SystemClock(), advanced=advance.to).run(order)
        finally:
            advance.end()
    wanted = VerdictOrder(candidate=candidate, comparison=comparison, reason=reason)
    client = ControlClient(config, data_dir, role=Role.APPROVER, token=token)
    _tell(client.post(_verdicts(model), wanted, IssuedVerdict), as_json=json)


@app.command("list")
def list_verdicts(
    model: Model,
    *,
    candidate: Annotated[str, typer.Option(help="Only on this version.")] = "",
    token: Token = "",
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """List the verdicts of a model whose signatures hold, newest first.

    \b
    Examples:
      serving verdict list census-employment
    """
    client = ControlClient(config, data_dir, role=Role.OPERATOR, token=token)
    query = {"version": candidate} if candidate else {}
    found = client.get(_verdicts(model), VerdictList, **query).verdicts
    if json:
        say_json({"verdicts": [each.verdict for each in found]})
        return
    heads = ("VERDICT", "SAYS", "CANDIDATE", "AGAINST", "FROM", "PAIRS", "ISSUED", "UNTIL", "BY")
    say(table(heads, [_row(each.verdict) for each in found]))


@app.command("show")
def show(
    model: Model,
    verdict: Annotated[str, typer.Argument(help="Its identifier, as `list` shows it.")],
    *,
    output: Annotated[
        Path | None, typer.Option(help="Write the signed envelope to this file.")
    ] = None,
    token: Token = "",
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Show a verdict with every figure; --output writes the file that can be verified anywhere.

    \b
    Examples:
      serving verdict show census-employment 3f9a0c2d71b45e60
      serving verdict show census-employment 3f9a0c2d71b45e60 --output verdict.json
    """
    client = ControlClient(config, data_dir, role=Role.OPERATOR, token=token)
    found = client.get(f"{_verdicts(model)}/{quote(verdict, safe='')}", IssuedVerdict)
    if output is not None:
        output.write_bytes(found.envelope.encode())
    _tell(found, as_json=json)


@app.command("verify")
def verify(
    file: Annotated[Path, typer.Argument(help="A verdict, as `show --output` wrote it.")],
    *,
    trusted: Annotated[
        Path | None,
        typer.Option(help="File of trusted keys. Default: that of the data directory."),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(help="Folder of prediction logs: its pairs are counted once more."),
    ] = None,
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Verify a verdict without a running product: its signature, that it holds together, its pairs.

    With --log the pairs that a live comparison or one of a window states are looked for in the
    prediction log: as many, and the very same. The exit status is 1 when something does not hold.

    \b
    Examples:
      serving verdict verify verdict.json
      serving verdict verify verdict.json --trusted trusted-keys.json --log /srv/a/log
    """
    keys_dir = DataDirectory.at(effective(config, data_dir).data_dir).keys
    keys = read_trusted(keys_dir) if trusted is None else read_keys(trusted)
    try:
        envelope = Envelope.decode(file.read_bytes())
    except OSError as error:
        raise NotFound(f"cannot read {file}: {error.strerror}") from error
    try:
        verdict = read_verdict(envelope, keys)
    except SignatureInvalid as error:
        complain(f"serving: {file} does not hold: {error.message}")
        raise typer.Exit(WRONG) from error
    counted = [] if log is None else _recounted(verdict, log)
    findings = [each.finding for each in counted if each.finding]
    _print(verdict, counted, findings, as_json=json)
    if findings:
        raise typer.Exit(WRONG)


# -- inside ------------------------------------------------------------------------------------------


def _recounted(verdict: Verdict, log: Path) -> list[Recount]:
    if verdict.comparison.source not in FROM_LEDGER:
        return []
    compared = Compared(
        model=verdict.model,
        primary=verdict.primary,
        primary_digest=verdict.primary_digest,
        candidate=verdict.candidate,
        candidate_digest=verdict.candidate_digest,
    )
    return recount(log, verdict.comparison.windows, compared)


def _print(verdict: Verdict, counted: list[Recount], findings: list[str], *, as_json: bool) -> None:
    expired = verdict.expires_ns <= SystemClock.wall_ns()
    if as_json:
        told = {"verdict": verdict, "expired": expired, "recounted": counted, "findings": findings}
        say_json(told)
        return
    say(_headline(verdict) + (", RUN OUT" if expired else ""))
    for each in counted:
        say(each.finding or f"log {each.log_id}: {each.found} pairs found, {each.of} stated")
    if verdict.comparison.data_digest:
        say(f"made of a file with SHA-256 {verdict.comparison.data_digest}")
    say("DOES NOT HOLD" if findings else "holds")


def _verdicts(model: str) -> str:
    return f"/v1/models/{quote(model, safe='')}/verdicts"


def _tell(found: IssuedVerdict, *, as_json: bool) -> None:
    if as_json:
        say_json(msgspec.to_builtins(found.verdict))
        return
    say(_headline(found.verdict))
    say("")
    say(describe(found.verdict.comparison))


def _headline(verdict: Verdict) -> str:
    return (
        f"verdict {verdict.id}: {verdict.outcome} {verdict.model}@{verdict.candidate} "
        f"({verdict.candidate_digest[:12]}) against {verdict.primary} "
        f"({verdict.primary_digest[:12]}), issued {instant(verdict.issued_ns // NS_PER_S)} by "
        f"{verdict.issuer}, counts until {instant(verdict.expires_ns // NS_PER_S)}"
    )


def _row(verdict: Verdict) -> tuple[str, ...]:
    return (
        verdict.id,
        verdict.outcome,
        verdict.candidate,
        verdict.primary,
        verdict.comparison.source,
        str(verdict.comparison.counts.pairs),
        instant(verdict.issued_ns // NS_PER_S),
        instant(verdict.expires_ns // NS_PER_S),
        verdict.issuer,
    )
