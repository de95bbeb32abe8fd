"""`serving log`: reading and checking what was recorded."""

from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from serving.cli.options import Config, DataDir, Json, effective
from serving.cli.output import complain, say, say_json, table
from serving.core.clock import SystemClock
from serving.core.predictions import Fate
from serving.errors import NotFound, ParameterInvalid
from serving.predictionlog.query import Query, Search, instant_ns
from serving.predictionlog.rendering import heading, record_json, record_line
from serving.predictionlog.verification import VerificationReport, verify

DAMAGED: Final = 1
_MAX_FINDINGS: Final = 20

app = typer.Typer(help="Read the prediction log.", no_args_is_help=True, rich_markup_mode=None)


@app.command("query")
def query(  # noqa: PLR0913 -- one parameter for each option
    *,
    since: Annotated[
        str | None, typer.Option(help="Only what arrived since: 15m, 2h, 1d ago, or an ISO time.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only what arrived before; as --since.")] = None,
    model: Annotated[str, typer.Option(help="Only this model.")] = "",
    version: Annotated[str, typer.Option(help="Only this version.")] = "",
    principal: Annotated[str, typer.Option(help="Only this caller.")] = "",
    fate: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(f.name.lower() for f in Fate)}.")
    ] = None,
    prediction_id: Annotated[str, typer.Option("--id", help="Only this prediction.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the newest so many.")] = None,
    newest_first: Annotated[
        bool, typer.Option("--newest-first", help="Start with the newest, not the oldest.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="With --json: long tensors whole, not cut.")
    ] = False,
    salvage: Annotated[
        bool, typer.Option("--salvage", help="Also sound records from a damaged commit.")
    ] = False,
    json: Json = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Print recorded predictions, oldest first; also while the product runs.

    --json prints one object on each line, with inputs and outputs as nested lists; tensors of more
    than 1024 elements are cut to the first 1024, flat, and marked `truncated`, unless --full.
    Damage is named on standard error and makes the exit status 1.

    \b
    Examples:
      serving log query --since 15m
      serving log query --model census-employment --limit 10 --newest-first
      serving log query --since 1d --fate timeout --json
      serving log query --id 0123456789abcdef-1f --json --full
    """
    now_ns = SystemClock().wall_ns()
    search = Search(
        log_directory(config, data_dir),
        Query(
            since_ns=None if since is None else instant_ns(since, now_ns=now_ns),
            until_ns=None if until is None else instant_ns(until, now_ns=now_ns),
            model=model,
            version=version,
            principal=principal,
            fate=None if fate is None else _fate(fate),
            prediction_id=prediction_id,
            limit=limit,
            newest_first=newest_first,
            salvage=salvage,
        ),
    )
    _print_records(search, json=json, full=full)
    if search.damaged:
        names = ", ".join(sorted(search.damaged))
        complain(f"serving: damaged, run `serving log verify`: {names}")
        raise typer.Exit(DAMAGED)


def _print_records(search: Search, *, json: bool, full: bool) -> None:
    if not json:
        say(heading())
    for record in search.records():
        if json:
            say_json(record_json(record, full=full))
        else:
            say(record_line(record))


@app.command("verify")
def verify_log(*, json: Json = False, config: Config = None, data_dir: DataDir = None) -> None:
    """Read every byte of the log and say what is damaged; exit status 1 if anything is.

    Checks each record, commit and seal and the links between segments. A torn tail (a write that a
    crash cut off) is not damage: nobody was answered from it. Works while the product runs.

    \b
    Examples:
      serving log verify
      serving log verify --json
    """
    report = verify(log_directory(config, data_dir))
    if json:
        say_json({"sound": not report.damage, **msgspec.to_builtins(report)})
    else:
        _print_report(report)
    if report.damage:
        raise typer.Exit(DAMAGED)


def _print_report(report: VerificationReport) -> None:
    heads = ("SEGMENT", "STATE", "DURABILITY", "RECORDS", "TORN BYTES", "DAMAGE")
    rows = [
        (
            segment.file,
            segment.state,
            segment.durability,
            str(segment.records),
            str(segment.torn_bytes or segment.cut_bytes),
            str(len(segment.damage)),
        )
        for segment in report.segments
    ]
    say(table(heads, rows))
    for finding in report.damage[:_MAX_FINDINGS]:
        say(
            f"damage: {finding.file} bytes {finding.start} to {finding.end}: {finding.reason}; "
            f"last safe sequence {finding.last_safe}, first safe after it {finding.first_safe}"
        )
    if len(report.damage) > _MAX_FINDINGS:
        say(f"and {len(report.damage) - _MAX_FINDINGS} more; --json names them all")
    sound = "damaged" if report.damage else "sound"
    say(f"{report.records} records in {len(report.segments)} segments: {sound}")


def _fate(text: str) -> Fate:
    try:
        return Fate[text.upper()]
    except KeyError as error:
        names = ", ".join(fate.name.lower() for fate in Fate)
        raise ParameterInvalid(f"--fate {text[:64]!r} is none of {names}") from error


def log_directory(config: Path | None, data_dir: Path | None) -> Path:
    """Where the logs of an instance lie. Raises NotFound."""
    root = effective(config, data_dir).data_dir / "log"
    if not root.is_dir():
        raise NotFound(f"{root} does not exist; has the product run with this data directory?")
    return root
