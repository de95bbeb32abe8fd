"""`serving usage`: who used what, from the prediction log."""

from typing import Annotated

import typer

from serving.cli.conditions import AtLedger, complain_of
from serving.cli.groups import grouped
from serving.cli.output import say, say_json, table
from serving.core.clock import SystemClock
from serving.errors import ParameterInvalid
from serving.ledger.search import LedgerSearch
from serving.predictionlog.reading.query import Query, instant_ns
from serving.predictionlog.reading.usage import DIMENSIONS, Usage, usage


@grouped
def print_usage(
    *,
    since: Annotated[str, typer.Option(help="From when on: 1h, 30d ago, or an ISO time.")] = "30d",
    until: Annotated[str | None, typer.Option(help="Up to when; as --since.")] = None,
    by: Annotated[
        str, typer.Option(help=f"What to keep apart: some of {', '.join(DIMENSIONS)}.")
    ] = ",".join(DIMENSIONS),
    principal: Annotated[str, typer.Option(help="Only this caller.")] = "",
    model: Annotated[str, typer.Option(help="Only this model.")] = "",
    at: AtLedger,
) -> None:
    """Sum up what callers used: requests, rows and compute time; the basis of a bill.

    Read from the prediction log, so it is what was recorded before it was answered, and no more than
    the log still holds. COMPUTE MS is a caller's share, by rows, of the batches it was in.

    \b
    Examples:
      serving usage --since 1d
      serving usage --since 2026-11-01 --until 2026-12-01 --by principal --json
    """
    dimensions = [each.strip() for each in by.split(",") if each.strip()]
    for each in dimensions:
        if each not in DIMENSIONS:
            raise ParameterInvalid(f"--by {each[:64]!r} is none of {', '.join(DIMENSIONS)}")
    now_ns = SystemClock().wall_ns()
    files = at.files()
    search = LedgerSearch(
        files.log,
        files.place,
        Query(
            since_ns=instant_ns(since, now_ns=now_ns),
            until_ns=None if until is None else instant_ns(until, now_ns=now_ns),
            principal=principal,
            model=model,
        ),
    )
    _print(usage(search.records(), dimensions), dimensions, json=at.json)
    complain_of(search.damaged)


def _print(sums: list[Usage], dimensions: list[str], *, json: bool) -> None:
    if json:
        for each in sums:
            say_json(
                {
                    **dict(zip(dimensions, each.group, strict=True)),
                    "requests": each.requests,
                    "answered": each.answered,
                    "rows": each.rows,
                    "compute_ms": round(each.compute_ms, 3),
                }
            )
        return
    heads = (*(each.upper() for each in dimensions), "REQUESTS", "ANSWERED", "ROWS", "COMPUTE MS")
    lines = [
        (
            *each.group,
            str(each.requests),
            str(each.answered),
            str(each.rows),
            f"{each.compute_ms:.1f}",
        )
        for each in sums
    ]
    say(table(heads, lines))
