"""A run as tables for people and as JSON for programs. Absolute goals and ratios stay apart."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from loadtests.ceilings import RunRate, SyncRate, best_of
from loadtests.summaries import CaseSummary, Ratio, SideSummary
from loadtests.thresholds import UNITS, Figure, Kind, Verdict
from loadtests.windows import CaseResult, Plan
from serving.cli.output import table
from serving.core.clock import SystemClock

RESULTS: Final = Path(__file__).resolve().parent / "results"
TITLES: Final[Mapping[Kind, str]] = {
    "absolute": "absolute goals (two cores, load generator included, everything on)",
    "ratio": "ratios (every machine)",
}


@dataclass(frozen=True, slots=True)
class Report:
    """Everything of a run. sweeps: by model. faults: why cases do not count, in words."""

    facts: Mapping[str, Mapping[str, str]]
    plan: Plan
    sweeps: Mapping[str, Sequence[RunRate]]
    sync: SyncRate
    results: Sequence[CaseResult]
    cases: Sequence[CaseSummary]
    verdicts: Sequence[Verdict]
    faults: Sequence[str]

    @property
    def failed(self) -> bool:
        return bool(self.faults) or any(each.missed and each.binding for each in self.verdicts)


def tell(text: str) -> None:
    """Progress, on standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def as_text(report: Report) -> str:
    """The tables."""
    parts = [
        *(_facts(title, facts) for title, facts in report.facts.items()),
        _ceilings(report),
        _cases(report),
        *(_verdicts(kind, report.verdicts) for kind in TITLES),
        *(f"fault: {fault}" for fault in report.faults),
    ]
    return "\n\n".join(parts) + "\n"


def as_json(report: Report) -> bytes:
    """The figures, and the windows that they come from."""
    content: dict[str, Any] = {
        "facts": report.facts,
        "plan": report.plan,
        "ceilings": {
            "raw": {
                model: [
                    {"rows": each.batch_rows, "rows_per_s": each.rows_per_s, "p50_ms": each.p50_ms}
                    for each in sweep
                ]
                for model, sweep in report.sweeps.items()
            },
            "sync": report.sync,
        },
        "cases": report.cases,
        "verdicts": [
            {
                "threshold": each.threshold,
                "kind": each.threshold.kind,
                "measured": each.measured,
                "state": each.state,
                "distance": each.distance,
                "binding": each.binding,
            }
            for each in report.verdicts
        ],
        "faults": report.faults,
        "failed": report.failed,
        "windows": report.results,
    }
    return msgspec.json.format(msgspec.json.encode(content)) + b"\n"


@contextmanager
def private_folder(needed_bytes: int = 0) -> Iterator[Path]:
    """A throw-away folder beside the results, which are on a disk where /tmp may be memory. Its name
    tells whose process it is.

    Raises OSError when there is less room than `needed_bytes`.
    """
    RESULTS.mkdir(exist_ok=True)
    free_bytes = shutil.disk_usage(RESULTS).free
    if free_bytes < needed_bytes:
        raise OSError(f"{RESULTS} has {free_bytes:,} bytes free; the log may need {needed_bytes:,}")
    folder = Path(tempfile.mkdtemp(prefix=f"run-{os.getpid()}-", dir=RESULTS))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def save(report: Report, *, folder: Path = RESULTS) -> Path:
    """Writes the JSON to a file named after the time, UTC."""
    folder.mkdir(exist_ok=True)
    now = datetime.fromtimestamp(SystemClock().wall_ns() / 1e9, tz=UTC)
    path = folder / f"{now:%Y%m%dT%H%M%SZ}.json"
    path.write_bytes(as_json(report))
    return path


def conclusion(report: Report) -> str:
    """What was missed and by how much, the two kinds apart; for the end and for the exit status."""
    lines = []
    for kind, title in TITLES.items():
        verdicts = [each for each in report.verdicts if each.threshold.kind == kind]
        measured = [each for each in verdicts if each.measured is not None]
        missed = [each for each in measured if each.missed]
        lines.append(f"{title}: {len(missed)} missed, {len(measured) - len(missed)} kept")
        lines += [f"  {_miss(each)}" for each in missed]
        if len(measured) < len(verdicts):
            names = [each.threshold.case for each in verdicts if each.measured is None]
            lines.append(f"  not measured: {', '.join(names)}")
    lines += [f"fault: {fault}" for fault in report.faults]
    return "\n".join([*lines, "FAILED" if report.failed else "passed"])


def _miss(verdict: Verdict) -> str:
    threshold = verdict.threshold
    side = "at most" if threshold.at_most else "at least"
    measured = _number(verdict.measured, threshold.figure)
    bound = _number(threshold.bound, threshold.figure)
    return (
        f"{verdict.state}: {threshold.case} ({threshold.meaning}): {measured}, {side} {bound} "
        f"wanted: {verdict.distance} it"
    )


def _facts(title: str, facts: Mapping[str, str]) -> str:
    heads, *rows = [(f"  {name}", value) for name, value in facts.items()]
    return f"{title}\n" + table(heads, rows)


def _ceilings(report: Report) -> str:
    lines = []
    for model, sweep in report.sweeps.items():
        best = best_of(sweep)
        sizes = ", ".join(f"{each.rows_per_s:,.0f} at {each.batch_rows}" for each in sweep)
        lines.append(f"  raw {model}, rows/s by batch size: {sizes}; best at {best.batch_rows}")
    sync = report.sync
    lines.append(
        f"  append and fdatasync on {sync.file_system}: {sync.syncs_per_s:,.0f}/s, "
        f"p50 {sync.p50_ms:.3f} ms, p99 {sync.p99_ms:.3f} ms"
    )
    return "ceilings\n" + "\n".join(lines)


def _cases(report: Report) -> str:
    heads = ("case", "server", "model", "payload", "c", "req/s", "p50 ms", "p99 ms", "CPU-s/1000")
    rows = [row for case in report.cases for row in _case_rows(case)]
    plan = report.plan
    note = (
        f"{plan.repetitions} repetitions of {plan.seconds:g} s; median, CPU: minimum; "
        "ratio: first line over second, per repetition; others: their share of the machine"
    )
    return f"cases: {note}\n" + table(
        (*heads, "generator", "cores", "ratio", "others", "windows"), rows
    )


def _case_rows(case: CaseSummary) -> list[tuple[str, ...]]:
    windows = f"{case.repetitions} kept, {case.dropped} dropped"
    if case.disturbed:
        windows += f", {case.disturbed} DISTURBED"
    first, *others = [_side_cells(side) for side in case.sides]
    return [
        (case.name, *first, _ratio(case.ratio), f"{case.others:.0%}", windows),
        *(("", *cells, "", "", "") for cells in others),
    ]


def _side_cells(side: SideSummary) -> tuple[str, ...]:
    asked = side.side
    return (
        asked.server,
        asked.model,
        asked.payload if asked.connections else "-",
        str(asked.connections or "-"),
        f"{side.rate_per_s:,.0f}",
        f"{side.p50_ms:.3f}",
        f"{side.p99_ms:.3f}",
        f"{side.cpu_s_per_1000:.4f}",
        f"{side.generator_cpu_s_per_1000:.4f}",
        f"{side.cores:.2f}",
    )


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return ""
    if ratio.low is None or ratio.high is None:
        return f"{ratio.value:.3g}"
    return f"{ratio.value:.3g} [{ratio.low:.3g}, {ratio.high:.3g}]"


def _verdicts(kind: Kind, verdicts: Sequence[Verdict]) -> str:
    rows = [
        (
            each.threshold.case,
            each.threshold.meaning,
            f"{'<=' if each.threshold.at_most else '>='} "
            f"{_number(each.threshold.bound, each.threshold.figure)}",
            _number(each.measured, each.threshold.figure),
            each.distance,
            each.state,
        )
        for each in verdicts
        if each.threshold.kind == kind
    ]
    return f"{TITLES[kind]}\n" + table(
        ("case", "what", "goal", "measured", "distance", "state"), rows
    )


def _number(value: float | None, figure: Figure) -> str:
    if value is None:
        return "-"
    text = f"{value:,.0f}" if figure == "rate_per_s" else f"{value:.3g}"
    return f"{text} {UNITS[figure]}".rstrip()
