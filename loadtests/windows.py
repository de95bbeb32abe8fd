"""Windows of measurement, and which of them to believe.

A repetition measures every side of a case once, in random order, each between two runs of a fixed
spin loop. When the two differ by more than 3 %, or the hypervisor took more than 1 % of the time, a
neighbour had the machine: the whole repetition is dropped and tried again. After some attempts the
last one is kept, and marked, because a figure with a warning is worth more than none.

A neighbour that stays the whole time escapes the loop, so each repetition also tells what share of
the machine others used: everything but the server and the generator, kernel threads and idle servers
of the same case included.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from loadtests.cases import Case, Side
from loadtests.cpu import TICKS_PER_S
from serving.core.clock import SystemClock

MAX_DRIFT: Final = 0.03
MAX_STEAL: Final = 0.01
SPINS: Final = 7
SPIN_LOOPS: Final = 300_000
_USED_FIELDS: Final = slice(3)
"""user, nice, system; interrupts are nobody's."""
_STEAL_FIELD: Final = 7
_CPU_FIELDS: Final = 8
"""Of the first line of /proc/stat: user to steal; guest time is in user already."""

_clock: Final = SystemClock()


@dataclass(frozen=True, slots=True)
class Window:
    """One side measured once. cpu_s: of the server's tree; generator_cpu_s: of wrk."""

    requests: int
    seconds: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    cpu_s: float
    generator_cpu_s: float
    errors: int

    @property
    def rate_per_s(self) -> float:
        return self.requests / self.seconds

    @property
    def cpu_s_per_1000(self) -> float:
        return 1000 * self.cpu_s / self.requests if self.requests else float("nan")


@dataclass(frozen=True, slots=True)
class Repetition:
    """windows: in the order of the case's sides. drift, steal, others: shares, the worst of them."""

    windows: tuple[Window, ...]
    drift: float
    steal: float
    others: float

    @property
    def disturbed(self) -> bool:
        return self.drift > MAX_DRIFT or self.steal > MAX_STEAL


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What was kept of a case, and how many repetitions were dropped."""

    case: Case
    repetitions: tuple[Repetition, ...]
    dropped: int

    @property
    def disturbed(self) -> int:
        """Repetitions kept although a neighbour had the machine."""
        return sum(repetition.disturbed for repetition in self.repetitions)


@dataclass(frozen=True, slots=True)
class Plan:
    """How often and how long each side of a case is measured. attempts: at each repetition."""

    repetitions: int
    attempts: int
    seconds: float
    warm_up_s: float


class Subject(Protocol):
    """Something that can be measured."""

    def check(self, side: Side) -> None:
        """Raises WrongAnswer."""

    def measure(self, side: Side, *, seconds: float) -> Window: ...


def measure_case(case: Case, subjects: Sequence[Subject], *, plan: Plan) -> CaseResult:
    """Checks an answer of each side, warms it up, then repeats. subjects: one for each side."""
    for side, subject in zip(case.sides, subjects, strict=True):
        subject.check(side)
        subject.measure(side, seconds=plan.warm_up_s)
    order = np.random.default_rng(seed=len(case.name))
    kept: list[Repetition] = []
    dropped = 0
    for _ in range(plan.repetitions):
        for attempt in range(plan.attempts):
            shuffled = [int(index) for index in order.permutation(len(case.sides))]
            repetition = _repeat(case, subjects, shuffled, seconds=plan.seconds)
            if not repetition.disturbed or attempt == plan.attempts - 1:
                kept.append(repetition)
                break
            dropped += 1
    return CaseResult(case, tuple(kept), dropped)


def _repeat(
    case: Case, subjects: Sequence[Subject], order: Sequence[int], *, seconds: float
) -> Repetition:
    windows: dict[int, Window] = {}
    drifts, steals, others = [], [], []
    for index in order:
        spin_ms, times = _spin_ms(), _cpu_times()
        window = windows[index] = subjects[index].measure(case.sides[index], seconds=seconds)
        spent = [late - early for early, late in zip(times, _cpu_times(), strict=True)]
        steals.append(spent[_STEAL_FIELD] / max(sum(spent), 1))
        others.append(others_share(spent, own_s=window.cpu_s + window.generator_cpu_s))
        drifts.append(relative_difference(spin_ms, _spin_ms()))
    return Repetition(
        tuple(windows[index] for index in range(len(order))),
        drift=max(drifts),
        steal=max(steals),
        others=max(others),
    )


def relative_difference(first: float, second: float) -> float:
    """How far apart two positive numbers are, as a share of the smaller."""
    return abs(first - second) / min(first, second)


def others_share(spent_ticks: Sequence[int], *, own_s: float) -> float:
    """Share of all CPU time that was used, and not by us. spent_ticks: as `/proc/stat` orders them."""
    used_s = sum(spent_ticks[_USED_FIELDS]) / TICKS_PER_S
    return max(used_s - own_s, 0.0) * TICKS_PER_S / max(sum(spent_ticks), 1)


def _spin_ms() -> float:
    """Time of a fixed loop, the best of several: a short interruption is no neighbour."""
    return min(_spin_once_ms() for _ in range(SPINS))


def _spin_once_ms() -> float:
    began_ns = _clock.monotonic_ns()
    for _ in range(SPIN_LOOPS):
        pass
    return (_clock.monotonic_ns() - began_ns) / 1e6


def _cpu_times() -> list[int]:
    """Ticks of all CPUs by kind since the start of the machine."""
    with Path("/proc/stat").open() as lines:
        return [int(field) for field in lines.readline().split()[1 : 1 + _CPU_FIELDS]]
