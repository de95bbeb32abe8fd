"""Results of cases without measuring any."""

from loadtests.cases import Case, Side
from loadtests.windows import CaseResult, Repetition, Window

ONE_SIDE = (Side("product", "M1", "json", 64),)
TWO_SIDES = (*ONE_SIDE, Side("log-off", "M1", "json", 64))


def a_window(
    rate_per_s: float, *, p50_ms: float = 1.0, cpu_s: float = 1.0, errors: int = 0
) -> Window:
    """Two seconds at that rate."""
    return Window(
        requests=round(2 * rate_per_s),
        seconds=2.0,
        p50_ms=p50_ms,
        p90_ms=2 * p50_ms,
        p99_ms=3 * p50_ms,
        p999_ms=4 * p50_ms,
        max_ms=5 * p50_ms,
        cpu_s=cpu_s,
        generator_cpu_s=0.5,
        errors=errors,
    )


def a_result(name: str, *repetitions: tuple[Window, ...], drift: float = 0.0) -> CaseResult:
    """Each repetition: a window for each side."""
    sides = TWO_SIDES if len(repetitions[0]) > 1 else ONE_SIDE
    kept = tuple(
        Repetition(windows, drift=drift, steal=0.0, others=0.05) for windows in repetitions
    )
    return CaseResult(Case(name, sides), kept, dropped=0)
