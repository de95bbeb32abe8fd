"""`serving log sql`, `export` and `compact`: hot and cold records as tables."""

from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from serving.audit.events import EventName
from serving.cli.advance import Advance
from serving.cli.conditions import (
    AtLedger,
    Conditions,
    LedgerFiles,
    Limit,
    Model,
    OfFate,
    Principal,
    Since,
    Until,
    Version,
    complain_of,
)
from serving.cli.groups import grouped
from serving.cli.output import complain, say, say_json, table
from serving.core.clock import SystemClock
from serving.errors import ParameterInvalid
from serving.ledger.cloudevents import cloudevents
from serving.ledger.compaction import CompactionReport, Compactor
from serving.ledger.export import ExportReport, export_tables
from serving.ledger.hot import AllTables, all_tables, scratch_in
from serving.ledger.search import LedgerSearch
from serving.ledger.sql import LedgerDatabase
from serving.predictionlog.reading.query import Query, instant_ns
from serving.predictionlog.reading.rendering import printable, record_json

FORMATS: Final = ("parquet", "csv", "jsonl", "cloudevents")
_SHOWN_ROWS: Final = 1000
_MAX_CELL: Final = 60


@grouped
def sql(
    statement: Annotated[str, typer.Argument(help="One SELECT.")],
    *,
    model: Annotated[
        list[str] | None, typer.Option(help="Only records of this model; repeat for more.")
    ] = None,
    at: AtLedger,
) -> None:
    """Ask the ledger in SQL (DuckDB), over recent and compacted records together.

    Views: predictions (what all models have in common, one row for each row of a prediction), outcomes,
    losses, and one for each model with its inputs and outputs as columns: census-employment is
    census_employment, with input_AGEP and output_label. Times are UTC. Files, network and settings
    cannot be reached from a statement. Recent records are turned into tables first, 2.5 us each;
    --model leaves out those of others. Text shows 1000 rows at most, --json all.

    \b
    Examples:
      serving log sql "SELECT model, fate, count(*) FROM predictions GROUP BY ALL"
      serving log sql "SELECT avg(output_label) FROM census_employment WHERE input_AGEP < 30"
      serving log sql "DESCRIBE census_employment"
      serving log sql "SELECT * FROM outcomes ORDER BY time DESC LIMIT 10" --json
    """
    files = at.files()
    files.testify(EventName.PAYLOADS_READ, Conditions(), reason=statement[:1000])
    with _tables(files, models=model or ()) as (tables, scratch):
        settings = files.settings.ledger
        with LedgerDatabase(tables, scratch=scratch, settings=settings) as database:
            show = _print_json if at.json else _print_table
            show(*database.select(statement))
        complain_of(tables.damaged)


def _print_json(names: list[str], rows: Iterator[tuple[Any, ...]]) -> None:
    for row in rows:
        say_json(_in_json(dict(zip(names, row, strict=True))))


def _print_table(names: list[str], rows: Iterator[tuple[Any, ...]]) -> None:
    shown = [tuple(_cell(value) for value in row) for row, _ in zip(rows, range(_SHOWN_ROWS))]  # noqa: B905 -- the shorter ends it
    say(table(tuple(printable(name) for name in names), shown))
    if len(shown) == _SHOWN_ROWS and next(rows, None) is not None:
        complain(f"serving: the first {_SHOWN_ROWS} rows; --json prints all")


def _cell(value: object) -> str:
    text = "" if value is None else printable(str(value))
    return text if len(text) <= _MAX_CELL else f"{text[: _MAX_CELL - 1]}…"


def _in_json(value: Any) -> Any:
    """What JSON can hold: bytes as base64, other types by their own words, NaN as text."""
    if isinstance(value, dict):
        return {str(key): _in_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_in_json(each) for each in value]
    if isinstance(value, bytes):
        return {"base64": b64encode(value).decode()}
    if isinstance(value, float) and not abs(value) < float("inf"):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


@grouped
def export(  # noqa: PLR0913 -- one parameter for each option
    output: Annotated[
        Path, typer.Argument(help="A folder for parquet and csv; a file, or -, for the others.")
    ],
    *,
    form: Annotated[
        str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")
    ] = "parquet",
    since: Since = None,
    until: Until = None,
    model: Model = "",
    version: Version = "",
    principal: Principal = "",
    fate: OfFate = None,
    limit: Limit = None,
    at: AtLedger,
) -> None:
    """Take records out: for analysis, for other systems, for an auditor.

    parquet and csv: one file for each model version, a row for each row of a prediction, inputs and
    outputs in columns of their names; text that a spreadsheet would run is preceded by an apostrophe.
    jsonl: as `serving log query --json --full`. cloudevents: CloudEvents 1.0, structured JSON, a
    request and a response for each prediction, as KServe logs them. Encrypted payloads stay so in
    tables. Every export is an event of the audit trail. What retention deletes while it is read is
    named, and makes the exit status 1.

    \b
    Examples:
      serving log export tables --since 7d --model census-employment
      serving log export tables --format csv --until 2026-12-01
      serving log export - --format cloudevents --since 1h | my-consumer
    """
    if form not in FORMATS:
        raise ParameterInvalid(f"--format {form[:64]!r} is none of {', '.join(FORMATS)}")
    conditions = Conditions(since, until, model, version, principal, fate)
    files = at.files()
    query = conditions.query(limit=limit)
    files.testify(EventName.PAYLOADS_EXPORTED, conditions, reason=f"{form} to {output}")
    if form in ("parquet", "csv"):
        if limit is not None:
            raise ParameterInvalid("--limit is for jsonl and cloudevents")
        _export_tables(files, query, output, form=form, at=at)
    else:
        _export_lines(files, query, output, form=form)


def _export_tables(
    files: LedgerFiles, query: Query, output: Path, *, form: str, at: AtLedger
) -> None:
    models = (query.model,) if query.model else ()
    with _tables(files, models=models) as (tables, _):
        report = export_tables(tables, query, output, form="csv" if form == "csv" else "parquet")
        if at.json:
            say_json(report)
        else:
            _print_export(report, output)
        complain_of(tables.damaged, report.missing)


def _print_export(report: ExportReport, output: Path) -> None:
    for name in report.files:
        say(str(output / name))
    complain(f"{report.rows} rows in {len(report.files)} files")


def _export_lines(files: LedgerFiles, query: Query, output: Path, *, form: str) -> None:
    search = LedgerSearch(files.log, files.place, query, keys=files.keys)
    source = files.settings.ledger.source
    to_terminal = str(output) == "-"
    place = Path("/dev/stdout") if to_terminal else output
    with Advance("records", SystemClock()) as advance, place.open("wb") as file:
        for count, record in enumerate(search.records(), start=1):
            if form == "jsonl":
                file.write(msgspec.json.encode(record_json(record, full=True)) + b"\n")
            else:
                file.writelines(
                    event.structured() + b"\n" for event in cloudevents(record, source=source)
                )
            advance.to(count)
    complain_of(search.damaged, search.missing)


@grouped
def compact(
    *,
    until: Annotated[
        str | None,
        typer.Option(help="Only segments begun before: 15m, 2h, 1d ago, or an ISO time."),
    ] = None,
    at: AtLedger,
) -> None:
    """Turn sealed segments into Parquet files by model and day, now.

    The product does this by itself (`ledger.compact`); use it where that is off, or nothing runs. May be
    killed and run again: each record is in the tables once. Segments stay where they are; a damaged
    one is left alone and named, and makes the exit status 1.

    \b
    Examples:
      serving log compact
      serving log compact --until 1d --json
    """
    clock = SystemClock()
    files = at.files()
    until_ns = None if until is None else instant_ns(until, now_ns=clock.wall_ns())
    compactor = Compactor(
        files.log,
        files.place,
        folder=files.directory.ledger,
        settings=files.settings.ledger,
        clock=clock,
    )
    with Advance("records", clock) as advance:
        report = compactor.run(
            until_ns=until_ns, told=lambda so_far: advance.to(so_far.records), stopping=_never
        )
    at.tell(report, lambda: _compacted(report))
    complain_of(report.damaged)


def _never() -> bool:
    return False


def _compacted(report: CompactionReport) -> str:
    text = (
        f"{report.records} records of {report.segments} segments in {report.files} files: "
        f"{report.bytes_read / 2**20:.1f} MiB became {report.bytes_written / 2**20:.1f} MiB"
    )
    if not report.joined:
        return text
    return f"{text}\n{report.joined} files fewer: small ones of one version and day were joined"


@contextmanager
def _tables(files: LedgerFiles, *, models: Any) -> Iterator[tuple[AllTables, Path]]:
    """All tables, the recent records' in a scratch folder that is gone afterwards."""
    with scratch_in(files.directory.ledger) as scratch:
        settings = files.settings.ledger
        yield (
            all_tables(files.log, files.place, scratch=scratch, settings=settings, models=models),
            scratch,
        )
