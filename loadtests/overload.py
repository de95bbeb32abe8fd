"""The open-loop cases: latency at fixed loads, goodput, and twice the capacity.

    python -m loadtests.overload                     all of them, a quarter of an hour
    python -m loadtests.overload --quick             seconds instead of minutes: for CI, not for reporting
    python -m loadtests.overload --only 'overload-*' --seconds 20

    latency-m1        M1, one-row JSON, at 25, 50, 75 and 90 % of the rate that wrk reaches
    goodput-...       the highest rate at which 99 of 100 requests are answered within the objective,
                      found by bisection, over the limit: what wrk reaches for M1, the best raw
                      throughput for M2, what is known for the fixed capacity
    overload-fixed    half the capacity, then twice as much as there is, half again, and 16 times:
                      what the last one costs more than the second one is the cost of refusing

`fixed` is `loadtests.fixed_capacity`: the product before a model of 400 rows a second. A request is
timed from the moment it was due (`loadtests.openloop`). Exit status as for `loadtests.benchmark`.
"""

import argparse
import fnmatch
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from loadtests import facts, wrk
from loadtests.cases import MODELS
from loadtests.ceilings import RawModel, artifact_of, best_of
from loadtests.children import ChildFailed
from loadtests.fixed_capacity import CAPACITY_PER_S, OBJECTIVE_MS
from loadtests.goals import Figures, conclusion, judge, save
from loadtests.openloop import OpenLoad, OpenOutcome, Step, run
from loadtests.report import RESULTS, private_folder, tell
from loadtests.targets import Target, fixed_target, product_target
from loadtests.watching import Watch

SLO_MS: Final = 50.0
SHARES: Final = (0.25, 0.5, 0.75, 0.9)
BISECTIONS: Final = 6
ENOUGH: Final = 0.99
"""Of all requests: must be answered within the objective for a rate to count."""
CONNECTIONS: Final = 256
MISSED, IMPOSSIBLE = 1, 2


class Bench:
    """Where the cases run: a folder, and how long their steps are."""

    def __init__(self, folder: Path, *, seconds: float) -> None:
        self._folder = folder
        self._seconds = seconds

    def latency_m1(self) -> Figures:
        """Case 7. The peak is that of the closed loop, in the same run."""
        figures = Figures("latency-m1")
        with product_target("M1", self._folder) as target:
            peak_per_s = self._closed_peak(target)
            figures.add("peak req/s", peak_per_s)
            for share in SHARES:
                outcome = self._load(target, share * peak_per_s)
                figures.add(f"p99 ms at {share:.0%}", outcome.quantile_ms(0.99))
                figures.add(f"generator late ms at {share:.0%}", outcome.late_p99_ms)
        return figures

    def goodput_m1(self) -> Figures:
        with product_target("M1", self._folder) as target:
            return self._goodput("goodput-m1", target, self._closed_peak(target), SLO_MS)

    def goodput_m2(self) -> Figures:
        raw = RawModel(artifact_of(MODELS["M2"]))
        limit_per_s = best_of(raw.sweep(seconds=self._seconds * 0.05)).rows_per_s
        with product_target("M2", self._folder) as target:
            return self._goodput("goodput-m2", target, limit_per_s, SLO_MS)

    def goodput_fixed(self) -> Figures:
        with fixed_target(self._folder) as target:
            return self._goodput("goodput-fixed", target, CAPACITY_PER_S, OBJECTIVE_MS)

    def overload_fixed(self) -> Figures:
        """Case 9: steps of the same length, before, over and after, and far over."""
        s = self._seconds
        steps = [Step(CAPACITY_PER_S * share, s) for share in (0.5, 2, 0.5, 16)]
        with fixed_target(self._folder) as target, Watch(target.account) as watch:
            outcome = run(self._open(target, steps))
        figures = Figures("overload-fixed")
        before, over, after, far = (outcome.between(i * s, (i + 1) * s) for i in range(len(steps)))
        good = over.within(OBJECTIVE_MS / 1000) / s
        more_s = watch.cpu_s(3 * s, 4 * s) - watch.cpu_s(s, 2 * s)
        more = len(far.refused.due_s) - len(over.refused.due_s)
        figures.add("goodput over capacity", good / CAPACITY_PER_S)
        far_good = far.within(OBJECTIVE_MS / 1000) / s
        figures.add("goodput at 16 times", far_good / CAPACITY_PER_S)
        figures.add("accepted p99 ms", over.accepted.quantile_ms(0.99))
        figures.add("refused", len(over.refused.due_s))
        figures.add("refusal p99 ms", over.refused.quantile_ms(0.99))
        figures.add("CPU us per refusal", 1e6 * more_s / max(more, 1))
        figures.add("p99 ms before", before.quantile_ms(0.99))
        figures.add("p99 ms from 1 s after", after.between(2 * s + 1, 3 * s).quantile_ms(0.99))
        figures.add("normal again after s", _recovery_s(after, start_s=2 * s))
        figures.add("unanswered", outcome.unanswered)
        figures.add("RSS growth MiB", watch.growth_bytes / 2**20)
        figures.add("generator late ms", outcome.late_p99_ms)
        return figures

    def _goodput(self, name: str, target: Target, limit_per_s: float, slo_ms: float) -> Figures:
        """Case 8: bisection between nothing and a fifth more than the limit."""
        low, high = 0.0, 1.2 * limit_per_s
        for _ in range(BISECTIONS):
            rate = (low + high) / 2
            outcome = self._load(target, rate)
            kept = outcome.within(slo_ms / 1000) >= ENOUGH * len(outcome.due_s)
            tell(f"{name}: {rate:,.0f} req/s {'kept' if kept else 'missed'}")
            low, high = (rate, high) if kept else (low, rate)
        usual = self._load(target, 0.8 * low)
        figures = Figures(name)
        figures.add("limit req/s", limit_per_s)
        figures.add("goodput req/s", low)
        figures.add("goodput over limit", low / limit_per_s)
        figures.add(
            "within objective at 80 %", usual.within(slo_ms / 1000) / max(len(usual.due_s), 1)
        )
        figures.add("generator late ms", usual.late_p99_ms)
        return figures

    def _load(self, target: Target, rate_per_s: float) -> OpenOutcome:
        return run(self._open(target, [Step(rate_per_s, self._seconds)]))

    def _open(self, target: Target, steps: Sequence[Step]) -> OpenLoad:
        return OpenLoad(target.host, target.port, [target.request], steps, CONNECTIONS)

    def _closed_peak(self, target: Target) -> float:
        outcome = wrk.run(target.closed_load(64), seconds=self._seconds, folder=self._folder)
        return outcome.requests / outcome.seconds


def _recovery_s(after: OpenOutcome, *, start_s: float) -> float:
    """When the last request was due that was not answered within the objective; 0 for none."""
    late = after.due_s[(after.status != 200) | (after.took_s > OBJECTIVE_MS / 1000)]  # noqa: PLR2004
    return float(late.max()) - start_s if len(late) else 0.0


CASES: Final[dict[str, Callable[[Bench], Figures]]] = {
    "latency-m1": Bench.latency_m1,
    "goodput-m1": Bench.goodput_m1,
    "goodput-m2": Bench.goodput_m2,
    "goodput-fixed": Bench.goodput_fixed,
    "overload-fixed": Bench.overload_fixed,
}


def main() -> int:
    options = _parse()
    names = _choose(options.only)
    seconds = options.seconds or (2.0 if options.quick else 60.0)
    measured = []
    known = facts.all_facts()
    try:
        with private_folder() as folder:
            bench = Bench(folder, seconds=seconds)
            for name in names:
                measured.append(CASES[name](bench))
                tell(measured[-1].as_text())
    except (ChildFailed, wrk.WrkFailed, OSError) as error:
        tell(f"could not measure: {error}")
        return IMPOSSIBLE
    verdicts = judge(measured)
    path = save(known, measured, verdicts, folder=RESULTS)
    sys.stdout.write("\n".join(each.as_text() for each in measured) + "\n")
    tell(f"{conclusion(verdicts)}\nwritten to {path}")
    return MISSED if any(each.missed for each in verdicts) else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="steps of 2 s")
    parser.add_argument("--seconds", type=float, help="of a step (default 60)")
    parser.add_argument("--only", nargs="+", metavar="CASE", help="names or patterns of cases")
    return parser.parse_args()


def _choose(patterns: Sequence[str] | None) -> list[str]:
    """The cases that were asked for. Raises SystemExit for a pattern that fits none."""
    for pattern in patterns or ():
        if not fnmatch.filter(CASES, pattern):
            tell(f"no case {pattern!r}; there are: {', '.join(CASES)}")
            raise SystemExit(IMPOSSIBLE)
    return [n for n in CASES if patterns is None or any(fnmatch.fnmatch(n, p) for p in patterns)]


if __name__ == "__main__":
    sys.exit(main())
