"""`serving log`: reading and checking what was recorded."""

from typing import Annotated

import typer

from serving.audit.events import EventName
from serving.cli import ledger
from serving.cli.conditions import AtLedger, Conditions, Limit, complain_of
from serving.cli.groups import grouped
from serving.cli.joining import join
from serving.cli.output import say, say_json
from serving.cli.proof import head, verify_log
from serving.ledger.search import LedgerSearch
from serving.predictionlog.reading.rendering import heading, record_json, record_line

app = typer.Typer(help="Read the prediction log.", no_args_is_help=True, rich_markup_mode=None)


@app.command("query")
@grouped
def query(
    *,
    where: Conditions,
    limit: Limit = None,
    newest_first: Annotated[
        bool, typer.Option("--newest-first", help="Start with the newest, not the oldest.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="With --json: long tensors whole, not cut.")
    ] = False,
    salvage: Annotated[
        bool, typer.Option("--salvage", help="Also sound records from a damaged commit.")
    ] = False,
    at: AtLedger,
) -> None:
    """Print recorded predictions, oldest first; also while the product runs.

    Recent records and those that were compacted are found alike. --json prints one object on each line,
    with inputs and outputs as nested lists, and is an event of the audit trail; tensors of more than
    1024 elements are cut to the first 1024, flat, and marked `truncated`, unless --full. Damage, and
    what retention deleted while it was read, is named on standard error and makes the exit status 1.

    \b
    Examples:
      serving log query --since 15m
      serving log query --model census-employment --limit 10 --newest-first
      serving log query --since 1d --fate timeout --json
      serving log query --id 0123456789abcdef-1f --json --full
    """
    files = at.files()
    wanted = where.query(limit=limit, newest_first=newest_first, salvage=salvage)
    if at.json:
        files.testify(EventName.PAYLOADS_READ, where)
    search = LedgerSearch(files.log, files.place, wanted, keys=files.keys)
    _print_records(search, json=at.json, full=full)
    complain_of(search.damaged, search.missing)


def _print_records(search: LedgerSearch, *, json: bool, full: bool) -> None:
    if not json:
        say(heading())
    for record in search.records():
        if json:
            say_json(record_json(record, full=full))
        else:
            say(record_line(record))


app.command("sql")(ledger.sql)
app.command("export")(ledger.export)
app.command("compact")(ledger.compact)
app.command("verify")(verify_log)
app.command("head")(head)
app.command("join")(join)
