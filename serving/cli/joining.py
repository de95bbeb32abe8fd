"""`serving log join`: predictions with what turned out to be true of them."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from serving.cli.groups import AtDirectory, grouped
from serving.cli.output import complain, say, say_json, table
from serving.core.clock import SystemClock
from serving.errors import NotFound, ParameterInvalid
from serving.ledger.joining import LAST_NS, Join, JoinFigures
from serving.ledger.labelled import FORMATS, write_labelled
from serving.ledger.labels import opened
from serving.ledger.places import cold_place
from serving.predictionlog.reading.query import instant_ns
from serving.settings import Settings

_NOTHING: Final = "-"


@grouped
def join(
    *,
    model: Annotated[str, typer.Option(help="Whose labelled rows; without it, figures only.")] = "",
    since: Annotated[
        str | None, typer.Option(help="Predictions since: 15m, 2h, 1d ago, or an ISO time.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Predictions before; as --since.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="A .jsonl, .csv or .parquet file for the labelled rows.")
    ] = None,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Also rows that nothing is known of yet.")
    ] = False,
    at: AtDirectory,
) -> None:
    """Join predictions with reported outcomes, by prediction id and row.

    With --output the labelled rows of a model go to a file: inputs and outputs by their names, and of
    each truth outcome_NAME, when it was observed and reported, and its revision. Without, says how
    complete the labels of each model are, how late they came, and what was rejected. Of several reports
    about one row and name the highest revision counts; a report about another model's prediction, an
    unknown one or a row that is not there counts for nothing.

    \b
    Examples:
      serving log join
      serving log join --model census-employment --since 30d --output labelled.parquet
      serving log join --model census-employment --output all.csv --unlabelled --json
    """
    if output is not None and (not model or output.suffix not in FORMATS):
        raise ParameterInvalid(f"--output needs --model, and ends in {', '.join(FORMATS)}")
    now_ns = SystemClock().wall_ns()
    with ledger_join(
        at.settings(),
        since_ns=0 if since is None else instant_ns(since, now_ns=now_ns),
        until_ns=LAST_NS if until is None else instant_ns(until, now_ns=now_ns),
    ) as found:
        if output is not None:
            rows = write_labelled(found, model, output=output, unlabelled=unlabelled)
            complain(f"{rows} rows of {model} in {output}")
        _print([each for each in found.figures() if model in ("", each.model)], json=at.json)


def ledger_join(
    settings: Settings, *, since_ns: int = 0, until_ns: int = LAST_NS
) -> AbstractContextManager[Join]:
    """Predictions of a window of time with their truths, hot and cold. Raises NotFound."""
    log = settings.data_dir / "log"
    if not log.is_dir():
        raise NotFound(f"{log} does not exist; has the product run with this data directory?")
    place = cold_place(settings.blobs, settings.data_dir)
    return opened(
        log,
        place,
        folder=settings.data_dir / "ledger",
        settings=settings.ledger,
        since_ns=since_ns,
        until_ns=until_ns,
    )


def _print(figures: list[JoinFigures], *, json: bool) -> None:
    if json:
        for each in figures:
            say_json({**msgspec.to_builtins(each), "completeness": each.completeness})
        return
    heads = (
        "MODEL", "PREDICTED ROWS", "LABELLED", "COMPLETE", "DUPLICATES", "CORRECTIONS", "REJECTED",
        "DELAY P50", "P99",
    )  # fmt: skip
    say(table(heads, [_row(each) for each in figures]))


def _row(figures: JoinFigures) -> tuple[str, ...]:
    complete = _NOTHING if figures.completeness is None else f"{figures.completeness:.1%}"
    median_s, slow_s = (figures.delays_s[0], figures.delays_s[-1]) if figures.delays_s else (0, 0)
    return (
        figures.model,
        str(figures.predicted_rows),
        str(figures.labelled_rows),
        complete,
        str(figures.duplicates),
        str(figures.corrections),
        str(sum(figures.rejected.values())),
        _duration(median_s) if figures.delays_s else _NOTHING,
        _duration(slow_s) if figures.delays_s else _NOTHING,
    )


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
