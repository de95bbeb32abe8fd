"""`serving replay`: recorded predictions once more, by another version."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from serving.app.replaying import ReplayOrder, replay
from serving.cli.advance import Advance
from serving.cli.groups import AtDirectory, grouped
from serving.core.clock import SystemClock
from serving.ledger.differences import Tolerance
from serving.ledger.places import cold_place
from serving.ledger.results import ReplayCounts
from serving.predictionlog.privacy.subjects import PayloadKeys
from serving.predictionlog.reading.query import instant_ns

DIFFERENT: Final = 1


@dataclass(frozen=True, slots=True)
class Asked:
    """Which predictions are run again, by what, and where the result goes."""

    model: Annotated[str, typer.Option(help="Whose predictions.")]
    against: Annotated[str, typer.Option(help="A version of the model, or an .onnx file.")]
    since: Annotated[str, typer.Option(help="From when on: 1h, 30d ago, or an ISO time.")]
    until: Annotated[
        str | None, typer.Option(help="Up to when, as --since; with --resume as it was.")
    ] = None
    version: Annotated[str, typer.Option(help="Only what this version predicted.")] = ""
    output: Annotated[Path, typer.Option(help="The result: a .jsonl or .parquet file.")] = Path(
        "replay.jsonl"
    )
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="At most so many records a second.")
    ] = None
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many records.")] = None
    tolerance: Annotated[
        float, typer.Option(min=0, help="What numbers may differ by, absolutely and relatively.")
    ] = 1e-5
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a result that was not finished.")
    ] = False

    def order(self, now_ns: int) -> ReplayOrder:
        """now_ns: wall time that --since and --until count from. Raises ParameterInvalid."""
        until = self.until
        return ReplayOrder(
            model=self.model,
            against=self.against,
            since_ns=instant_ns(self.since, now_ns=now_ns),
            until_ns=now_ns if until is None else instant_ns(until, now_ns=now_ns),
            output=self.output,
            version=self.version,
            limit=self.limit,
            records_per_s=self.rate,
            resume=self.resume,
            tolerance=Tolerance(self.tolerance, self.tolerance),
        )


@grouped
def run(*, asked: Asked, at: AtDirectory) -> None:
    """Run recorded predictions by another version, or file, and compare row by row.

    Reads the ledger, hot and cold, and runs the version in this process: the product goes on as it
    is. Of each row says whether the answer is exactly the recorded one, within the tolerance, and
    whether the row is decided otherwise. Records whose values were hashed, dropped, encrypted for want
    of a key, or erased are passed over and counted. The exit status is 1 when a row differs by more
    than the tolerance, or the version failed on a record.

    To go on with a result, name the same times: write --since and --until as ISO times.

    \b
    Examples:
      serving replay --model census-employment --since 1d --against 2
      serving replay --model census-employment --since 1d --against candidate.onnx --output r.parquet
      serving replay --model census-employment --since 2026-11-01 --until 2026-11-08 --against 2 \\
          --rate 500 --resume
    """
    clock, settings = SystemClock(), at.settings()
    order = asked.order(clock.wall_ns())
    with Advance("records", clock, total=asked.limit) as advance:
        counts = replay(
            order,
            settings,
            place=cold_place(settings.blobs, settings.data_dir),
            keys=PayloadKeys.at(settings.data_dir),
            clock=clock,
            advanced=advance.to,
        )
    facts = {**msgspec.to_builtins(counts), "differing_rows": counts.differing_rows}
    at.tell(facts, lambda: _text(counts))
    if counts.differing_rows or counts.failed_records:
        raise typer.Exit(DIFFERENT)


def _text(counts: ReplayCounts) -> str:
    lines = [
        f"{counts.records} records, {counts.rows} rows: {counts.exact_rows} exact, "
        f"{counts.within_rows - counts.exact_rows} within the tolerance, "
        f"{counts.differing_rows} differ, {counts.flipped_rows} decided otherwise; "
        f"largest difference {counts.largest_distance:.3g}"
    ]
    if counts.failed_records:
        lines.append(f"{counts.failed_records} records on which it failed")
    if counts.skipped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.skipped.items())
        lines.append(f"passed over: {reasons}")
    return "\n".join(lines)
