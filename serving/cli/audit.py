"""`serving audit`: the trail of who changed and read what, verified without asking anybody."""

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from serving.access.operators import operator_name
from serving.app.directory import DataDirectory
from serving.app.evidence_parts import anchor_of
from serving.audit.chain import Entry
from serving.audit.events import Event, EventName
from serving.audit.findings import Report
from serving.audit.reading import Filter, export, find, read_export, trail_of
from serving.audit.spool import Spool
from serving.audit.verification import verify as verify_trail
from serving.cli.groups import AtDirectory, grouped
from serving.cli.options import Config, DataDir, effective
from serving.cli.output import complain, instant, say, say_json, table
from serving.core.clock import SystemClock
from serving.errors import NotFound, SignatureInvalid
from serving.predictionlog.reading.query import instant_ns
from serving.settings import Settings
from serving.storage.database import FILE_NAME, Database
from serving.trust.installation import read_trusted
from serving.trust.signatures import TrustedKey, TrustedKeys

app = typer.Typer(
    help="The audit trail: list it, verify it offline, export it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

DAMAGED = 1
MOST_LISTED = 100_000

Database_ = Annotated[
    Path | None,
    typer.Option("--database", help="A SQLite file to read instead of the instance's database."),
]


class _KeyFile(msgspec.Struct, frozen=True):
    keys: tuple[TrustedKey, ...]


@app.command("verify")
@grouped
def verify(
    *,
    file: Annotated[
        Path | None, typer.Option(help="An export to verify instead of a database.")
    ] = None,
    anchor: Annotated[
        Path | None,
        typer.Option(help="The file of checkpoints. Default: the one that the settings name."),
    ] = None,
    trusted: Annotated[
        Path | None,
        typer.Option(help="File of trusted keys. Default: that of the data directory."),
    ] = None,
    database: Database_ = None,
    at: AtDirectory,
) -> None:
    """Find edits, deletions, insertions, reorders, truncation, forks and older copies.

    Reads the database, or an export, and nothing else: the product need not run. Every finding
    names its position. A trail that is whole in itself can still be an older copy or a fork: what
    tells is the anchor, so keep it, or a copy of it, where nobody who writes the database can.
    Exit status: 0 intact, 1 damaged, 2 could not be verified.

    \b
    Examples:
      serving audit verify
      serving audit verify --anchor /mnt/witness/anchor.txt --json
      serving audit verify --file trail.jsonl --trusted trusted-keys.json --anchor anchor.txt
    """
    settings = at.settings()
    directory = DataDirectory.at(settings.data_dir)
    keys = read_trusted(directory.keys) if trusted is None else read_keys(trusted)
    anchor = anchor or (anchor_of(settings, directory) if file is None else None)
    if anchor is not None and not anchor.exists():
        complain(f"serving: there is no anchor {anchor}: an older copy would not be noticed")
    trail = (
        trail_of(_database(settings, database), anchor=anchor)
        if file is None
        else read_export(_existing(file), anchor=anchor)
    )
    report = verify_trail(trail, keys)
    at.tell(report, lambda: _text(report))
    if not report.intact:
        raise typer.Exit(DAMAGED)


@app.command("list")
@grouped
def list_events(
    *,
    name: Annotated[str, typer.Option(help="Only this event, or access:* for all of a kind.")] = "",
    actor: Annotated[str, typer.Option(help="Only by them; may end in *.")] = "",
    about: Annotated[
        str, typer.Option("--object", help="Only about this, such as version:fraud@3 or model:*.")
    ] = "",
    since: Annotated[str | None, typer.Option(help="15m, 2h, 1d ago, or an ISO time.")] = None,
    until: Annotated[str | None, typer.Option(help="As --since.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST_LISTED, help="At most so many.")] = 100,
    database: Database_ = None,
    at: AtDirectory,
) -> None:
    """List events, newest first: who did what to what, from where, and why.

    \b
    Examples:
      serving audit list --since 1d
      serving audit list --name 'governance:*' --object 'version:fraud@*'
      serving audit list --actor alice --json
    """
    now_ns = SystemClock.wall_ns()
    wanted = Filter(
        name=name,
        actor=actor,
        object=about,
        since_ns=0 if since is None else instant_ns(since, now_ns=now_ns),
        until_ns=0 if until is None else instant_ns(until, now_ns=now_ns),
        limit=limit,
    )
    found = find(_database(at.settings(), database), wanted)
    if at.json:
        for entry in found:
            say_json(entry)
        return
    heads = ("EVENT", "TIME", "NAME", "ACTOR", "OBJECT", "FROM", "WHY")
    say(table(heads, [_row(entry) for entry in found]))


@app.command("export")
def export_trail(
    output: Annotated[Path | None, typer.Argument(help="Default: standard output.")] = None,
    *,
    database: Database_ = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Write the whole trail, with its hashes and checkpoints, as JSON lines.

    Give it to an auditor together with the anchor and the file of trusted keys: that is all that
    `serving audit verify --file` needs. That it was exported is an event itself.

    \b
    Examples:
      serving audit export trail.jsonl
      serving audit export | gzip > trail.jsonl.gz
    """
    settings = effective(config, data_dir)
    source = _database(settings, database)
    if database is None:
        directory = DataDirectory.at(settings.data_dir)
        where = "standard output" if output is None else str(output)
        event = Event(
            EventName.AUDIT_EXPORTED, operator_name(), "audit:trail", reason=where, source="cli"
        )
        Spool(directory.audit).add(event, at_ns=SystemClock.wall_ns())
    if output is None:
        sys.stdout.buffer.writelines(export(source))
        return
    with output.open("wb") as file:
        file.writelines(export(source))


# -- inside ------------------------------------------------------------------------------------------


def _database(settings: Settings, file: Path | None) -> Database:
    registry = settings.registry
    if file is not None:
        registry = registry.model_copy(update={"url": ""})
    path = file or DataDirectory.at(settings.data_dir).root / FILE_NAME
    if not registry.url:
        _existing(path)
    return Database.existing(registry, path, clock=SystemClock())


def _existing(path: Path) -> Path:
    if not path.exists():
        raise NotFound(f"{path} does not exist")
    return path


def read_keys(file: Path) -> TrustedKeys:
    """A file of trusted keys, from anywhere. Raises SignatureInvalid."""
    try:
        return TrustedKeys(msgspec.json.decode(file.read_bytes(), type=_KeyFile).keys)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SignatureInvalid(f"{file} does not list trusted keys: {error}") from error


def _text(report: Report) -> str:
    lines = [f"{each.kind} at event {each.position}: {each.detail}" for each in report.findings]
    if report.unlisted:
        lines.append(f"and {report.unlisted} more")
    lines += [f"not counted: {refused}" for refused in report.refused]
    verdict = "intact" if report.intact else "DAMAGED"
    lines.append(
        f"{verdict}: log {report.log_id}, {report.events} events, {report.covered} of them signed by "
        f"{report.checkpoints} checkpoints, {report.anchored} in the anchor"
    )
    return "\n".join([*lines, f"root {report.root}"])


def _row(entry: Entry) -> tuple[str, ...]:
    return (
        str(entry.position),
        instant(int(entry.at_ns) // 1_000_000_000),
        entry.name,
        entry.actor or "-",
        entry.object,
        entry.source or "-",
        entry.reason or "-",
    )
