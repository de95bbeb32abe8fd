"""`serving experiment readout`: what the ledger says of the arms of an A/B test."""

import getpass
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Final
from urllib.parse import quote

import msgspec
import typer

from serving.audit.events import Event, EventName
from serving.audit.spool import Spool
from serving.cli.conditions import LedgerFiles
from serving.cli.experiment import Model, app, runs_of
from serving.cli.groups import AtControl, grouped
from serving.cli.joining import ledger_join
from serving.cli.orders import ControlClient
from serving.cli.output import table
from serving.cli.shares import percent
from serving.control.policyhistory import PolicyEntries
from serving.core.clock import SystemClock
from serving.core.principals import Role
from serving.errors import ParameterInvalid
from serving.ledger.answers import input_of, outcome_of, score_of
from serving.ledger.joining import LAST_NS, Join
from serving.ledger.trials import Cut, Metric, Trial, TrialReading, Unit
from serving.monitoring.experiments import ArmSummary, Better, Contrast, Design, Experiment, Readout
from serving.monitoring.figures import ALL, Figure
from serving.registry.experiments import ExperimentRun, last_run, routed_epochs

NOTHING: Final = "-"
UNITS: Final[dict[str, Unit]] = {
    "request": "request", "header": "request", "principal": "principal", "subject": "subject",
}  # fmt: skip
UNKNOWN_UNIT: Final = (
    "callers were kept apart by a header, which is not recorded: requests are counted as if "
    "each had been put there by itself, and intervals are narrower than they should be"
)


class Measure(StrEnum):
    """What an outcome is worth."""

    BRIER = "brier"
    ZERO_ONE = "zero_one"
    SQUARED = "squared"
    VALUE = "value"


METRICS: Final[dict[Measure, Metric]] = {
    Measure.BRIER: "squared", Measure.SQUARED: "squared",
    Measure.ZERO_ONE: "zero_one", Measure.VALUE: "value",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What answers were worth, as it was written, and what is sure enough."""

    outcome: Annotated[
        str,
        typer.Option(help="The name that outcomes were reported under; may be left out if one."),
    ] = ""
    score: Annotated[
        str, typer.Option(help="The output that is compared with it; default: of the same name.")
    ] = ""
    metric: Annotated[
        Measure,
        typer.Option(
            help="brier, zero_one, squared: losses, less is better. value: the outcome itself, "
            "more is better."
        ),
    ] = Measure.BRIER
    threshold: Annotated[float, typer.Option(help="From here on a score or truth decides 1.")] = 0.5
    alpha: Annotated[
        float,
        typer.Option(min=1e-6, max=0.5, help="How often equal versions may ever look different."),
    ] = 0.05


class PrintedReadout(msgspec.Struct, frozen=True, kw_only=True):
    """What `readout --json` writes."""

    run: ExperimentRun
    outcome: str
    metric: str
    alpha: float
    readout: Readout


@app.command("readout")
@grouped
def readout(
    model: Model,
    *,
    name: Annotated[str, typer.Option(help="Which experiment; default: the last one.")] = "",
    yardstick: Yardstick,
    by: Annotated[
        list[str] | None,
        typer.Option(help="A feature to cut by, SEX or AGEP=25,60; may be repeated."),
    ] = None,
    at: AtControl,
) -> None:
    """Say what each arm's answers were worth, and whether the difference is more than chance.

    Reads hot and cold records that the experiment's own policies routed; who chose a version by
    themselves is left out. Intervals hold however often you look. Where the shares that came are not
    those that were planned, no difference is believed.

    \b
    Examples:
      serving experiment readout census-employment
      serving experiment readout census-employment --by SEX --by AGEP=25,60 --json
      serving experiment readout shop --name price-may --outcome revenue --metric value
    """
    run = last_run(runs_of(at.client(Role.AUDITOR), model), model, name)
    epochs = _epochs(at.client(Role.OPERATOR), run)
    files = LedgerFiles(at.settings())
    with ledger_join(
        files.settings, since_ns=run.since_ns, until_ns=run.until_ns or LAST_NS
    ) as join:
        trial = replace(_trial(join, run, yardstick), epochs=epochs)
        found = _read(join, trial, run, yardstick, by=by or ())
    printed = PrintedReadout(
        run=run,
        outcome=trial.outcome,
        metric=yardstick.metric.value,
        alpha=yardstick.alpha,
        readout=found,
    )
    _testify(files, run, printed)
    at.tell(printed, lambda: _text(printed))


# -- reading ---------------------------------------------------------------------------------------


def _epochs(client: ControlClient, run: ExperimentRun) -> tuple[tuple[int, int], ...] | None:
    """None when the policies of that time are forgotten: then the times of the run decide."""
    path = f"/v1/traffic/{quote(run.model, safe='')}/history"
    told = client.get(path, PolicyEntries).policies
    if not told or told[0].at_ns > run.since_ns:
        return None
    return routed_epochs(run, ((each.epoch, each.policy) for each in told))


def _trial(join: Join, run: ExperimentRun, yardstick: Yardstick) -> Trial:
    known = outcome_of(join, run.model, yardstick.outcome)
    is_scored = yardstick.metric is not Measure.VALUE
    return Trial(
        model=run.model,
        versions=run.versions,
        outcome=known,
        metric=METRICS[yardstick.metric],
        score=score_of(join, run.model, known, yardstick.score) if is_scored else "",
        threshold=yardstick.threshold,
        since_ns=run.since_ns,
        until_ns=run.until_ns or LAST_NS,
        unit=UNITS[run.sticky],
    )


def _read(
    join: Join, trial: Trial, run: ExperimentRun, yardstick: Yardstick, *, by: Iterable[str]
) -> Readout:
    reading = TrialReading(join, trial)
    sticky = 0 if trial.unit == "request" else reading.both_sides()
    better: Better = "higher" if yardstick.metric is Measure.VALUE else "lower"
    design = Design(run.shares, better=better, alpha=yardstick.alpha)
    experiment = Experiment(design, reading.totals(), both_sides=sticky)
    experiment.add(reading.units())
    for text in by:
        feature, cut = _cut(join, run.model, text)
        experiment.add_slices(feature, reading.units(cut))
    found = experiment.readout()
    if run.sticky == "header":
        found = msgspec.structs.replace(found, doubts=(*found.doubts, UNKNOWN_UNIT))
    return found


def _cut(join: Join, model: str, text: str) -> tuple[str, Cut]:
    """`SEX` or `AGEP=25,60`."""
    feature, _, edges = text.partition("=")
    try:
        numbers = tuple(float(each) for each in edges.split(",")) if edges else ()
    except ValueError as error:
        raise ParameterInvalid(f"--by {text[:80]!r} is not FEATURE=EDGE,EDGE") from error
    if list(numbers) != sorted(set(numbers)):
        raise ParameterInvalid(f"--by {text[:80]!r}: edges must ascend")
    return feature, Cut(input_of(join, model, feature), numbers)


def _testify(files: LedgerFiles, run: ExperimentRun, printed: PrintedReadout) -> None:
    """Who looked at what, and what it said: an event, as every look may end an experiment."""
    leads = {each.version: each.leads for each in printed.readout.contrasts}
    facts = {"experiment": run.name, "since_ns": run.since_ns, "leads": leads}
    facts |= {"metric": printed.metric, "doubts": list(printed.readout.doubts)}
    event = Event(
        EventName.EXPERIMENT_READ,
        f"os:{getpass.getuser()}",
        f"model:{run.model}",
        after=facts,
        source="cli",
    )
    Spool(files.directory.audit).add(event, at_ns=SystemClock().wall_ns())


# -- printing --------------------------------------------------------------------------------------


def _text(printed: PrintedReadout) -> str:
    run, found = printed.run, printed.readout
    arms = (
        "ARM", "SHARE", "UNITS", "REQUESTS", "FAILED", "OUTCOMES", "MEAN", "INTERVAL", "P50", "P99",
    )  # fmt: skip
    heads = ("COMPARED", "SLICE", "UNITS", "DIFFERENCE", "INTERVAL", "E-VALUE")
    rows = [_figure_row(each, figure) for each in found.contrasts for figure in each.figures]
    ratio = found.sample_ratio
    lines = [
        f"experiment {run.name} of {run.model}, sticky by {run.sticky}; "
        f"{printed.metric} of {printed.outcome}",
        table(arms, [_arm_row(each) for each in found.arms]),
        "",
        table(heads, rows),
        "",
        f"sample ratio: {ratio.status}, e-value {ratio.e_value:.3g}",
        *(f"DO NOT BELIEVE THIS: {doubt}" for doubt in found.doubts),
        *(_conclusion(each, found, printed.alpha) for each in found.contrasts),
    ]
    return "\n".join(lines)


def _conclusion(contrast: Contrast, found: Readout, alpha: float) -> str:
    stable = found.arms[0].version
    if contrast.leads:
        return f"{contrast.leads} is better than {_other(contrast, stable)} (error rate {alpha:g})"
    return f"{contrast.version} against {stable}: no difference is shown"


def _other(contrast: Contrast, stable: str) -> str:
    return stable if contrast.leads == contrast.version else contrast.version


def _arm_row(arm: ArmSummary) -> tuple[str, ...]:
    return (
        arm.version,
        percent(arm.share),
        str(arm.units),
        str(arm.requests),
        str(arm.failed),
        str(arm.labelled),
        number(arm.mean),
        interval(arm.low, arm.high),
        milliseconds(arm.p50_ms),
        milliseconds(arm.p99_ms),
    )


def _figure_row(contrast: Contrast, figure: Figure) -> tuple[str, ...]:
    return (
        f"{contrast.version}: {figure.name.replace('_', ' ')}",
        "" if figure.slice == ALL else figure.slice,
        str(figure.n),
        number(figure.estimate),
        interval(figure.low, figure.high),
        f"{figure.e_value:.3g}",
    )


def number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4f}"


def interval(low: float | None, high: float | None) -> str:
    return NOTHING if low is None or high is None else f"{low:.4f} to {high:.4f}"


def milliseconds(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f} ms"
