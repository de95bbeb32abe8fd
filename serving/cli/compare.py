"""`serving compare`: a candidate compared with the version that answers."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from serving.app.comparing_once import CompareOrder, Comparer
from serving.app.directory import DataDirectory
from serving.cli.advance import Advance
from serving.cli.groups import AtDirectory, grouped
from serving.cli.output import table
from serving.core.clock import SystemClock
from serving.core.traffic import Snapshot
from serving.errors import ParameterInvalid
from serving.governance.comparisons import ComparisonReport
from serving.monitoring.figures import ALL, Figure
from serving.monitoring.noise import NoiseFloor
from serving.predictionlog.reading.query import instant_ns
from serving.settings import Settings

NOT_PROMOTED: Final = 1

Candidate = Annotated[str, typer.Option(help="A version of the model, or an .onnx file.")]
Since = Annotated[str, typer.Option(help="Recorded pairs from when on: 1h, 30d, or an ISO time.")]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is compared with what, as it was written: for `compare` and for `verdict issue`."""

    candidate: Candidate
    primary: Annotated[
        str, typer.Option(help="What it is compared with. Default: what answers now.")
    ] = ""
    since: Since = "1d"
    until: Annotated[str | None, typer.Option(help="Up to when, as --since. Default: now.")] = None
    replay: Annotated[
        Path | None, typer.Option("--replay", help="A .jsonl of `serving replay`, instead.")
    ] = None
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="A .npz with an array for each input, instead; both versions run."
        ),
    ] = None
    label: Annotated[str, typer.Option(help="The array of --data that holds the truth.")] = "label"

    def order(
        self, settings: Settings, model: str, *, by: Iterable[str] = (), limit: int | None = None
    ) -> CompareOrder:
        """Raises ParameterInvalid."""
        if self.replay is not None and self.data is not None:
            raise ParameterInvalid("--replay and --data name two sources: give one of them")
        now_ns = SystemClock.wall_ns()
        until = self.until
        return CompareOrder(
            model=model,
            candidate=self.candidate,
            primary=self.primary or _stable(settings, model),
            since_ns=instant_ns(self.since, now_ns=now_ns),
            until_ns=now_ns if until is None else instant_ns(until, now_ns=now_ns),
            replay=self.replay,
            data=self.data,
            label=self.label,
            by=tuple(by),
            limit=limit,
        )


@dataclass(frozen=True, slots=True)
class Asked(Comparison):
    """The same, but that a noise floor takes no candidate."""

    candidate: Candidate = ""


@grouped
def run(
    model: Annotated[str, typer.Argument(help="Whose versions.")],
    *,
    asked: Asked,
    by: Annotated[
        list[str] | None,
        typer.Option(help="Also by this input feature or `principal`; may be repeated."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many records.")] = None,
    noise_floor: Annotated[
        bool,
        typer.Option(
            "--noise-floor",
            help="Instead: how often the primary disagrees with a second run of itself.",
        ),
    ] = False,
    at: AtDirectory,
) -> None:
    """Compare a candidate with the version that answers, by the rules of the model.

    Takes the pairs of primaries and shadow copies that the ledger holds, or the result of a replay, or a
    set of data that both versions are run on here. Says what it would decide (promote, hold, reject),
    every figure with its interval, and why; `serving verdict issue` makes a signed verdict of the same.
    The exit status is 0 for promote and 1 for hold and reject.

    --noise-floor runs the primary again on its own recorded inputs (or on --data) and keeps how often
    it disagrees with itself: later comparisons, the live one too, allow for that much.

    \b
    Examples:
      serving compare census-employment --candidate 2 --since 6h
      serving compare census-employment --candidate 2 --by AGEP --json
      serving replay --model census-employment --since 1d --against candidate.onnx
      serving compare census-employment --candidate candidate.onnx --replay replay.jsonl
      serving compare census-employment --candidate 2 --data holdout.npz --label ESR
      serving compare census-employment --noise-floor --since 1d --limit 5000
    """
    settings, clock = at.settings(), SystemClock()
    order = asked.order(settings, model, by=by or (), limit=limit)
    with Advance("records", clock, total=limit) as advance:
        comparer = Comparer(settings, clock, advanced=advance.to)
        if noise_floor:
            floor = comparer.measure_floor(order)
            at.tell({"floor": floor.counts}, lambda: _floor(floor))
            return
        if not asked.candidate:
            raise ParameterInvalid("name a --candidate, or ask for --noise-floor")
        report = comparer.run(order)
    at.tell(report, lambda: describe(report))
    if report.decision.outcome != "promote":
        raise typer.Exit(NOT_PROMOTED)


def _stable(settings: Settings, model: str) -> str:
    """What answered last on this data directory, or is to by the settings."""
    try:
        content = DataDirectory.at(settings.data_dir).snapshot_file.read_bytes()
        policies = msgspec.json.decode(content, type=Snapshot).policies
    except (OSError, msgspec.DecodeError):
        policies = ()
    found = [str(each.stable) for each in policies if each.model == model]
    found += [each.stable for each in settings.deployments if each.model == model]
    if not found:
        raise ParameterInvalid(f"nothing says which version of {model} answers: name a --primary")
    return found[0]


# -- text --------------------------------------------------------------------------------------------


def describe(report: ComparisonReport) -> str:
    """A report for people: what it is about, what it says and why, then every figure."""
    counts = report.counts
    head = (
        f"{report.model}@{report.candidate} against {report.primary}, {report.source}: "
        f"{counts.pairs} requests paired, {report.decision.pairs} rows compared, "
        f"{counts.failures} failures, {report.decision.outcomes} outcomes"
    )
    lines = [head, *_counted(report), "", _figures(report.figures), ""]
    ending = "" if report.decision.final else ", so far"
    lines.append(f"{report.decision.outcome.upper()}{ending} at alpha {_alpha(report)}")
    lines += [f"  {reason}" for reason in report.decision.reasons]
    return "\n".join(lines)


def _counted(report: ComparisonReport) -> Iterable[str]:
    counts = report.counts
    if counts.unpaired:
        yield "without their other half: " + _listed(counts.unpaired)
    if counts.left_out:
        yield "not compared: " + _listed(counts.left_out)
    if report.gap is not None:
        yield f"copies that should be there and are not: {report.gap:.2%}"
    if report.share < 1:
        yield f"a share of {report.share:.1%} is compared"
    if report.floor:
        yield f"with the noise floor of {len(report.floor)} comparators"


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))


def _alpha(report: ComparisonReport) -> str:
    return f"{report.specification.get('alpha', 0.05):g}"


def _figures(figures: Iterable[Figure]) -> str:
    heads = ("FIGURE", "SLICE", "N", "ESTIMATE", "INTERVAL", "LIMIT", "E", "STATUS")
    ordered = sorted(figures, key=lambda each: each.slice != ALL)
    return table(heads, [_figure(each) for each in ordered])


def _figure(figure: Figure) -> tuple[str, ...]:
    interval = "-"
    if figure.low is not None and figure.high is not None:
        interval = f"{figure.low:.4g} to {figure.high:.4g}"
    return (
        figure.name,
        figure.slice + (" *" if figure.protected else ""),
        str(figure.n),
        "-" if figure.estimate is None else f"{figure.estimate:.4g}",
        interval,
        "-" if figure.limit is None else f"{figure.sense.replace('_', ' ')} {figure.limit:.4g}",
        f"{figure.e_value:.3g}",
        figure.status,
    )


def _floor(floor: NoiseFloor) -> str:
    rows = [(name, str(n), str(hits)) for name, (hits, n) in sorted(floor.counts.items())]
    return table(("COMPARATOR", "ROWS", "DISAGREE WITH THEMSELVES"), rows)
