"""The benchmark: ceilings, the product with everything on, and a plain Ray Serve application.

    python -m loadtests.benchmark             all cases; 20 minutes of windows, more when some are dropped
    python -m loadtests.benchmark --quick     one window of 2 s each: for CI, not for reporting
    python -m loadtests.benchmark --only 'm1-json-*' m2-binary-c128

Needs wrk and an otherwise idle machine. Tables (with --json: JSON) go to standard output, progress
and the conclusion to standard error, the JSON with every window to loadtests/results/ as well.

Exit status: 0 when every binding goal that was measured was kept; 1 when one was missed, an answer
was wrong or a request failed; 2 when it could not be measured. Goals are in `thresholds`: ratios
bind everywhere, absolute ones where there are two cores, unless --ratios-only says that this is not
a machine to judge them on.
"""

import argparse
import fnmatch
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Final, NoReturn

from loadtests import facts, report, thresholds, wrk
from loadtests.cases import CASES, MODELS, PEER_CASES, Case
from loadtests.ceilings import RawModel, artifact_of, best_of, sync_rate
from loadtests.children import ChildFailed
from loadtests.lab import Lab
from loadtests.payloads import WrongAnswer
from loadtests.report import Report, private_folder, tell
from loadtests.summaries import CaseSummary, summarise
from loadtests.windows import CaseResult, Plan, measure_case

FULL: Final = Plan(repetitions=5, attempts=4, seconds=8, warm_up_s=2)
QUICK: Final = Plan(repetitions=1, attempts=2, seconds=2, warm_up_s=1)
SWEEP_SHARE: Final = 0.05
"""Seconds of a sweep's pass per batch size, as a share of a window's."""
LOGGED_BYTES_PER_S: Final = 30_000_000
SPARE_BYTES: Final = 2_000_000_000
MISSED, IMPOSSIBLE = 1, 2


def main() -> int:
    options = _parse()
    plan = _plan(options)
    cases = _choose(options.only, skip_peer=options.skip_peer)
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _interrupted)
    try:
        done = run(cases, plan, absolute_binds=_absolute_binds(options.ratios_only))
    except (ChildFailed, wrk.WrkFailed, OSError) as error:
        tell(f"could not measure: {error}")
        return IMPOSSIBLE
    path = report.save(done)
    sys.stdout.write(report.as_json(done).decode() if options.json else report.as_text(done))
    tell(f"{report.conclusion(done)}\nwritten to {path}")
    return MISSED if done.failed else 0


def run(cases: Sequence[Case], plan: Plan, *, absolute_binds: bool) -> Report:
    """Measures the cases in their order. Raises ChildFailed, WrkFailed or OSError when it cannot."""
    known = facts.all_facts()
    models = {name: RawModel(artifact_of(model)) for name, model in MODELS.items()}
    with private_folder(_log_bytes(cases, plan)) as folder:
        tell("measuring the ceilings")
        sync = sync_rate(folder, seconds=plan.seconds)
        sweep_s = plan.seconds * SWEEP_SHARE
        sweeps = {name: model.sweep(seconds=sweep_s) for name, model in models.items()}
        best = {name: best_of(sweep).batch_rows for name, sweep in sweeps.items()}
        lab = Lab(folder, models=models, batch_rows=best)
        with lab:
            results, faults = _measure(cases, lab, plan)
    summaries = [summarise(result) for result in results]
    return Report(
        facts=known,
        plan=plan,
        sweeps=sweeps,
        sync=sync,
        results=results,
        cases=summaries,
        verdicts=thresholds.evaluate(summaries, absolute_binds=absolute_binds),
        faults=[*faults, *lab.faults, *_failed_requests(summaries)],
    )


def _measure(cases: Sequence[Case], lab: Lab, plan: Plan) -> tuple[list[CaseResult], list[str]]:
    """Results, and the faults of cases that have none.

    A wrong answer costs its case; a server that does not start, or a generator that does not run,
    ends the run with what there is, and is raised when there is nothing.
    """
    results: list[CaseResult] = []
    faults = []
    for case in cases:
        try:
            result = measure_case(case, lab.subjects(case), plan=plan)
        except WrongAnswer as error:
            faults.append(f"{case.name}: {error}")
            tell(faults[-1])
        except (ChildFailed, wrk.WrkFailed) as error:
            if not results:
                raise
            return results, [*faults, f"{case.name} and what came after: {error}"]
        else:
            results.append(result)
            tell(_progress(summarise(result)))
    return results, faults


def _failed_requests(cases: Sequence[CaseSummary]) -> Iterator[str]:
    for case in cases:
        for each in case.sides:
            if each.errors:
                yield f"{case.name}: {each.errors} requests to {each.side.server} failed"


def _progress(case: CaseSummary) -> str:
    sides = "; ".join(
        f"{each.side.server} {each.rate_per_s:,.0f} req/s, p50 {each.p50_ms:.3f} ms"
        for each in case.sides
    )
    return f"{case.name}: {sides}"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one window of 2 s for each side")
    parser.add_argument("--windows", type=int, help=f"repetitions (default {FULL.repetitions})")
    parser.add_argument("--seconds", type=float, help=f"of a window (default {FULL.seconds:g})")
    parser.add_argument("--only", nargs="+", metavar="CASE", help="names or patterns of cases")
    parser.add_argument("--skip-peer", action="store_true", help="without plain Ray Serve")
    parser.add_argument("--ratios-only", action="store_true", help="absolute goals do not bind")
    parser.add_argument("--json", action="store_true", help="JSON on standard output")
    return parser.parse_args()


def _plan(options: argparse.Namespace) -> Plan:
    usual = QUICK if options.quick else FULL
    return Plan(
        repetitions=max(options.windows or usual.repetitions, 1),
        attempts=usual.attempts,
        seconds=max(options.seconds or usual.seconds, 1),
        warm_up_s=usual.warm_up_s,
    )


def _choose(patterns: Sequence[str] | None, *, skip_peer: bool) -> list[Case]:
    """The cases that were asked for. Raises SystemExit for a pattern that fits none."""
    cases = [case for case in CASES if not (skip_peer and case.name in PEER_CASES)]
    if patterns is None:
        return cases
    names = [case.name for case in cases]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            tell(f"no case {pattern!r}; there are: {', '.join(names)}")
            raise SystemExit(IMPOSSIBLE)
    return [case for case in cases if any(fnmatch.fnmatch(case.name, each) for each in patterns)]


def _absolute_binds(ratios_only: bool) -> bool:  # noqa: FBT001 - a command line's own switch
    return not ratios_only and facts.usable_cores() == thresholds.REFERENCE_CORES


def _log_bytes(cases: Sequence[Case], plan: Plan) -> int:
    """Room that the prediction logs of these cases may take."""
    sides = sum(len(case.sides) for case in cases)
    loaded_s = plan.repetitions * plan.seconds + plan.warm_up_s
    return round(sides * loaded_s * LOGGED_BYTES_PER_S) + SPARE_BYTES


def _interrupted(*_: object) -> NoReturn:
    """Ctrl-C and SIGTERM leave through every context, so that every server is ended."""
    raise SystemExit(IMPOSSIBLE)


if __name__ == "__main__":
    sys.exit(main())
