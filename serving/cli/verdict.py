"""`serving verdict`: what comparisons came to, signed; verified without asking anybody."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import quote

import typer

from serving.app.comparing_once import Comparer
from serving.cli.advance import Advance
from serving.cli.audit import read_keys
from serving.cli.compare import Comparison, describe
from serving.cli.groups import AsSomebody, AtDirectory, grouped
from serving.cli.output import complain, instant, table
from serving.core.clock import SystemClock
from serving.core.principals import Role
from serving.errors import NotFound, SignatureInvalid
from serving.governance.comparisons import ComparisonList, ComparisonReport
from serving.governance.desk import VerdictList
from serving.governance.verdictbook import IssuedVerdict, VerdictOrder
from serving.governance.verdicts import Verdict, read_verdict
from serving.ledger.pairs import FROM_LEDGER
from serving.ledger.recounting import Compared, Recount, recount
from serving.settings import Settings
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


@dataclass(frozen=True, slots=True)
class Asked(Comparison):
    """The same; where nothing is named to compare, the live comparison counts."""

    since: Annotated[
        str, typer.Option(help="Of recorded pairs from when on, instead of the live comparison.")
    ] = ""

    @property
    def is_live(self) -> bool:
        return not self.since and self.replay is None and self.data is None

    def report(self, settings: Settings, model: str) -> ComparisonReport:
        """A comparison that is made here and now."""
        clock = SystemClock()
        order = replace(self, since=self.since or "1d").order(settings, model)
        with Advance("records", clock) as advance:
            return Comparer(settings, clock, advanced=advance.to).run(order)


@app.command("live")
@grouped
def live(
    model: Model,
    *,
    by: AsSomebody,
) -> None:
    """Show how the candidates of a model compare now, as the monitor reports it.

    \b
    Examples:
      serving verdict live census-employment
    """
    client = by.client(Role.OPERATOR)
    found = client.get(f"/v1/models/{quote(model, safe='')}/comparisons", ComparisonList)
    by.tell(found, lambda: _compared(found) or f"no candidate of {model} is being compared")


@app.command("issue")
@grouped
def issue(
    model: Model,
    *,
    asked: Asked,
    reason: Annotated[str, typer.Option(help="Why; part of what is signed.")] = "",
    by: AsSomebody,
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
    comparison = None if asked.is_live else asked.report(by.settings(), model)
    wanted = VerdictOrder(candidate=asked.candidate, comparison=comparison, reason=reason)
    _tell(by.client(Role.APPROVER).post(_verdicts(model), wanted, IssuedVerdict), by=by)


@app.command("list")
@grouped
def list_verdicts(
    model: Model,
    *,
    candidate: Annotated[str, typer.Option(help="Only on this version.")] = "",
    by: AsSomebody,
) -> None:
    """List the verdicts of a model whose signatures hold, newest first.

    \b
    Examples:
      serving verdict list census-employment
    """
    query = {"version": candidate} if candidate else {}
    answer = by.client(Role.OPERATOR).get(_verdicts(model), VerdictList, **query)
    found = [each.verdict for each in answer.verdicts]
    heads = ("VERDICT", "SAYS", "CANDIDATE", "AGAINST", "FROM", "PAIRS", "ISSUED", "UNTIL", "BY")
    by.tell({"verdicts": found}, lambda: table(heads, [_row(each) for each in found]))


@app.command("show")
@grouped
def show(
    model: Model,
    verdict: Annotated[str, typer.Argument(help="Its identifier, as `list` shows it.")],
    *,
    output: Annotated[
        Path | None, typer.Option(help="Write the signed envelope to this file.")
    ] = None,
    by: AsSomebody,
) -> None:
    """Show a verdict with every figure; --output writes the file that can be verified anywhere.

    \b
    Examples:
      serving verdict show census-employment 3f9a0c2d71b45e60
      serving verdict show census-employment 3f9a0c2d71b45e60 --output verdict.json
    """
    path = f"{_verdicts(model)}/{quote(verdict, safe='')}"
    found = by.client(Role.OPERATOR).get(path, IssuedVerdict)
    if output is not None:
        output.write_bytes(found.envelope.encode())
    _tell(found, by=by)


@app.command("verify")
@grouped
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
    at: AtDirectory,
) -> None:
    """Verify a verdict without a running product: its signature, that it holds together, its pairs.

    With --log the pairs that a live comparison or one of a window states are looked for in the
    prediction log: as many, and the very same. The exit status is 1 when something does not hold.

    \b
    Examples:
      serving verdict verify verdict.json
      serving verdict verify verdict.json --trusted trusted-keys.json --log /srv/a/log
    """
    keys = read_trusted(at.directory().keys) if trusted is None else read_keys(trusted)
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
    expired = verdict.expires_ns <= SystemClock.wall_ns()
    facts = {"verdict": verdict, "expired": expired, "recounted": counted, "findings": findings}
    at.tell(facts, lambda: _found(verdict, counted, expired=expired))
    if findings:
        raise typer.Exit(WRONG)


# -- inside ------------------------------------------------------------------------------------------


def _compared(found: ComparisonList) -> str:
    return "\n\n".join(describe(each) for each in found.comparisons)


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


def _found(verdict: Verdict, counted: list[Recount], *, expired: bool) -> str:
    lines = [_headline(verdict) + (", RUN OUT" if expired else "")]
    for each in counted:
        told = f"log {each.log_id}: {each.found} pairs found, {each.of} stated"
        lines.append(each.finding or told)
    if verdict.comparison.data_digest:
        lines.append(f"made of a file with SHA-256 {verdict.comparison.data_digest}")
    lines.append("DOES NOT HOLD" if any(each.finding for each in counted) else "holds")
    return "\n".join(lines)


def _verdicts(model: str) -> str:
    return f"/v1/models/{quote(model, safe='')}/verdicts"


def _tell(found: IssuedVerdict, *, by: AsSomebody) -> None:
    verdict = found.verdict
    by.tell(verdict, lambda: f"{_headline(verdict)}\n\n{describe(verdict.comparison)}")


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
