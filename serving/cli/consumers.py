"""`serving model consumers`: who still calls a version."""

from typing import Annotated

import typer

from serving.cli.conditions import AtLedger, complain_of
from serving.cli.groups import grouped
from serving.cli.model import app
from serving.cli.output import instant, say, say_json, table
from serving.core.clock import SystemClock
from serving.ledger.search import LedgerSearch
from serving.predictionlog.reading.consumers import Consumer, consumers
from serving.predictionlog.reading.query import Query, instant_ns


@app.command("consumers")
@grouped
def print_consumers(
    version: Annotated[str, typer.Argument(help="MODEL@VERSION, or MODEL for all versions of it.")],
    *,
    since: Annotated[str, typer.Option(help="From when on: 1h, 30d ago, or an ISO time.")] = "30d",
    at: AtLedger,
) -> None:
    """Name those who still call a version, with their last call: whom to tell before it is retired.

    Read from the prediction log on this machine, hot and cold, as far back as it is kept.

    \b
    Examples:
      serving model consumers census-employment@1
      serving model consumers census-employment --since 7d --json
    """
    model, _, name = version.partition("@")
    files = at.files()
    since_ns = instant_ns(since, now_ns=SystemClock().wall_ns())
    search = LedgerSearch(
        files.log, files.place, Query(since_ns=since_ns, model=model, version=name)
    )
    _print(consumers(search.records()), json=at.json)
    complain_of(search.damaged)


def _print(found: list[Consumer], *, json: bool) -> None:
    if json:
        for each in found:
            say_json(
                {
                    "principal": each.principal,
                    "version": each.version,
                    "requests": each.requests,
                    "last_ns": each.last_ns,
                }
            )
        return
    rows = [
        (each.principal, each.version, str(each.requests), instant(each.last_ns // 10**9))
        for each in found
    ]
    say(table(("PRINCIPAL", "VERSION", "REQUESTS", "LAST CALL"), rows))
